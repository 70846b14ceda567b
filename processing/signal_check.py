"""Whether a signal can be what was recorded: a network gives digital silence a score as certain as that of
speech."""

import numpy as np

from .audio_file import Remarks


FRAME_SECONDS = 0.02
QUIETEST = 1e-4  # standard deviation of a frame with sound: -80 dB of full scale, 3 steps of 16 bits
SHORTEST_SECONDS = 0.1  # of sound: less than one syllable
SMALLEST_MIX = 1e-3  # energy of the mix to that of a channel: 30 dB less; independent channels lose 3 dB
LARGEST_PEAK = 4.0  # of full scale; what a lossy codec makes of loud music stays below 2


def check_signal(samples: np.ndarray, sampling_rate: int) -> str:
    """
    Say why a signal must not be judged, or "".

    Args:
        samples: (num_samples,), 1 is full scale.
        sampling_rate: in Hz.
    """
    peak = float(np.abs(samples).max(initial=0))
    if peak > LARGEST_PEAK:
        return f"its samples reach {peak:,.0f}, but full scale is 1: scale them, or export it as 16-bit WAV"
    length = max(1, round(FRAME_SECONDS * sampling_rate))
    frames = np.pad(samples, (0, -len(samples) % length), "edge").reshape(-1, length)
    seconds = min(np.count_nonzero(frames.std(axis=1) > QUIETEST) * length, len(samples)) / sampling_rate
    if seconds < SHORTEST_SECONDS:
        return (
            f"there are {seconds:.2f} s of sound in the {len(samples) / sampling_rate:.2f} s that are "
            f"scored; {SHORTEST_SECONDS:g} s are needed"
        )
    return ""


def check_channels(remarks: Remarks) -> str:
    """Say why the mix of a recording's channels, as far as it was decoded, must not be judged, or ""."""
    if remarks.mixed_energy < SMALLEST_MIX * remarks.channel_energy:
        return "its channels cancel each other when they are mixed: export one of them alone"
    return ""
