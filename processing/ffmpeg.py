"""Read an audio file with FFmpeg (PyAV) on its own time line; what cannot be decoded is skipped, and said."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np

from .audio_file import AudioFile


_SLACK = 4096  # samples by which a lossy file may fall short of its header: encoder delay and padding
_MAX_HOLE = 3600  # seconds: broken time stamps shall not make days of silence
_LATEST_START = 0.1  # seconds: encoder delay is less
_OGG_PAGE = 65_307  # bytes at most
_PIPE_OPTIONS = {"probesize": "4096"}  # bytes; by default FFmpeg waits for seconds of sound
_SILENCE = np.zeros((1, 2**16), np.float32)
# An MP3's first frame, if it states the number of frames. Of the flags after "Xing", the last is "frames".
_FRAMES_OF_MP3 = re.compile(
    rb"\xff[\xe0-\xff].{11,34}(?:(?:Xing|Info)\0{3}[\x01\x03\x05\x07\t\x0b\r\x0f]|VBRI.{10})(.{4})", re.DOTALL
)
# Formats that begin with the length of each track. Elsewhere FFmpeg's `duration` can be a guess.
_LENGTH_IN_HEADER = {"flac", "mov,mp4,m4a,3gp,3g2,mj2", "tta", "wv"}
# Formats that state the time of the end of all tracks, if not always rightly: a remark, no error.
_LENGTH_FOR_REMARK = {"matroska,webm", "ogg"}
_LONGEST_SURPLUS = 0.1  # seconds more than a file states
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


def open_container(stream: BinaryIO, **options: str) -> av.container.InputContainer:
    """Opened by FFmpeg; raises `av.FFmpegError` for what is no audio or video."""
    # No protocols: a playlist under an audio file's name must not make FFmpeg open files or addresses.
    return av.open(stream, metadata_errors="ignore", options={"protocol_whitelist": "none", **options})


def decode_frames(file: AudioFile) -> Iterator[av.AudioFrame]:
    """
    The file from its beginning, one codec frame at a time, all of one rate. Where the time stamps leave a
    hole, frames of silence keep the time.

    Raises:
        ValueError: nothing of it can be decoded or less than half, it was cut off, it has no audio stream, or
            it goes on at another rate.
    """
    first_frame, options = b"", _PIPE_OPTIONS
    if file.stream.seekable():
        first_frame, options = _read_first_frame(file.stream), {}
        file.stream.seek(0)
    try:
        with open_container(file.stream, **options) as container:
            track = container.streams.best("audio")
            if track is None:
                raise ValueError(f"{file.name} has no audio stream.")
            if (count := len(container.streams.audio)) > 1:
                number = 1 + container.streams.audio.index(track)
                language = track.language or "of no language"
                about = f"number {number}, {track.codec_context.name}, {language}"
                file.remarks.notes.append(f"Of its {count} audio tracks one was taken: {about}.")
            start = float((track.start_time or 0) * track.time_base)
            if container.format.name == "ogg" and start > _LATEST_START:
                file.remarks.notes.append(
                    f"Its first time stamp is {start:.2f} s: the beginning may be missing."
                )
            if container.format.name in ("flac", "ac3", "eac3"):
                track.codec_context.options = {"err_detect": "crccheck+explode"}
            yield from _Decoding(file, container, track, _find_length(container, track, first_frame)).run()
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{file.name} cannot be decoded as audio ({error.strerror}).") from error


def convert_pcm(frame: av.AudioFrame) -> np.ndarray:
    """(samples, channels) in float32, scaled as libsndfile scales: FFmpeg aligns 24 bits to the top of 32."""
    dtype, channels = _DTYPES[frame.format.packed.name], frame.layout.nb_channels
    # PyAV 18.1 finds a ninth plane, a pointer to anywhere, behind eight: its `to_ndarray` may crash there.
    planes = frame.planes[: channels if frame.format.is_planar else 1]
    count = frame.samples * channels // len(planes)
    pcm = np.stack([np.frombuffer(plane, dtype, count) for plane in planes])
    pcm = pcm.T if frame.format.is_planar else pcm.reshape(-1, channels)
    if pcm.dtype.kind == "f":
        return pcm.astype(np.float32, copy=False)
    half = 2 ** (8 * pcm.dtype.itemsize - 1)
    return (pcm.astype(np.float32) - (half if pcm.dtype.kind == "u" else 0)) / half


def _read_first_frame(stream: BinaryIO) -> bytes:
    """What follows the ID3 tags, as much as an MP3 needs to state its length."""
    begin = stream.seek(0)
    while (head := stream.read(200))[:3] == b"ID3" and len(head) > 9:
        size = sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        begin = stream.seek(begin + 10 + size + (10 if head[5] & 16 else 0))
    return head


def _find_length(container: av.container.InputContainer, track: av.AudioStream, first_frame: bytes) -> float:
    """Seconds that the file states and FFmpeg goes by; 0 where there is no such statement."""
    kind, seconds = container.format.name, float((track.duration or 0) * track.time_base)
    if kind in _LENGTH_FOR_REMARK and len(container.streams) == 1:
        return (container.duration or 0) / av.time_base
    if kind == "mp3" and (found := _FRAMES_OF_MP3.match(first_frame)):
        stated = int.from_bytes(found[1], "big") * track.codec_context.frame_size / track.rate
        return min(stated, seconds)  # FFmpeg takes off delay and padding, or guesses where the file is longer
    return seconds if kind in _LENGTH_IN_HEADER else 0.0


def _read_block_start(packet: av.Packet, streaminfo: bytes) -> int:
    """First sample of a FLAC packet, as its header states it (RFC 9639, 9.1)."""
    head = bytes(memoryview(packet)[:11])
    ones = 8 - (head[4] ^ 0xFF).bit_length()
    number = head[4] & 0x7F >> ones
    for byte in head[5 : 4 + ones]:
        number = number << 6 | byte & 0x3F
    return number if head[1] & 1 else number * int.from_bytes(streaminfo[2:4], "big")


def _ends_ogg(stream: BinaryIO, begin: int) -> bool:
    """Whether the last page, of which the packet at `begin` is, is whole and marked as such (RFC 3533, 6)."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(-min(_OGG_PAGE, size), os.SEEK_END)
    _, mark, page = stream.read().rpartition(b"OggS")
    if not mark or len(page) < 23:
        return not mark
    is_read = page[1] & 1 > 0 or size - len(mark + page) <= begin
    return is_read and page[1] & 4 > 0 and len(page) >= 23 + page[22] + sum(page[23 : 23 + page[22]])


