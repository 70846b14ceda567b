"""
Vocoders, of copy-synthesis and of the demo corpus: each analyses a recording and makes it again from what it
has kept of it.

A vocoder is called with a waveform (num_samples,), float64, its rate in Hz and a generator of random numbers,
and returns the copy (num_samples,), which may be a little shorter.
"""

import importlib
import pkgutil
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import MelSpectrogram

from .near_names import suggest
from .onnx_model import open_session


Vocoder = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

FFT_SIZE, WINDOW, HOP = 1024, 512, 128  # samples
HANN = np.hanning(WINDOW + 1)[:-1]


def vocode_by_lpc(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """
    Linear prediction of order 2 + rate / 1 kHz (Atal and Hanauer, 1971), each window driven by pulses where
    it is periodic (80 to 400 Hz), by noise elsewhere.
    """
    correlation = np.fft.irfft(abs(compute_stft(waveform)) ** 2, axis=0)  # (lags, frames)
    correlation[0] = 1.0001 * correlation[0] + 1e-9  # so that pauses have a solution
    order = 2 + rate // 1000
    lags, past = np.arange(order), correlation[1 : order + 1].T
    predictor = np.linalg.solve(correlation[abs(lags - lags[:, None])].T, past[..., None])[..., 0]
    residual = correlation[0] - np.sum(predictor * past, axis=1)  # energy, (frames,)
    window = np.correlate(HANN, HANN, "full")[WINDOW - 1 :, None]  # (lags, 1)
    shortest, longest = rate // 400, rate // 80  # periods in samples
    # Divided by what the window itself does to it, to a power of less than 1: no octave too low.
    peaks = correlation[shortest:longest] / correlation[0] * (window[0] / window[shortest:longest]) ** 0.8
    cycles = np.cumsum(interpolate_frames(1 / (shortest + peaks.argmax(axis=0)), len(waveform)))
    pulses = np.diff(np.floor(cycles), prepend=0) / np.sqrt(np.gradient(cycles))  # power 1, as the noise
    voiced = interpolate_frames(peaks.max(axis=0), len(waveform)) > 0.5
    spectrum = compute_stft(np.where(voiced, pulses, generator.normal(size=len(waveform))))
    spectrum /= np.fft.rfft(np.pad(-predictor, ((0, 0), (1, 0)), constant_values=1), FFT_SIZE).T
    return invert_stft(spectrum * np.sqrt(residual / window[0]), len(waveform))


def randomize_phases(
    waveform: np.ndarray,
    rate: int,
    generator: np.random.Generator,
    mel_bands: int | None = None,
    rounds: int = 0,
) -> np.ndarray:
    """
    Keeps the magnitudes of the short-time spectrum, or their mel bands alone, draws the phases, then does
    some rounds of the algorithm of Griffin and Lim (1984).
    """
    magnitude = abs(compute_stft(waveform))
    if mel_bands:
        filters = melscale_fbanks(len(magnitude), 0, rate / 2, mel_bands, rate).double().numpy()
        magnitude = (magnitude.T @ filters @ np.linalg.pinv(filters)).T.clip(0)
    spectrum = magnitude * np.exp(2j * np.pi * generator.random(magnitude.shape))
    for _ in range(rounds):
        consistent = compute_stft(invert_stft(spectrum, len(waveform)))
        spectrum = magnitude * consistent / (abs(consistent) + 1e-12)
    return invert_stft(spectrum, len(waveform))


def interpolate_frames(contour: np.ndarray, num_samples: int) -> np.ndarray:
    """A value for each sample, (num_samples,), of one for each frame."""
    return np.interp(np.arange(num_samples) / HOP, np.arange(len(contour)), contour)


def compute_stft(signal: np.ndarray) -> np.ndarray:
    """Short-time spectrum (frequencies, frames) by Hann windows; the first is centred on the first sample."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(signal, WINDOW // 2), WINDOW)[::HOP]
    return np.fft.rfft(frames * HANN, FFT_SIZE).T


def invert_stft(spectrum: np.ndarray, num_samples: int) -> np.ndarray:
    """The signal (num_samples,) whose [`compute_stft`] is nearest to a spectrum, but for its two ends."""
    parts = (np.fft.irfft(spectrum.T)[:, :WINDOW] * HANN).reshape(-1, WINDOW // HOP, HOP)
    overlaps = [np.pad(parts[:, i], ((i, WINDOW // HOP - i), (0, 0))) for i in range(WINDOW // HOP)]
    return sum(overlaps).ravel()[WINDOW // 2 :][:num_samples] / 1.5  # what the squared windows add up to


def vocode_by_world(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """WORLD (Morise et al., 2016): F0 by DIO and StoneMask, envelope by CheapTrick, aperiodicity by D4C."""
    import pyworld

    f0, times = pyworld.dio(waveform, rate)
    f0 = pyworld.stonemask(waveform, f0, times, rate)
    envelope = pyworld.cheaptrick(waveform, f0, times, rate)
    aperiodicity = pyworld.d4c(waveform, f0, times, rate)
    return pyworld.synthesize(f0, envelope, aperiodicity, rate)[: len(waveform)]


def compute_log_mel(waveform: np.ndarray, rate: int, num_bands: int = 80) -> torch.Tensor:
    """
    The log-mel spectrogram of HiFi-GAN (Kong et al., NeurIPS 2020; `meldataset.py`): natural logarithm of the
    amplitude in bands of Slaney's scale and norm up to 8 kHz, windows of 1024 samples, 256 apart.

    Args:
        waveform: (num_samples,).
        rate: in Hz.

    Returns:
        (num_bands, frames), float32.
    """
    signal = torch.as_tensor(waveform, dtype=torch.float32)[None]
    padded = torch.nn.functional.pad(signal, (384, 384), mode="reflect")[0]
    return _make_mel_spectrogram(rate, num_bands)(padded).clamp(min=1e-5).log()


@lru_cache
def _make_mel_spectrogram(rate: int, num_bands: int) -> MelSpectrogram:
    options = {"n_fft": 1024, "hop_length": 256, "power": 1, "center": False}
    bands = {"n_mels": num_bands, "f_max": min(8000, rate / 2), "norm": "slaney", "mel_scale": "slaney"}
    return MelSpectrogram(rate, **options, **bands)


def vocode_by_network(
    waveform: np.ndarray, rate: int, generator: np.random.Generator, *, path: str
) -> np.ndarray:
    """A network in ONNX's format from [`compute_log_mel`], (1, bands, frames), to a waveform, as HiFi-GAN."""
    session = _open_network(path)
    mel_input = session.get_inputs()[0]
    bands = mel_input.shape[1]  # a name where any number will do
    mel = compute_log_mel(waveform, rate, bands if isinstance(bands, int) else 80)[None].numpy()
    return np.ravel(session.run(None, {mel_input.name: mel})[0]).astype(np.float64)


_open_network = lru_cache(open_session)  # once in each process that uses it


VOCODERS: dict[str, Vocoder] = {
    "griffin-lim": partial(randomize_phases, mel_bands=80, rounds=32),
    "world": vocode_by_world,
    "lpc": vocode_by_lpc,
    "phase": randomize_phases,
}


def find_vocoder(name: str) -> Vocoder:
    """
    One of `VOCODERS`, a Python function `module:function`, or a network in a file of ONNX.

    Raises:
        ImportError: a package, the module, the function or the file is not there, or cannot be loaded.
        ValueError: no such vocoder.
    """
    is_network = name.endswith(".onnx")
    try:
        if is_network:
            open_session(name)
        elif name == "world":
            importlib.import_module("pyworld")
        elif ":" in name:
            return pkgutil.resolve_name(name)
    except Exception as error:  # whatever a user's module or onnxruntime raises
        raise ImportError(
            f"The vocoder {name} cannot be loaded: {error}. What world and networks need is installed by "
            'pip install -e ".[synthesis]".'
        ) from error
    if is_network or name in VOCODERS:
        return partial(vocode_by_network, path=name) if is_network else VOCODERS[name]
    raise ValueError(
        f"There is no vocoder {name!r}{suggest(name, VOCODERS)}. There are {', '.join(VOCODERS)}, "
        "and others as module:function or FILE.onnx."
    )
