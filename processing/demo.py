"""The built-in demo corpus: synthetic sounds in the folder layout of ASVspoof 2019 LA, made on first use.

It holds no human voice, and no number measured on it means anything about real speech. "Bona fide" is
harmonic-plus-noise synthesis; the attacks re-synthesise more of the same. Signals: float64, (num_samples,).
"""

import hashlib
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from huggingface_hub.constants import HF_HOME
from torchaudio.functional import melscale_fbanks
from transformers.utils import logging


logger = logging.get_logger(__name__)

VERSION = 2  # and seed: to be raised with every change of the sound
SAMPLE_RATE = 16_000
FFT_SIZE, WINDOW, HOP = 1024, 512, 128  # samples
HANN = np.hanning(WINDOW + 1)[:-1]
Rng = np.random.Generator
Split = tuple[str, range, int, tuple[str, ...]]  # protocol suffix, speakers, utterances, their attacks
SPLITS: dict[str, Split] = {
    "train": ("trn", range(1, 17), 128, ("D01", "D02")),
    "dev": ("trl", range(17, 23), 48, ("D01", "D02")),
    "eval": ("trl", range(23, 33), 60, ("D01", "D02", "D03")),
}


def demo_corpus(cache_dir: Path | None = None, *, splits: dict[str, Split] = SPLITS) -> Path:
    """Returns the root folder in `cache_dir` (default: the Hugging Face cache), making it where absent."""
    parameters = hashlib.sha256(repr(splits).encode()).hexdigest()[:8]
    root = Path(cache_dir or Path(HF_HOME, "antispoofing"), f"demo-{VERSION}-{parameters}")
    if root.is_dir():
        return root
    logger.warning(f"Making the demo corpus in {root}. It is synthetic and tells nothing about real speech.")
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as unfinished:
        for name, split in splits.items():
            _write(Path(unfinished, root.name), name, *split)
        try:
            Path(unfinished, root.name).replace(root)  # so only a whole corpus ever stands there
        except OSError:
            if not root.is_dir():  # otherwise another process was faster, and its corpus is the same
                raise
    return root


