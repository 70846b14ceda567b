"""Decode one audio file, or part of it, to float32 mono at one sampling rate.

libsndfile (soundfile) reads the formats in which it seeks and counts to the sample; FFmpeg (PyAV) reads all
others, and what libsndfile 1.2.2 refuses: about half of ASVspoof 2021's FLAC files hold blocks whose samples
overflow 16 bits. FFmpeg wraps those; in some files that is not what was encoded (their MD5 differs).
"""

import functools
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile as sf
import torch
import torchaudio
from transformers.utils import logging


logger = logging.get_logger(__name__)

AudioSource = str | Path | bytes | Mapping[str, Any]
Window = Callable[[int], tuple[int, int]]  # rate of the file -> first sample wanted of it, one after the last

# A seek lands on the very sample and the header's length is exact. In lossy formats neither holds.
_EXACT_SUBTYPES = {"PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's count for a FLAC stream that does not state its length
_PLACEHOLDER_BYTES = 0x7FFF0000  # sizes from here on are what writers into a pipe put into the header
_BLOCK_FRAMES = 2**16  # decoded at once, so that of all channels only this much is ever held
_SLACK = 4096  # samples by which a lossy file may fall short of its header: encoder delay and padding


def decode_audio(
    source: AudioSource, *, sampling_rate: int = 16_000, start: int = 0, num_samples: int | None = None
) -> np.ndarray:
    """
    Decode `source`, or the part of it that `start` and `num_samples` name, to mono at `sampling_rate`.

    Channels are mixed down by their mean; other rates are resampled by torchaudio with its defaults, as in
    transformers' audio pipelines. Either is logged once per process. A part has the bits of the same slice of
    the whole. Of WAV, FLAC and their like only the part is decoded, of other formats also what precedes it.

    Args:
        source (`str`, `Path`, `bytes` or `dict`):
            A file, the content of one, or a value of `Audio(decode=False)`, `{"path": ..., "bytes": ...}`, of
            which the bytes win if both are given.
        sampling_rate (`int`, *optional*, defaults to 16000):
            Rate of the result in Hz.
        start (`int`, *optional*, defaults to 0):
            First sample of the part, counted at `sampling_rate`.
        num_samples (`int`, *optional*):
            Length of the part, counted at `sampling_rate`. Without it, the part goes on to the end.

    Returns:
        `np.ndarray` of shape `(n,)`, float32, in [-1, 1]: integers are divided by 2**(bits - 1). A float file
        that exceeds 1 is left as it is. `n` is less than `num_samples` where the file ends.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `start` is negative or beyond the end; `num_samples` or `sampling_rate` is not positive;
            the file can't be decoded, was cut off, has no audio stream, no samples, or NaN or infinite ones.
    """
    if start < 0 or sampling_rate <= 0 or (num_samples is not None and num_samples <= 0):
        raise ValueError(
            "start must not be negative, num_samples and sampling_rate must be positive: got "
            f"start={start}, num_samples={num_samples}, sampling_rate={sampling_rate}."
        )
    stop = sys.maxsize if num_samples is None else start + num_samples
    window = functools.partial(_source_window, sampling_rate=sampling_rate, start=start, stop=stop)

    with _opened(source) as (stream, name):
        blocks, rates = zip(*_blocks(stream, name, window), strict=True)

    samples, rate = np.concatenate(blocks), rates[0]
    first, _ = window(rate)
    stop = min(stop, _resampled_length(first + len(samples), rate, sampling_rate))
    if stop <= start:
        raise ValueError(f"{name} ends before sample {start} at {sampling_rate} Hz. Choose a smaller start.")
    return samples if rate == sampling_rate else _resample(samples, first, rate, sampling_rate, start, stop)


def decode_windows(
    source: AudioSource, *, num_samples: int, hop: int, sampling_rate: int = 16_000
) -> Iterator[tuple[int, np.ndarray]]:
    """
    Decode `source` to overlapping windows, in one pass and in memory that does not grow with its length.

    The windows start at 0, `hop`, `2 * hop`, ... Where the file goes on after the last of them, one more ends
    with the file's last sample. So every sample lies in a window, and the last window's start plus its length
    is the length of the file. A window has the bits of `decode_audio` with its start and `num_samples`.

    Args:
        source (`str`, `Path`, `bytes` or `dict`):
            As for `decode_audio`.
        num_samples (`int`):
            Length of a window, counted at `sampling_rate`.
        hop (`int`):
            Distance between the starts of two windows, counted at `sampling_rate`; at most `num_samples`.
        sampling_rate (`int`, *optional*, defaults to 16000):
            Rate of the result in Hz.

    Yields:
        `tuple[int, np.ndarray]`: first sample of the window, counted at `sampling_rate`, and its samples,
        float32, of shape `(num_samples,)`. A file that is shorter gives one window of its own length.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `hop` is not between 1 and `num_samples`; `sampling_rate` is not positive; or, where the
            decoding comes to it, the file can't be decoded, was cut off, has no audio stream, no samples, or
            NaN or infinite ones.
    """
    if not 0 < hop <= num_samples or sampling_rate <= 0:
        raise ValueError(
            "hop must be positive and at most num_samples (windows further apart leave samples out), "
            "sampling_rate must be positive: got "
            f"num_samples={num_samples}, hop={hop}, sampling_rate={sampling_rate}."
        )
    start, step = 0, 0  # the first window is no step from the beginning, every other one hop from the last
    held = np.empty(0, np.float32)  # the signal from `start` on
    with _opened(source) as (stream, name):
        for block in _resampled_blocks(_blocks(stream, name, lambda rate: (0, sys.maxsize)), sampling_rate):
            held = np.concatenate([held, block])
            while len(held) >= step + num_samples:
                start, held = start + step, held[step:]
                yield start, held[:num_samples].copy()
                step = hop
    if len(held) != num_samples:
        yield start + max(0, len(held) - num_samples), held[-num_samples:].copy()


def count_samples(source: AudioSource, *, sampling_rate: int = 16_000) -> int:
    """
    Length of `decode_audio(source, sampling_rate=sampling_rate)`, in samples.

    Read from the header where that is exact (WAV, FLAC and their like), found by decoding elsewhere. Raises
    what `decode_audio` raises, save for damage that only decoding would find.
    """
    with _opened(source) as (stream, name):
        try:
            with _open_soundfile(stream, name) as sound:
                length, rate = sound.frames, sound.samplerate
        except sf.SoundFileError:
            stream.seek(0)
            length, rate = 0, 0
            for frame in _pyav_frames(stream, name):
                length, rate = length + frame.samples, frame.sample_rate
    return _resampled_length(length, rate, sampling_rate)


@contextmanager
def _opened(source: AudioSource) -> Iterator[tuple[BinaryIO, str]]:
    """The source as a binary stream, and the name that errors give it."""
    if isinstance(source, Mapping):
        content, path = source.get("bytes"), source.get("path")
    else:
        content, path = (source, None) if isinstance(source, bytes) else (None, source)
    if content is not None:
        yield BytesIO(content), str(path or "audio given as bytes")
    elif path is None:
        raise ValueError("The audio has neither a path nor bytes. Give one of them.")
    elif not Path(path).is_file():
        raise FileNotFoundError(f"There is no audio file {path}. Check its folder and name.")
    else:
        with open(path, "rb") as stream:
            yield stream, str(path)


def _open_soundfile(stream: BinaryIO, name: str) -> sf.SoundFile:
    """Opened by libsndfile. Raises `SoundFileError` for what FFmpeg has to read, `ValueError` if cut off."""
    try:
        sound = sf.SoundFile(stream)
    except TypeError as error:  # soundfile takes any name in .raw for a file without a header
        raise sf.SoundFileRuntimeError(str(error)) from error
    if sound.subtype not in _EXACT_SUBTYPES or not 0 < sound.frames < _UNKNOWN_FRAMES:
        raise sf.SoundFileRuntimeError(f"{sound.subtype} with {sound.frames} frames is left to FFmpeg")
    # Of a WAV, AIFF or AU shorter than its header says, libsndfile takes what is there; only its log tells.
    cut = re.search(r"(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", sound.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < _PLACEHOLDER_BYTES:
        raise ValueError(
            f"{name} was cut off: of {cut[1]} bytes of samples {cut[2]} are there. Fetch it again."
        )
    return sound


def _blocks(stream: BinaryIO, name: str, window: Window) -> Iterator[tuple[np.ndarray, int]]:
    """The mono samples inside `window(rate)`, as far as the file goes: one block or more, and their rate."""
    read = 0

    def rest(rate: int) -> tuple[int, int]:
        first, stop = window(rate)
        return first + read, stop

    try:
        for mono, rate in _soundfile_blocks(stream, name, window):
            yield _finite(mono, name), rate
            read += len(mono)
    except sf.SoundFileError:
        # It may have failed far into the file. What both decode, FFmpeg decodes to the same bits: it goes on.
        stream.seek(0)
        for mono, rate in _pyav_blocks(stream, name, rest):
            yield _finite(mono, name), rate


def _finite(samples: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} holds NaN or infinite samples. Export it again, or leave it out.")
    return samples


def _soundfile_blocks(stream: BinaryIO, name: str, window: Window) -> Iterator[tuple[np.ndarray, int]]:
    with _open_soundfile(stream, name) as sound:
        first, stop = (min(edge, sound.frames) for edge in window(sound.samplerate))
        sound.seek(first)
        yield np.empty(0, np.float32), sound.samplerate  # the rate, even if the file ends before the window
        for at in range(first, stop, _BLOCK_FRAMES):
            wanted = min(_BLOCK_FRAMES, stop - at)
            mono = _mono(sound.read(wanted, dtype="float32", always_2d=True))
            if len(mono) < wanted:
                raise sf.SoundFileRuntimeError(f"{wanted - len(mono)} samples are missing")
            yield mono, sound.samplerate


def _pyav_blocks(stream: BinaryIO, name: str, window: Window) -> Iterator[tuple[np.ndarray, int]]:
    """As `_soundfile_blocks`, but what lies before the window is decoded too, and dropped."""
    position, layout, fifo = 0, None, av.AudioFifo()

    def part() -> np.ndarray:
        """What the FIFO holds, of which the last sample is the one before `position`."""
        mono = _mono(_float_pcm(fifo.read())) if fifo.samples else np.empty(0, np.float32)
        begin = position - len(mono)
        return mono[max(0, first - begin) : max(0, stop - begin)]

    for frame in _pyav_frames(stream, name):
        rate = frame.sample_rate
        first, stop = window(rate)
        if layout != (layout := (frame.format.name, frame.layout.name)):  # all that one FIFO takes
            yield part(), rate
            fifo = av.AudioFifo()
        position += frame.samples
        if position > first:
            frame.pts = None  # of which the FIFO would demand that they have no gaps
            fifo.write(frame)
        if position >= stop:
            break
        if fifo.samples >= _BLOCK_FRAMES:  # conversion frame by frame takes longer than decoding
            yield part(), rate
    yield part(), rate


def _pyav_frames(stream: BinaryIO, name: str) -> Iterator[av.AudioFrame]:
    """The file from its beginning, one codec frame at a time, all of one rate."""
    # The header in which an MP3 may state its length: flags, of which the last is "frames", and their number.
    xing = re.search(rb"(?:Xing|Info)\0{3}[\x01\x03\x05\x07\t\x0b\r\x0f](?!\0{4})", stream.read(2**16))
    stream.seek(0)
    position, rate = 0, 0
    try:
        # No protocols: a playlist under an audio file's name must not make FFmpeg open files or addresses.
        with av.open(stream, metadata_errors="ignore", options={"protocol_whitelist": "none"}) as container:
            kind, track = container.format.name, container.streams.best("audio")
            if track is None:
                raise ValueError(f"{name} has no audio stream.")
            if kind == "flac":
                track.codec_context.options = {"err_detect": "crccheck+explode"}
            for frame in container.decode(track):
                if rate not in (0, frame.sample_rate):
                    raise ValueError(f"{name} goes from {rate} to {frame.sample_rate} Hz. Split it there.")
                rate = frame.sample_rate
                # FFmpeg drops a damaged FLAC block silently, but the next block says where it belongs.
                if kind == "flac" and frame.pts != position:
                    raise ValueError(
                        f"{name} is damaged from sample {position} on ({rate} Hz). Fetch it again."
                    )
                position += frame.samples
                yield frame
            # These formats state their length. Elsewhere `duration` is a guess from the bit rate.
            if track.duration and (kind == "flac" or "mp4" in kind or (kind == "mp3" and xing)):
                missing = round(track.duration * track.time_base * rate) - position
                if missing > (0 if kind == "flac" else _SLACK):
                    raise ValueError(f"{name} was cut off: {missing} samples are missing. Fetch it again.")
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{name} can't be decoded as audio ({error.strerror}).") from error
    if position == 0:
        raise ValueError(f"{name} holds no audio samples. Leave it out.")


def _float_pcm(frame: av.AudioFrame) -> np.ndarray:
    """(samples, channels) in float32, scaled as libsndfile scales: FFmpeg aligns 24 bits to the top of 32."""
    pcm = frame.to_ndarray()
    pcm = pcm.T if frame.format.is_planar else pcm.reshape(-1, frame.layout.nb_channels)
    if pcm.dtype.kind == "f":
        return pcm.astype(np.float32, copy=False)
    half = 2 ** (8 * pcm.dtype.itemsize - 1)
    return (pcm.astype(np.float32) - (half if pcm.dtype.kind == "u" else 0)) / half


def _mono(pcm: np.ndarray) -> np.ndarray:
    """(samples, channels) -> (samples,), by columns: numpy's mean along so short an axis is slow."""
    channels = pcm.shape[1]
    if channels == 1:
        return pcm[:, 0]
    logger.warning_once(f"Audio of {channels} channels is mixed down to one by their mean (said once).")
    return sum(pcm.T) / channels


@functools.cache
def _resampler(rate: int, sampling_rate: int) -> torchaudio.transforms.Resample:
    logger.warning(f"Audio at {rate} Hz is resampled to {sampling_rate} Hz (said once).")
    # Computed in float32, the filter has the bits of the one in torchaudio.functional.resample.
    return torchaudio.transforms.Resample(rate, sampling_rate, dtype=torch.float32)


def _resampled_length(length: int, rate: int, sampling_rate: int) -> int:
    return -(-length * sampling_rate // rate)


def _block_sizes(rate: int, sampling_rate: int) -> tuple[int, int, int]:
    """
    Source samples in a block, samples that become of them, source samples that the filter needs beside it.

    Resampling goes in blocks of about 1/2 s at fixed places, so that a part has the bits of the whole: the
    order in which a convolution adds depends on the length of its input.
    """
    if rate == sampling_rate:
        return 1, 1, 0
    step, new_step = (r // math.gcd(rate, sampling_rate) for r in (rate, sampling_rate))
    steps = max(1, sampling_rate // (2 * new_step))
    margin = math.ceil(_resampler(rate, sampling_rate).width / step) * step
    return steps * step, steps * new_step, margin


def _source_window(rate: int, *, sampling_rate: int, start: int, stop: int) -> tuple[int, int]:
    """First source sample that samples `start` to `stop` need, and the one after the last."""
    block, new_block, margin = _block_sizes(rate, sampling_rate)
    return max(0, start // new_block * block - margin), -(-stop // new_block) * block + margin


def _resample(
    samples: np.ndarray, first: int, rate: int, sampling_rate: int, start: int, stop: int
) -> np.ndarray:
    """Samples `start` to `stop` at the new rate, from source samples of which the first is number `first`."""
    block, new_block, margin = _block_sizes(rate, sampling_rate)
    first_block, last_block = start // new_block, -(-stop // new_block)
    left = first - (first_block * block - margin)
    right = last_block * block + margin - (first + len(samples))
    padded = torch.nn.functional.pad(torch.from_numpy(samples), (left, right))
    resample, lead = _resampler(rate, sampling_rate), margin * new_block // block
    rows = padded.unfold(0, block + 2 * margin, block)  # (blocks, margin + block + margin), overlapping
    resampled = torch.cat([resample(row)[lead : lead + new_block] for row in rows])
    return resampled[start - first_block * new_block : stop - first_block * new_block].numpy()


def _resampled_blocks(blocks: Iterator[tuple[np.ndarray, int]], sampling_rate: int) -> Iterator[np.ndarray]:
    """The mono blocks of a whole file at the new rate, holding of the old one only what is still needed."""
    held, first, done = np.empty(0, np.float32), 0, 0  # source samples, number of their first; samples made
    for mono, rate in blocks:
        if rate == sampling_rate:
            yield mono
            continue
        held = np.concatenate([held, mono])
        block, new_block, margin = _block_sizes(rate, sampling_rate)
        stop = (first + len(held) - margin) // block * new_block  # as far as the filter sees no end
        if stop > done:
            yield _resample(held, first, rate, sampling_rate, done, stop)
            needed, _ = _source_window(rate, sampling_rate=sampling_rate, start=stop, stop=stop)
            held, first, done = held[needed - first :], needed, stop
    if len(held):
        stop = _resampled_length(first + len(held), rate, sampling_rate)
        yield _resample(held, first, rate, sampling_rate, done, stop)


__all__ = ["AudioSource", "count_samples", "decode_audio", "decode_windows"]
