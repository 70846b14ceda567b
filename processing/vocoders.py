"""
Vocoders for copy-synthesis: each analyses a recording and makes it again from what it has kept of it.

A vocoder is called with a waveform (num_samples,), float64, its rate in Hz and a generator of random numbers,
and returns the copy (num_samples,), which may be a little shorter.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torchaudio.functional import griffinlim, lfilter, melscale_fbanks


Vocoder = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

FFT_SIZE, HOP, MEL_BANDS, MEL_LIMIT = 1024, 256, 80, 8000  # of HiFi-GAN's mel spectrogram; the last in Hz
LOG_FLOOR = 1e-5  # of the amplitude in a band, also HiFi-GAN's


def compute_log_mel(
    waveform: np.ndarray, rate: int, num_bands: int = MEL_BANDS, *, center: bool = False
) -> torch.Tensor:
    """
    The log-mel spectrogram of HiFi-GAN (Kong et al., NeurIPS 2020; `meldataset.py`): natural logarithm of the
    amplitude in bands of Slaney's scale and norm, windows of 1024 samples, 256 apart.

    Args:
        waveform: (num_samples,).
        rate: in Hz.
        center: the first window is centred on the first sample, and not 128 samples behind it as there.

    Returns:
        (num_bands, frames), float32.
    """
    signal = torch.as_tensor(waveform, dtype=torch.float32)[None]
    padding = (FFT_SIZE if center else FFT_SIZE - HOP) // 2
    padded = torch.nn.functional.pad(signal, (padding, padding), mode="reflect")[0]
    window = torch.hann_window(FFT_SIZE)
    spectrum = torch.stft(padded, FFT_SIZE, HOP, window=window, center=False, return_complex=True)
    return (_make_mel_filters(rate, num_bands).T @ spectrum.abs()).clamp(min=LOG_FLOOR).log()


@lru_cache
def _make_mel_filters(rate: int, num_bands: int) -> torch.Tensor:
    """(frequencies, num_bands)"""
    limit = min(MEL_LIMIT, rate / 2)
    return melscale_fbanks(FFT_SIZE // 2 + 1, 0.0, limit, num_bands, rate, "slaney", "slaney")


def vocode_by_griffin_lim(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """
    From the log-mel spectrogram, by its pseudo-inverse and 32 rounds of the fast algorithm of Griffin and Lim
    (Perraudin et al., WASPAA 2013, momentum 0.99) from random phases.
    """
    mel = compute_log_mel(waveform, rate, center=True).exp()
    magnitude = (torch.linalg.pinv(_make_mel_filters(rate, MEL_BANDS)).T @ mel).clamp(min=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**63)))
        copy = griffinlim(
            magnitude,
            window=torch.hann_window(FFT_SIZE),
            n_fft=FFT_SIZE,
            hop_length=HOP,
            win_length=FFT_SIZE,
            power=1.0,
            n_iter=32,
            momentum=0.99,
            length=len(waveform),
            rand_init=True,
        )
    return copy.double().numpy()


def vocode_by_world(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """WORLD (Morise et al., 2016): F0 by DIO and StoneMask, envelope by CheapTrick, aperiodicity by D4C."""
    import pyworld

    f0, times = pyworld.dio(waveform, rate)
    f0 = pyworld.stonemask(waveform, f0, times, rate)
    envelope = pyworld.cheaptrick(waveform, f0, times, rate)
    aperiodicity = pyworld.d4c(waveform, f0, times, rate)
    return pyworld.synthesize(f0, envelope, aperiodicity, rate)[: len(waveform)]


def vocode_by_lpc(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """
    Linear prediction of order 2 + rate / 1 kHz in windows of 20 ms, every 5 ms (Atal and Hanauer, 1971). The
    filters are driven by pulses at the period of the autocorrelation's peak in windows of 40 ms, mixed with
    noise the more, the lower that peak is.
    """
    hop, order = rate // 200, 2 + rate // 1000
    length, long = 4 * hop, 8 * hop
    padded = torch.nn.functional.pad(torch.as_tensor(waveform), (long, long))
    window = torch.hann_window(length, dtype=torch.float64)
    # (frames, length), centred as the long frames are
    correlation = _autocorrelate(padded[length // 2 : -length // 2].unfold(0, length, hop) * window)
    correlation[:, 0] = correlation[:, 0] * (1 + 1e-6) + 1e-12  # so that silence has a solution
    lags = torch.arange(order)
    past = correlation[:, 1 : order + 1]
    predictor = torch.linalg.solve(correlation[:, (lags - lags[:, None]).abs()], past)
    residual = correlation[:, 0] - (predictor * past).sum(dim=1)
    gain = (residual.clamp(min=0) / window.square().sum()).sqrt()

    long_window = torch.hann_window(long, dtype=torch.float64)
    correlation = _autocorrelate(padded.unfold(0, long, hop) * long_window)
    of_window = _autocorrelate(long_window[None])
    # Divided by what the window itself does to it, to a power of less than 1: no octave too low.
    peaks = correlation / (correlation[:, :1] + 1e-12) * (of_window[:, :1] / of_window) ** 0.8
    shortest, longest = rate // 400, rate // 70  # periods in samples
    height, period = peaks[:, shortest:longest].max(dim=1)
    samples, centers = np.arange(len(padded)), hop * np.arange(len(peaks)) + long // 2
    cycles = np.cumsum(np.interp(samples, centers, 1 / (shortest + period.numpy())))
    frequency = np.gradient(cycles)  # per sample
    pulses = (np.diff(np.floor(cycles), prepend=0) - frequency) / np.sqrt(frequency)  # power 1, as the noise
    voiced = np.interp(samples, centers, ((height - 0.3) / 0.4).clamp(0, 1).numpy())
    noise = generator.standard_normal(len(padded))
    excitation = torch.as_tensor(np.sqrt(voiced) * pulses + np.sqrt(1 - voiced) * noise)

    # 4 windows add up to 2; behind each frame its filter rings on: (frames, 2 * length)
    driven = excitation[length // 2 : -length // 2].unfold(0, length, hop) * window / 2 * gain[:, None]
    driven = torch.nn.functional.pad(driven, (0, length))
    denominator = torch.nn.functional.pad(-predictor, (1, 0), value=1.0)
    numerator = torch.eye(1, order + 1, dtype=torch.float64).expand_as(denominator)
    parts = lfilter(driven, denominator, numerator, clamp=False, batching=True)
    copy = torch.zeros(len(padded) + length, dtype=torch.float64)
    places = length // 2 + hop * torch.arange(len(parts))[:, None] + torch.arange(2 * length)
    copy.index_add_(0, places.flatten(), parts.flatten())
    return copy[long : long + len(waveform)].numpy()


def _autocorrelate(frames: torch.Tensor) -> torch.Tensor:
    """(frames, length) at lags from 0 on"""
    length = frames.shape[1]
    power = torch.fft.rfft(frames, 2 * length).abs().square()
    return torch.fft.irfft(power)[:, :length]


def randomize_phases(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """
    Keeps the magnitudes of windows of 1024 samples and moves every phase by an angle that is uniform up to a
    largest one of 90 to 180 degrees, which is drawn once for the recording.
    """
    window = torch.hann_window(FFT_SIZE, dtype=torch.float64)
    spectrum = torch.stft(torch.as_tensor(waveform), FFT_SIZE, HOP, window=window, return_complex=True)
    largest = generator.uniform(0.5, 1) * np.pi
    moved = torch.as_tensor(generator.uniform(-largest, largest, spectrum.shape))
    copy = torch.istft(
        torch.polar(spectrum.abs(), spectrum.angle() + moved),
        FFT_SIZE,
        HOP,
        window=window,
        length=len(waveform),
    )
    return copy.numpy()


@dataclass(frozen=True)
class OnnxVocoder:
    """
    A network from [`compute_log_mel`], (1, bands, frames), to a waveform in any shape, as HiFi-GAN is.
    """

    path: str

    @cached_property
    def session(self):
        """Made in each process that uses it."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])

    def __call__(self, waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        mel_input = self.session.get_inputs()[0]
        bands = mel_input.shape[1] if isinstance(mel_input.shape[1], int) else MEL_BANDS
        mel = compute_log_mel(waveform, rate, bands)[None].numpy()
        return np.ravel(self.session.run(None, {mel_input.name: mel})[0]).astype(np.float64)


VOCODERS: dict[str, Vocoder] = {
    "griffin-lim": vocode_by_griffin_lim,
    "world": vocode_by_world,
    "lpc": vocode_by_lpc,
    "phase": randomize_phases,
}


def find_vocoder(name: str) -> tuple[str, Vocoder]:
    """
    What the copies of a vocoder are called, and the vocoder: one of `VOCODERS`, a Python function
    `module:function`, or a file of ONNX.

    Raises:
        ImportError: a package that the vocoder needs, or the module, is not there.
        FileNotFoundError: there is no such file.
        ValueError: no such vocoder.
    """
    needed = {"world": "pyworld"}.get(name, "onnxruntime" if name.endswith(".onnx") else None)
    try:
        _ = needed and importlib.import_module(needed)
    except ImportError as error:
        raise ImportError(
            f'The vocoder {name} needs {needed}. Install it: pip install -e ".[synthesis]" ({error}).'
        ) from error
    if name in VOCODERS:
        return name, VOCODERS[name]
    if name.endswith(".onnx"):
        if not Path(name).is_file():
            raise FileNotFoundError(f"There is no vocoder {name}. Check its folder and name.")
        return Path(name).stem, OnnxVocoder(name)
    if ":" in name:
        try:
            return name.rpartition(":")[2], pkgutil.resolve_name(name)
        except AttributeError as error:
            raise ValueError(f"The vocoder {name} is not there: {error}.") from error
    near = difflib.get_close_matches(name, VOCODERS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"{name!r} is no vocoder: those here are {', '.join(VOCODERS)}; another is given as module:function "
        f"or FILE.onnx.{hint}"
    )


__all__ = ["VOCODERS", "OnnxVocoder", "Vocoder", "compute_log_mel", "find_vocoder"]