def _write(root: Path, name: str, suffix: str, speakers: range, size: int, attacks: tuple[str, ...]) -> None:
    """Writes one split: every second utterance is bona fide, the attacks take turns on the others."""
    protocol = root / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{name}.{suffix}.txt"
    flac = root / f"ASVspoof2019_LA_{name}" / "flac"
    protocol.parent.mkdir(parents=True, exist_ok=True)
    flac.mkdir(parents=True)
    for index in logging.tqdm(range(size), desc=f"Demo corpus, {name}"):
        attack = attacks[index // 2 % len(attacks)] if index % 2 else "-"
        speaker = speakers[index // (2 * len(attacks)) % len(speakers)]
        utterance = f"DEMO_{name[0].upper()}_{index + 1:07d}"
        rng = np.random.default_rng([VERSION, *utterance.encode()])
        signal = synthesise(np.random.default_rng([VERSION, speaker]), rng)
        signal = ATTACKS[attack](signal, rng) if index % 2 else signal
        soundfile.write(flac / f"{utterance}.flac", transmit(signal, rng), SAMPLE_RATE, subtype="PCM_16")
        with protocol.open("a", encoding="utf-8", newline="\n") as lines:
            lines.write(f"DEMO_{speaker:04d} {utterance} - {attack} {'spoof' if index % 2 else 'bonafide'}\n")


def synthesise(voice: Rng, rng: Rng) -> np.ndarray:
    """2 to 6 s of syllables; `voice` draws what stays the same in a speaker, `rng` all else."""
    f0, tract, breath, brightness = voice.uniform([90, 0.9, 0.02, 1000], [240, 1.12, 0.1, 2000])
    length = 2 * int(rng.uniform(1, 3) * SAMPLE_RATE)  # even, for the transform in `transmit`
    targets = []  # a row for each frame: gains of harmonics and noise, f0, 7 formants and their widths in Hz
    while len(targets) < length // HOP + 11:
        voiced, hissing, span = ((1, 0, 33), (0, 1, 17), (0, 0, 33))[rng.choice(3, p=(0.6, 0.25, 0.15))]
        gains = voiced * rng.uniform(0.5, 1), voiced * breath + hissing * rng.uniform(0.1, 0.6)
        formants = 500 * tract * np.arange(1, 15, 2) * (1 + rng.uniform(-1, 1, 7) / 1.7 ** np.arange(1, 8))
        widths = (50 + formants / 25) * np.exp(hissing * rng.uniform(0, 2, 7))
        targets += [[*gains, f0 * rng.uniform(0.8, 1.2), *formants, *widths]] * rng.integers(span // 2, span)
    tracks = np.apply_along_axis(np.convolve, 0, targets, np.hanning(11) / 5, "valid")[: length // HOP + 1].T
    harmonic, noise, pitch = (_per_sample(track, length) for track in tracks[:3])
    cycles = np.cumsum(pitch) / SAMPLE_RATE
    shimmer, jitter = (np.interp(cycles, np.arange(3000), rng.normal(0, d, 3000)) for d in (0.06, 0.006))
    wave = np.exp(2j * np.pi * (cycles + jitter) - pitch / brightness)
    hiss = (1 + harmonic * wave.real) * np.diff(rng.normal(size=length + 1))
    spectrum = _stft(harmonic * (1 + shimmer) * (wave / (1 - wave)).real + noise * hiss)  # sum of wave^k
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(FFT_SIZE))[:, None]  # z^-1
    for formant, width in zip(tracks[3:10], tracks[10:], strict=True):
        pole = np.exp(np.pi * (2j * formant - width) / SAMPLE_RATE)
        spectrum *= abs(1 - pole) ** 2 / (1 - 2 * pole.real * delay + abs(pole) ** 2 * delay**2)
    return _istft(spectrum, length)


def lpc_vocoder(signal: np.ndarray, rng: Rng) -> np.ndarray:
    """Linear prediction of order 18, each frame driven by pulses where periodic, by noise elsewhere."""
    correlation = np.fft.irfft(abs(_stft(signal)) ** 2, axis=0)  # (lags, frames)
    correlation[0] = 1.0001 * correlation[0] + 1e-9  # so that pauses have a solution
    lags, past = np.arange(18), correlation[1:19].T
    predictor = np.linalg.solve(correlation[abs(lags - lags[:, None])].T, past[..., None])[..., 0]
    residual = correlation[0] - np.sum(predictor * past, axis=1)  # energy, (frames,)
    window = np.correlate(HANN, HANN, "full")[WINDOW - 1 :, None]  # (lags, 1)
    periodicity = correlation[40:200] / correlation[0] * (window[0] / window[40:200]) ** 0.8  # 400 to 80 Hz
    cycles = np.cumsum(_per_sample(1 / (40 + periodicity.argmax(axis=0)), len(signal)))
    pulses = np.diff(np.floor(cycles), prepend=0) / np.sqrt(np.gradient(cycles))  # power 1, as the noise
    voiced = _per_sample(periodicity.max(axis=0), len(signal)) > 0.5
    spectrum = _stft(np.where(voiced, pulses, rng.normal(size=len(signal))))
    spectrum /= np.fft.rfft(np.pad(-predictor, ((0, 0), (1, 0)), constant_values=1), FFT_SIZE).T
    return _istft(spectrum * np.sqrt(residual / window[0]), len(signal))


def random_phases(signal: np.ndarray, rng: Rng, mel_bands: int | None = None, rounds: int = 0) -> np.ndarray:
    """Keeps magnitudes or their mel bands alone, draws the phases, then does some rounds of Griffin-Lim."""
    magnitude = abs(_stft(signal))
    if mel_bands:
        filters = melscale_fbanks(len(magnitude), 0, SAMPLE_RATE / 2, mel_bands, SAMPLE_RATE).double().numpy()
        magnitude = (magnitude.T @ filters @ np.linalg.pinv(filters)).T.clip(0)
    spectrum = magnitude * np.exp(2j * np.pi * rng.random(magnitude.shape))
    for _ in range(rounds):
        consistent = _stft(_istft(spectrum, len(signal)))
        spectrum = magnitude * consistent / (abs(consistent) + 1e-12)
    return _istft(spectrum, len(signal))


def transmit(signal: np.ndarray, rng: Rng) -> np.ndarray:
    """The channel that both classes pass: 80 Hz high-pass, noise floor, polarity and level -> int16."""
    signal = np.fft.irfft(np.fft.rfft(signal) * (np.fft.rfftfreq(len(signal), 1 / SAMPLE_RATE) > 80))
    signal += signal.std() * 10 ** rng.uniform(-2.5, -1.75) * rng.normal(size=len(signal))
    gain = min(10 ** rng.uniform(-1.5, -1.2) / signal.std(), 0.98 / abs(signal).max())
    return np.round(rng.choice([-1, 1]) * 32767 * gain * signal).astype(np.int16)


def _per_sample(contour: np.ndarray, num_samples: int) -> np.ndarray:
    return np.interp(np.arange(num_samples) / HOP, np.arange(len(contour)), contour)


def _stft(signal: np.ndarray) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(signal, WINDOW // 2), WINDOW)[::HOP]
    return np.fft.rfft(frames * HANN, FFT_SIZE).T  # (frequencies, frames)


def _istft(spectrum: np.ndarray, num_samples: int) -> np.ndarray:
    parts = (np.fft.irfft(spectrum.T)[:, :WINDOW] * HANN).reshape(-1, WINDOW // HOP, HOP)
    overlaps = [np.pad(parts[:, i], ((i, WINDOW // HOP - i), (0, 0))) for i in range(WINDOW // HOP)]
    return sum(overlaps).ravel()[WINDOW // 2 :][:num_samples] / 1.5  # what the squared windows add up to


ATTACKS = {"D01": lpc_vocoder, "D02": random_phases, "D03": partial(random_phases, mel_bands=40, rounds=16)}
