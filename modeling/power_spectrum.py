"""Power spectra of frames, also in graphs of other programs."""

import numpy as np
import torch


def power_spectrum(frames: torch.Tensor, window: torch.Tensor, fft_size: int) -> torch.Tensor:
    """
    |DFT|^2 of windowed frames (…, window_length), zero behind the window, to (…, fft_size // 2 + 1).

    An exported graph has a product with sines and cosines in the place of the FFT: onnxruntime's has an error
    of 1e-3 where `fft_size` is no power of two, and is slower where it is one.
    """
    if not torch.compiler.is_exporting():
        spectrum = torch.fft.rfft(frames * window, n=fft_size)
        return spectrum.real.square() + spectrum.imag.square()
    steps = np.outer(np.arange(window.shape[0]), np.arange(fft_size // 2 + 1)) % fft_size  # of a period
    waves = np.exp(2j * np.pi / fft_size * steps)
    waves = torch.from_numpy(np.concatenate([waves.real, waves.imag], axis=1, dtype=np.float32))
    real, imaginary = (frames @ (window[:, None] * waves)).tensor_split(2, dim=-1)
    return real.square() + imaginary.square()


__all__ = ["power_spectrum"]