@dataclass
class _Decoding:
    """One run over the packets of a track: how far it is, in samples, and when the next frame is due."""

    file: AudioFile
    container: av.container.InputContainer
    track: av.AudioStream
    stated_seconds: float  # 0: the file does not state its length
    rate: int = 0
    position: int = 0
    num_silent: int = 0  # of `position`: made here
    due: float | None = None  # seconds
    num_packets: int = 0  # that were decoded
    num_failed: int = 0  # since a frame came out
    seconds_failed: float = 0.0  # of these packets

    def __post_init__(self):
        self.kind, self.tick = self.container.format.name, float(self.track.time_base)  # seconds

    def run(self) -> Iterator[av.AudioFrame]:
        failure = None
        for packet in self.read_packets():
            try:
                frames = self.track.decode(packet)
                self.num_packets += 1
            except av.FFmpegError as error:
                failure, frames = error, []
                self.skip(packet)
            for frame in frames:
                if self.rate not in (0, frame.sample_rate):
                    raise ValueError(
                        f"{self.file.name} goes from {self.rate} to {frame.sample_rate} Hz. Split it there."
                    )
                self.rate = frame.sample_rate
                time = self.find_time(packet, frame) if frame is frames[0] else None
                yield from self.fill_hole(time, frame)
                self.position += frame.samples
                self.num_failed, self.seconds_failed = 0, 0.0
                yield frame
        if self.position == self.num_silent:
            if failure is not None:
                raise failure
            raise ValueError(f"{self.file.name} holds no audio samples. Leave it out.")
        self.check_length()

    def demux(self) -> Iterator[av.Packet]:
        """The track's packets, as PyAV gives them, and an empty one at the end."""
        while True:
            try:
                yield from self.container.demux(self.track)
                return
            except IndexError:  # PyAV 18.1, of a track that begins only here: the next call knows of it
                continue

    def read_packets(self) -> Iterator[av.Packet | None]:
        """The packets that hold something, as far as the file can be read, and `None` at the end."""
        begin, last, end, num_bytes, stopped = None, 0, 0, 0, False
        try:
            for packet in self.demux():
                if packet.size:
                    begin, last = packet.pos if begin is None else begin, packet.pos or 0
                    end, num_bytes = max(end, (packet.pos or 0) + packet.size), num_bytes + packet.size
                    yield packet
        except av.FFmpegError:
            stopped = True
        yield None
        if not self.file.stream.seekable():  # what came through a pipe cannot be looked at again
            if stopped:
                self.file.remarks.notes.append("It could not be read to its end.")
        elif self.kind == "aac":  # of which FFmpeg passes over what lies between packets
            self.note_rest((begin or 0) + num_bytes)
        elif stopped or self.kind in ("wav", "aiff", "w64"):
            self.note_rest(end)
        elif self.kind == "ogg" and not _ends_ogg(self.file.stream, last):
            self.file.remarks.notes.append(
                "Its last Ogg page is damaged, not whole or not the end: the file was probably cut off."
            )

    def note_rest(self, end: int) -> None:
        """Note what was not read of the file, where so many bytes were."""
        self.file.note_unread_bytes(end)
        if self.kind not in ("aiff", "wav") and self.file.stream.seek(0, os.SEEK_END) > 2 * end:
            raise self.make_error()

    def skip(self, packet: av.Packet | None) -> None:
        """Note a packet that cannot be decoded."""
        self.file.remarks.add_skipped(self.position / (self.rate or 1), num_packets=1)
        self.num_failed += 1
        if packet is not None and packet.duration is not None:
            self.seconds_failed += packet.duration * self.tick
        if self.due is None and packet is not None and packet.pts is not None:
            self.due = max(packet.pts, self.track.start_time or 0) * self.tick

    def find_time(self, packet: av.Packet | None, frame: av.AudioFrame) -> float | None:
        """Seconds at which the frame begins, as the file states it."""
        if self.kind == "flac" and packet:  # of damaged files FFmpeg's time stamps are wrong
            streaminfo = self.track.codec_context.extradata
            return _read_block_start(packet, streaminfo) / self.rate if streaminfo else None
        # AMR has no time stamps, and no sync word: FFmpeg takes each byte of junk for a frame.
        return None if frame.pts is None or self.kind == "amr" else frame.pts * self.tick

    def fill_hole(self, time: float | None, frame: av.AudioFrame) -> Iterator[av.AudioFrame]:
        """Silence from the end of the last frame to `time`, at which this one begins, if that is later."""
        hole = round((time - self.due) * self.rate) if time is not None and self.due is not None else 0
        begins = self.due if time is None else time
        self.due = None if begins is None else begins + frame.samples / self.rate
        if hole <= max(frame.samples / 2, 2 * self.tick * self.rate):  # jitter
            return
        longest = min((self.container.duration or 0) / av.time_base or 60, _MAX_HOLE) * self.rate
        remarks, at = self.file.remarks, self.position / self.rate
        if hole > longest:
            note = "Its time stamps jump ahead by more than its length: what follows is joined on."
            remarks.notes += [] if note in remarks.notes else [note]
            return
        remarks.add_skipped(at, silence=hole / self.rate)
        self.position, self.num_silent = self.position + hole, self.num_silent + hole
        if self.num_silent > longest:
            raise self.make_error()
        for begin in range(0, hole, _SILENCE.size):
            silence = av.AudioFrame.from_ndarray(_SILENCE[:, : hole - begin], format="fltp", layout="mono")
            silence.sample_rate = self.rate
            yield silence

    def check_length(self) -> None:
        """Hold what was decoded against the length that the file states, and against what was skipped."""
        remarks = self.file.remarks
        missing = self.stated_seconds - self.position / self.rate
        is_damaged = remarks.skipped_packets > self.num_failed or self.num_silent > 0  # before its end
        if self.stated_seconds and missing < -_LONGEST_SURPLUS:
            lengths = f"{self.stated_seconds:.2f} s, but holds {self.position / self.rate:.2f} s"
            remarks.notes.append(f"The file states a length of {lengths}: files may have been joined.")
        slack = 0.5 if self.kind == "flac" else _SLACK  # samples
        if self.kind == "mp3" and is_damaged:  # it loses more than the packets that fail, and has no time
            slack = 0.01 * self.rate
        if missing * self.rate > slack:
            is_cut = (missing - self.seconds_failed) * self.rate > slack and not is_damaged
            if self.kind == "flac" or (is_cut and self.kind not in _LENGTH_FOR_REMARK):
                samples = round(missing * self.rate)
                raise ValueError(
                    f"{self.file.name} was cut off: {samples:,} samples are missing. Fetch it again."
                )
            remarks.skipped_seconds += missing
            stated = f"{self.stated_seconds:.2f} s"
            remarks.notes.append(
                f"The file states a length of {stated}, of which {missing:.2f} s are missing."
            )
        decoded = (self.position - self.num_silent) / self.rate
        if decoded < remarks.skipped_seconds or self.num_packets < remarks.skipped_packets:
            raise self.make_error()

    def make_error(self) -> ValueError:
        remark = self.file.remarks.describe()
        return ValueError(
            f"Of {self.file.name} less than half can be decoded. Fetch it again. {remark}".strip()
        )
