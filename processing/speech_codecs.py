"""
Speech as a codec leaves it: encoded and decoded in memory, by the encoders in the wheels of PyAV (FFmpeg) and
of soundfile (libsndfile: Vorbis and GSM, for which PyAV's wheel has no encoder in common use).
"""

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
import soundfile as sf

from .ffmpeg import convert_pcm
from .resampling import resample_array


TAIL_SECONDS = 0.1  # of silence behind the speech, so that its end comes out of the codec: no delay is longer


@dataclass(frozen=True)
class FFmpegCodec:
    """FFmpeg's encoder and decoder, the rate that they run at, in Hz, and the bit rates, in kb/s."""

    encoder: str
    decoder: str
    rate: int
    settings: str
    options: Mapping[str, str] = field(default_factory=dict)  # of the encoder

    def code(self, signal: np.ndarray, setting: str) -> np.ndarray:
        """(num_samples,), float32, to what is decoded, which is delayed, and a little longer or shorter."""
        encoder = av.CodecContext.create(self.encoder, "w")
        encoder.sample_rate, encoder.time_base, encoder.layout = self.rate, Fraction(1, self.rate), "mono"
        encoder.format = "fltp" if "fltp" in [each.name for each in encoder.codec.audio_formats] else "s16"
        encoder.options = {"b": f"{1000 * float(setting):.0f}", **self.options}
        if encoder.format.name == "s16":
            signal = np.clip(np.rint(2**15 * signal), -(2**15), 2**15 - 1).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(signal[None], format=encoder.format.name, layout="mono")
        frame.sample_rate = self.rate
        packets = [*encoder.encode(frame), *encoder.encode(None)]
        decoder = av.CodecContext.create(self.decoder, "r")
        decoder.sample_rate, decoder.layout, decoder.extradata = self.rate, "mono", encoder.extradata
        if self.decoder == "g722":  # at a lower bit rate the last bits of a word are not sent (ITU-T G.722)
            decoder.options = {"bits_per_codeword": f"{float(setting) / 8:.0f}"}
        frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        decoded = np.concatenate([convert_pcm(frame)[:, 0] for frame in frames])
        return resample_array(decoded, frames[0].sample_rate, self.rate)  # Opus is decoded to 48 kHz


@dataclass(frozen=True)
class SoundfileCodec:
    """libsndfile's format and subtype, the rate in Hz, and the qualities, or the bit rate in kb/s."""

    format: str
    subtype: str
    rate: int
    settings: str

    def code(self, signal: np.ndarray, setting: str) -> np.ndarray:
        """As [`FFmpegCodec.code`]."""
        options = {"compression_level": 1 - int(setting[1:]) / 10} if setting.startswith("q") else {}
        file = io.BytesIO()
        sf.write(file, signal, self.rate, format=self.format, subtype=self.subtype, **options)
        file.seek(0)
        return sf.read(file, dtype="float32")[0]


# The bit rates are those of one channel at that rate; Opus, as it is used, takes up to 20 % more for speech.
# Where it can be chosen how hard an encoder tries, it is little (Opus: 2 of 10): the training waits for it.
MP3_RATES = "8 16 24 32 40 48 56 64 80 96 112 128 144 160"
AMR_RATES = "4.75 5.15 5.9 6.7 7.4 7.95 10.2 12.2"
CODECS: dict[str, FFmpegCodec | SoundfileCodec] = {
    "mp3": FFmpegCodec("libmp3lame", "mp3float", 16_000, MP3_RATES, {"compression_level": "7"}),
    "aac": FFmpegCodec("aac", "aac", 16_000, "8 12 16 24 32 48 64", {"aac_coder": "fast"}),
    "opus": FFmpegCodec("libopus", "libopus", 16_000, "6 8 12 16 24 32 48 64 96", {"compression_level": "2"}),
    "vorbis": SoundfileCodec("OGG", "VORBIS", 16_000, "q0 q1 q2 q3 q4 q5 q6 q7 q8 q9 q10"),
    "g722": FFmpegCodec("g722", "g722", 16_000, "48 56 64"),
    "alaw": FFmpegCodec("pcm_alaw", "pcm_alaw", 8000, "64"),
    "mulaw": FFmpegCodec("pcm_mulaw", "pcm_mulaw", 8000, "64"),
    "gsm": SoundfileCodec("WAV", "GSM610", 8000, "13"),
    "amrnb": FFmpegCodec("libopencore_amrnb", "amrnb", 8000, AMR_RATES),
}


@dataclass(frozen=True)
class CodecAugmentation:
    """
    The waveform encoded by one of `codecs`, drawn at random, and decoded again. Its length and its time are
    kept: the codec's delay is measured and taken off.

    Args:
        codecs: each a name and a bit rate in kb/s, "mp3-32" or "amrnb-12.2", or for Vorbis a quality,
            "vorbis-q5"; the name alone where there is one bit rate: "alaw", "mulaw", "gsm". These three and
            AMR-NB run at 8 kHz, as in telephony.

    Raises:
        ValueError: a codec or bit rate that is not in `CODECS`, or that this installation cannot encode.
    """

    codecs: Sequence[str] = (
        *("mp3-16", "mp3-32", "mp3-64", "aac-16", "aac-32", "aac-64", "opus-8", "opus-16", "opus-32"),
        *("vorbis-q0", "vorbis-q5", "g722-48", "g722-64", "alaw", "mulaw", "gsm"),
        *("amrnb-4.75", "amrnb-7.4", "amrnb-12.2"),
    )

    def __post_init__(self):
        if isinstance(self.codecs, str) or not self.codecs:
            raise ValueError(f"codecs {self.codecs!r} is not a list of codecs, such as [mp3-32, alaw].")
        for name in self.codecs:
            measure_delay(name)

    def __call__(self, waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """(num_samples,), float32, at `rate` in Hz; most codecs clip what exceeds 1."""
        name = self.codecs[generator.integers(len(self.codecs))]
        codec, setting = find_codec(name)
        signal = resample_array(waveform, rate, codec.rate)
        coded = codec.code(np.pad(signal, (0, round(TAIL_SECONDS * codec.rate))), setting)
        coded = coded[measure_delay(name) :][: len(signal)]
        return resample_array(coded, codec.rate, rate)[: len(waveform)]


def find_codec(name: str) -> tuple[FFmpegCodec | SoundfileCodec, str]:
    """The codec and the setting that, say, "mp3-32" means. A `ValueError` says what there is instead."""
    kind, _, setting = str(name).partition("-")
    codec = CODECS.get(kind)
    if codec is None:
        raise ValueError(f"There is no codec {name!r}. There are {', '.join(CODECS)}.")
    settings = codec.settings.split()
    if setting not in settings and (setting or len(settings) > 1):
        raise ValueError(f"Codec {name!r}: write one of {', '.join(f'{kind}-{each}' for each in settings)}.")
    return codec, setting or settings[0]


@functools.cache
def measure_delay(name: str) -> int:
    """Samples, at the codec's rate, by which it delays: where noise and what it becomes correlate best."""
    codec, setting = find_codec(name)
    noise = np.random.default_rng(0).normal(0, 0.1, codec.rate).astype(np.float32)
    try:
        coded = codec.code(noise, setting)
    except (ValueError, av.FFmpegError, sf.SoundFileError) as error:
        raise ValueError(
            f"The installed av or soundfile cannot encode {name} ({error}). Take its wheel, or leave it out."
        ) from error
    from scipy.signal import correlate  # takes 0.4 s

    return int(np.argmax(correlate(coded, noise)[len(noise) - 1 :]))
