"""Reverberation: the waveform as it sounds in a room, by measured or simulated responses of rooms."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from .audio_file import open_audio_file
from .ffmpeg import convert_pcm, decode_frames
from .folder_tree import list_recordings
from .noise import measure_level, scale_to_level
from .resampling import resample_array


@dataclass(frozen=True)
class Reverberation:
    """
    The waveform convolved with the response of a room, drawn from a folder, as in Ko et al., "A study on data
    augmentation of reverberant speech for robust speech recognition", ICASSP 2017.

    The largest sample of the response is taken for the direct sound, which keeps its time; so the length is
    kept, and what sounds on behind the end is cut off. The level (root of the mean power) is kept too; peaks
    may exceed 1, and are not clipped.

    Args:
        folder: of responses, at any depth, such as RIRS_NOISES or a folder in it. Files with "noise" in their
            name are not taken: beside its measured responses, RIRS_NOISES has noise. Of a response of several
            channels, one is drawn.

    Raises:
        FileNotFoundError: the folder is not there, or holds no responses.
    """

    folder: str

    def __post_init__(self):
        if not self.responses:
            raise FileNotFoundError(
                f"The folder {self.folder} holds noise only. Give one with room responses."
            )

    @cached_property
    def responses(self) -> list[Path]:
        """All of the folder, sorted."""
        return [path for path in list_recordings(Path(self.folder)) if "noise" not in path.name.lower()]

    def __call__(self, waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """(num_samples,), float32, at `rate` in Hz."""
        from scipy.signal import oaconvolve  # takes 0.4 s

        response = read_response(self.responses[generator.integers(len(self.responses))], rate, generator)
        direct = int(np.argmax(np.abs(response)))
        reverberant = oaconvolve(waveform, response)[direct : direct + len(waveform)]
        return scale_to_level(reverberant, measure_level(waveform))


def read_response(path: Path, rate: int, generator: np.random.Generator) -> np.ndarray:
    """(num_samples,), float32: of several channels one that is drawn, since their mix is no response."""
    with open_audio_file(path) as file:
        frames = [(convert_pcm(frame), frame.sample_rate) for frame in decode_frames(file)]
    channels = np.concatenate([pcm for pcm, _ in frames])
    channel = np.ascontiguousarray(channels[:, generator.integers(channels.shape[1])])
    return resample_array(channel, frames[0][1], rate)
