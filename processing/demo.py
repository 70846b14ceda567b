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
from transformers.utils import logging

from .vocoders import (
    FFT_SIZE,
    HOP,
    compute_stft,
    interpolate_frames,
    invert_stft,
    randomize_phases,
    vocode_by_lpc,
)


logger = logging.get_logger(__name__)

VERSION = 2  # and seed: to be raised with every change of the sound
SAMPLE_RATE = 16_000
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
        signal = ATTACKS[attack](signal, SAMPLE_RATE, rng) if index % 2 else signal
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
    harmonic, noise, pitch = (interpolate_frames(track, length) for track in tracks[:3])
    cycles = np.cumsum(pitch) / SAMPLE_RATE
    shimmer, jitter = (np.interp(cycles, np.arange(3000), rng.normal(0, d, 3000)) for d in (0.06, 0.006))
    wave = np.exp(2j * np.pi * (cycles + jitter) - pitch / brightness)
    hiss = (1 + harmonic * wave.real) * np.diff(rng.normal(size=length + 1))
    spectrum = compute_stft(
        harmonic * (1 + shimmer) * (wave / (1 - wave)).real + noise * hiss
    )  # sum of wave^k
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(FFT_SIZE))[:, None]  # z^-1
    for formant, width in zip(tracks[3:10], tracks[10:], strict=True):
        pole = np.exp(np.pi * (2j * formant - width) / SAMPLE_RATE)
        spectrum *= abs(1 - pole) ** 2 / (1 - 2 * pole.real * delay + abs(pole) ** 2 * delay**2)
    return invert_stft(spectrum, length)


def transmit(signal: np.ndarray, rng: Rng) -> np.ndarray:
    """The channel that both classes pass: 80 Hz high-pass, noise floor, polarity and level -> int16."""
    signal = np.fft.irfft(np.fft.rfft(signal) * (np.fft.rfftfreq(len(signal), 1 / SAMPLE_RATE) > 80))
    signal += signal.std() * 10 ** rng.uniform(-2.5, -1.75) * rng.normal(size=len(signal))
    gain = min(10 ** rng.uniform(-1.5, -1.2) / signal.std(), 0.98 / abs(signal).max())
    return np.round(rng.choice([-1, 1]) * 32767 * gain * signal).astype(np.int16)


ATTACKS = {
    "D01": vocode_by_lpc,
    "D02": randomize_phases,
    "D03": partial(randomize_phases, mel_bands=40, rounds=16),
}
