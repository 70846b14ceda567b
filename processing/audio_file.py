"""One audio file while it is decoded: its stream, its name, and what is remarked of it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from transformers.utils import logging


logger = logging.get_logger(__name__)

# How files of these first four bytes state the size of what follows the next four.
_BYTE_ORDERS = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}

AudioSource = str | Path | bytes | Mapping[str, Any]


@dataclass
class Remarks:
    """
    What was skipped of a file, and what else has to be said of it. Filled while it is decoded.

    Attributes:
        skipped_packets: how many packets of it cannot be decoded.
        skipped_seconds: how much of the recording that and holes in it are, as far as the file tells.
        notes: sentences about anything else.
        channel_energy, mixed_energy: sum of the squares of what was decoded, a channel on average, and of
            its mix to one channel.
    """

    skipped_packets: int = 0
    skipped_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    channel_energy: float = 0.0
    mixed_energy: float = 0.0
    _silence: float = 0.0  # seconds that stand for what was skipped
    _num_places: int = 0
    _places: list[float] = field(default_factory=list)  # the first and the last, in seconds

    def add_skipped(self, at: float, *, num_packets: int = 0, silence: float = 0.0) -> None:
        """Count packets that cannot be decoded, or seconds of silence that stand for what is not there."""
        self.skipped_packets += num_packets
        self._silence += silence
        self.skipped_seconds += silence
        if at not in self._places[-1:]:
            self._places = [*self._places[:1], at]
            self._num_places += 1

    def describe(self) -> str:
        """All of it as text, "" if there is nothing to say."""
        noun = "packet" if self.skipped_packets == 1 else "packets"
        skipped = [f"{self.skipped_packets:,} {noun} that cannot be decoded"] if self.skipped_packets else []
        if self._silence:
            skipped.append(f"{self._silence:.2f} s replaced by silence")
        if not skipped:
            return " ".join(self.notes)
        where = f"at {self._places[0]:.2f} s"
        if self._num_places > 1:
            where = f"in {self._num_places:,} places from {self._places[0]:.2f} s to {self._places[-1]:.2f} s"
        return " ".join([f"Skipped: {', '.join(skipped)}, {where}.", *self.notes])


@dataclass
class AudioFile:
    """A binary stream, the name that errors give it, and what is remarked of it."""

    stream: BinaryIO
    name: str
    remarks: Remarks

    def note_unread_bytes(self, end: int) -> None:
        """Note what follows the samples, which end at `end`, and the chunks of a WAV or AIFF."""
        size = self.stream.seek(0, os.SEEK_END)
        self.stream.seek(0)
        form, stated = self.stream.read(4), self.stream.read(4)
        if order := _BYTE_ORDERS.get(form):
            end = max(end, 8 + int.from_bytes(stated, order))
            end += end % 2
        if (unread := size - end) > 0:
            self.remarks.notes.append(f"Bytes of the file that were left unread: {unread:,}.")


class _Seeking:
    """A seek to before the beginning, which damaged files make libraries try, fails without a traceback."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError):
            return -1


class _File(_Seeking, BufferedReader):
    pass


class _Content(_Seeking, BytesIO):
    pass


@contextmanager
def open_audio_file(source: AudioSource, remarks: Remarks | None = None) -> Iterator[AudioFile]:
    """The source, opened. Where nobody gives `remarks` to read them, they are logged in the end."""
    if isinstance(source, Mapping):
        content, path = source.get("bytes"), source.get("path")
    else:
        content, path = (source, None) if isinstance(source, bytes) else (None, source)
    noted = Remarks() if remarks is None else remarks
    if content is not None:
        yield (file := AudioFile(_Content(content), str(path or "audio given as bytes"), noted))
    elif path is None:
        raise ValueError("The audio has neither a path nor bytes. Give one of them.")
    elif not Path(path).is_file():
        raise FileNotFoundError(f"There is no audio file {path}. Check its folder and name.")
    elif os.path.getsize(path) == 0:
        raise ValueError(f"{path} is empty: 0 bytes. Fetch it again.")
    else:
        with _File(FileIO(path)) as stream:
            yield (file := AudioFile(stream, str(path), noted))
    if remarks is None and (text := noted.describe()):
        logger.warning_once(f"{file.name}: {text} (said once)")
