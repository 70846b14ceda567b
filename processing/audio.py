"""Decode one audio file, or part of it, to float32 mono at one sampling rate.

libsndfile (soundfile) reads the formats in which it seeks and counts to the sample; FFmpeg (PyAV) reads all
others, and what libsndfile 1.2.2 refuses: about half of ASVspoof 2021's FLAC files hold blocks whose samples
overflow 16 bits. FFmpeg wraps those; in some files that is not what was encoded (their MD5 differs).
"""

import itertools
import re
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

import av
import numpy as np
import soundfile as sf
from transformers.utils import logging

from .audio_file import AudioFile, AudioSource, Remarks, open_audio_file
from .ffmpeg import convert_pcm, decode_frames, open_container
from .resampling import check_rate, count_resampled, get_resampler


logger = logging.get_logger(__name__)

Part = Callable[[int], tuple[int, int]]  # rate of the file -> first sample wanted of it, one after the last

# A seek is exact to the sample, and so is the header's length. In lossy formats neither is.
_EXACT_SUBTYPES = {"PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
# What follows the samples can be told; of FLAC all but some kB that are read ahead.
_ENDING_FORMATS = {"WAV", "WAVEX", "RF64", "AIFF", "AU", "FLAC"}
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's count for a FLAC stream that does not state its length
_PLACEHOLDER_BYTES = 0x7FFF0000  # sizes from here on are what writers into a pipe put into the header
_SIZES = re.compile(r"(data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)")
_RIFF_SLACK = 64  # bytes: whether the size of a whole RF64 or W64 counts its own head is often wrong
_BLOCK_FRAMES = 2**16  # decoded at once, so that of all channels only this much is ever held


def decode_audio(
    source: AudioSource,
    *,
    sampling_rate: int = 16_000,
    start: int = 0,
    num_samples: int | None = None,
    remarks: Remarks | None = None,
) -> np.ndarray:
    """
    Decode `source`, or a part of it, to mono at `sampling_rate` (Hz).

    Channels are mixed down by their mean; other rates are resampled by torchaudio with its defaults, as in
    transformers' audio pipelines. Either is logged once per process. A part has the bits of the same slice of
    the whole. Of WAV, FLAC and their like only the part is decoded, of other formats also what precedes it.
    What cannot be decoded is skipped; silence replaces it where the file's time stamps tell how long it was.

    Args:
        source: a file, the content of one, or a value of `Audio(decode=False)`, {"path": ..., "bytes": ...},
            of which the bytes win if both are given.
        start, num_samples: the part, counted at `sampling_rate`; `None`: to the end.
        remarks: is told what was skipped of what had to be decoded, and all else that is to be said of the
            file. `None`: it is logged with the file's name.

    Returns:
        (n,), float32, in [-1, 1]: integers are divided by 2**(bits - 1). A float file that exceeds 1 is left
        as it is. `n` is less than `num_samples` where the file ends.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `start` is negative or beyond the end; `num_samples` or `sampling_rate` is not positive;
            nothing of the file can be decoded, or less than half, it was cut off, has no audio stream, no
            samples, or NaN or infinite ones.
    """
    if start < 0 or sampling_rate <= 0 or (num_samples is not None and num_samples <= 0):
        raise ValueError(
            "start must not be negative, num_samples and sampling_rate must be positive: got "
            f"start={start}, num_samples={num_samples}, sampling_rate={sampling_rate}."
        )
    stop = sys.maxsize if num_samples is None else start + num_samples
    with open_audio_file(source, remarks) as file:
        blocks = [*_decode_blocks(file, sampling_rate, start, stop)]
    if not any(map(len, blocks)):
        raise ValueError(
            f"{file.name} ends before sample {start} at {sampling_rate} Hz. Choose a smaller start."
        )
    return np.concatenate(blocks)


def decode_windows(
    source: AudioSource,
    *,
    num_samples: int,
    hop: int,
    sampling_rate: int = 16_000,
    remarks: Remarks | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """
    Decode `source` to overlapping windows, in one pass and in memory that does not grow with its length.

    The windows start at 0, `hop`, `2 * hop`, ... Where the file goes on after the last of them, one more ends
    with the file's last sample. So every sample lies in a window, and the last window's start plus its length
    is the length of the file. A window has the bits of `decode_audio` with its start and `num_samples`.

    Args:
        source, sampling_rate, remarks: as for `decode_audio`, whose errors are raised when the decoding comes
            to them.
        num_samples, hop: length of a window, and from start to start, counted at `sampling_rate`.

    Yields:
        First sample of the window, counted at `sampling_rate`, and its samples (num_samples,), float32. A
        shorter file gives one window of its own length.
    """
    if not 0 < hop <= num_samples or sampling_rate <= 0:
        raise ValueError(
            "hop must be positive and at most num_samples (windows further apart leave samples out), "
            "sampling_rate must be positive: got "
            f"num_samples={num_samples}, hop={hop}, sampling_rate={sampling_rate}."
        )
    cutter = WindowCutter(num_samples, hop)
    with open_audio_file(source, remarks) as file:
        for block in _decode_blocks(file, sampling_rate, 0, sys.maxsize):
            yield from (window[:2] for window in cutter.add(block))
    yield from (window[:2] for window in cutter.finish())


class WindowCutter:
    """
    Cuts a signal that comes in parts into the windows of [`decode_windows`], each as soon as it is whole.

    Args:
        num_samples, hop: as for `decode_windows`; `None`: the whole signal is one window.
        num_early: the first so many samples are a window before, and so are twice as many, and so on, up to
            half of `num_samples`.

    Yields:
        First sample of the window, its samples, and whether it is one of those before the first whole one.
    """

    def __init__(self, num_samples: int | None, hop: int | None, num_early: int | None = None):
        self.num_samples, self.hop = num_samples or sys.maxsize, hop
        self.start, self.held, self.num_held = 0, [], 0  # the signal from `start` on
        self.due = min(num_early or sys.maxsize, self.num_samples)  # the next window is there with so much

    def add(self, samples: np.ndarray) -> Iterator[tuple[int, np.ndarray, bool]]:
        """Take the next samples (n,); yields the windows that they complete."""
        self.held.append(samples)
        self.num_held += len(samples)
        while self.num_held >= self.due:
            held = self.held[0] if len(self.held) == 1 else np.concatenate(self.held)
            if self.due > self.num_samples:  # not the first window
                self.start, held = self.start + self.hop, held[self.hop :]
            self.held, self.num_held = [held], len(held)
            length = min(self.due, self.num_samples)
            is_early = length < self.num_samples
            if is_early:
                self.due = 2 * length if 4 * length <= self.num_samples else self.num_samples
            else:  # it is held until the next one is whole: the last one may begin in it
                self.due = self.num_samples + self.hop
            yield self.start, held[:length].copy(), is_early

    def finish(self) -> Iterator[tuple[int, np.ndarray, bool]]:
        """The signal has ended: yields its last window, unless it has been yielded."""
        held = np.concatenate([np.empty(0, np.float32), *self.held])
        if self.due <= self.num_samples:
            yield 0, held, False
        elif len(held) > self.num_samples:
            yield self.start + len(held) - self.num_samples, held[-self.num_samples :], False


def decode_stream(
    pipe: BinaryIO, *, sampling_rate: int = 16_000, remarks: Remarks | None = None
) -> tuple[int, Iterator[np.ndarray]]:
    """
    Decode what comes through a pipe, opened with `buffering=0`, while it comes, as `decode_audio` does; its
    errors are raised when the decoding comes to them. Of MP3, the padding at its end is not left out.
    Returns the rate of the stream, and its samples in parts (n,).
    """
    file = AudioFile(pipe, "The stream", Remarks() if remarks is None else remarks)
    frames = decode_frames(file)
    first = next(frames)
    rate = first.sample_rate
    check_rate(rate, file.name)
    parts = (_mix_down(convert_pcm(frame), file) for frame in itertools.chain([first], frames))
    return rate, parts if rate == sampling_rate else get_resampler(rate, sampling_rate).resample(
        parts, 0, sys.maxsize
    )


def count_samples(source: AudioSource, *, sampling_rate: int = 16_000) -> int:
    """
    Length of `decode_audio(source, sampling_rate=sampling_rate)`, in samples.

    Read from the header where that is exact (WAV, FLAC and their like), found by decoding elsewhere. Raises
    what `decode_audio` raises, save for damage that only decoding would find.
    """
    with open_audio_file(source, Remarks()) as file:
        try:
            with _open_soundfile(file) as sound:
                length, rate = sound.frames, sound.samplerate
        except sf.SoundFileError:
            file.stream.seek(0)
            length, rate = 0, 0
            for frame in decode_frames(file):
                length, rate = length + frame.samples, frame.sample_rate
    check_rate(rate, file.name)
    return count_resampled(length, rate, sampling_rate)


def read_header(source: AudioSource) -> dict:
    """
    What a file says of itself, as FFmpeg reads it; nothing is decoded. `seconds`, which may be a guess, and 0
    where it is not known; of the audio track, if any, `container`, `codec`, `sampling_rate` (Hz), `channels`.
    """
    try:
        with open_audio_file(source) as file, open_container(file.stream, probesize="65536") as container:
            header = {"seconds": max(0, container.duration or 0) / av.time_base}
            track = container.streams.best("audio")
            if track is not None and track.codec_context is not None:
                header |= {"container": container.format.name, "codec": track.codec_context.name}
                header |= {"sampling_rate": track.rate or None, "channels": track.channels or None}
            return header
    except (ValueError, OSError, av.FFmpegError):
        return {"seconds": 0.0}


def _open_soundfile(file: AudioFile) -> sf.SoundFile:
    """Opened by libsndfile. Raises `SoundFileError` for what FFmpeg has to read, `ValueError` if cut off."""
    try:
        sound = sf.SoundFile(file.stream)
    except TypeError as error:  # soundfile takes any name in .raw for a file without a header
        raise sf.SoundFileRuntimeError(str(error)) from error
    # Of a WAV, AIFF or AU shorter than its header says, libsndfile takes what is there; only its log tells.
    found = _SIZES.search(sound.extra_info)
    stated, there = map(int, found.groups()[1:]) if found else (0, 0)
    if sound.format == "W64" and stated < there:
        raise sf.SoundFileRuntimeError("of a W64 libsndfile takes also what follows the samples for samples")
    slack = _RIFF_SLACK if found and found[1] in ("riff", "Riff size") else 0
    if there + slack < stated < _PLACEHOLDER_BYTES:
        raise ValueError(f"{file.name} was cut off: of {stated:,} bytes {there:,} are there. Fetch it again.")
    if sound.subtype not in _EXACT_SUBTYPES or not 0 < sound.frames < _UNKNOWN_FRAMES:
        raise sf.SoundFileRuntimeError(f"{sound.subtype} with {sound.frames} frames is left to FFmpeg")
    return sound


def _decode_blocks(file: AudioFile, sampling_rate: int, start: int, stop: int) -> Iterator[np.ndarray]:
    """Samples `start` to `stop` at `sampling_rate`, as far as the file goes: one block or more."""

    def find_part(rate: int) -> tuple[int, int]:
        check_rate(rate, file.name)
        if rate == sampling_rate:
            return start, stop
        return get_resampler(rate, sampling_rate).find_source(start, stop)

    blocks = _read_blocks(file, find_part)
    first, rate = next(blocks)
    source = itertools.chain([first], (block for block, _ in blocks))
    if rate == sampling_rate:
        return source
    return get_resampler(rate, sampling_rate).resample(source, start, stop)


def _read_blocks(file: AudioFile, part: Part) -> Iterator[tuple[np.ndarray, int]]:
    """The mono samples inside `part(rate)`, as far as the file goes: one block or more, and their rate."""
    num_read = 0
    try:
        for mono, rate in _read_by_soundfile(file, part):
            yield mono, rate
            num_read += len(mono)
    except sf.SoundFileError:
        # It may have failed far into the file. What both decode, FFmpeg decodes to the same bits: it goes on.
        file.stream.seek(0)
        yield from _read_by_ffmpeg(file, part, skip=num_read)


def _read_by_soundfile(file: AudioFile, part: Part) -> Iterator[tuple[np.ndarray, int]]:
    with _open_soundfile(file) as sound:
        first, stop = (min(edge, sound.frames) for edge in part(sound.samplerate))
        sound.seek(first)
        yield np.empty(0, np.float32), sound.samplerate  # the rate, even if the file ends before the part
        for at in range(first, stop, _BLOCK_FRAMES):
            wanted = min(_BLOCK_FRAMES, stop - at)
            mono = _mix_down(sound.read(wanted, dtype="float32", always_2d=True), file)
            if len(mono) < wanted:
                raise sf.SoundFileRuntimeError(f"{wanted - len(mono)} samples are missing")
            yield mono, sound.samplerate
        if first < stop == sound.frames and sound.format in _ENDING_FORMATS:
            file.note_unread_bytes(file.stream.tell())


def _read_by_ffmpeg(file: AudioFile, part: Part, *, skip: int = 0) -> Iterator[tuple[np.ndarray, int]]:
    """As `_read_by_soundfile`, without the part's first `skip` samples. What lies before is decoded too."""
    position, held = 0, []
    for frame in decode_frames(file):
        first, stop = part(frame.sample_rate)
        begin, end = max(0, first + skip - position), min(frame.samples, stop - position)
        if begin < end:
            held.append(_mix_down(convert_pcm(frame)[begin:end], file))
        position += frame.samples
        if position >= stop:
            break
        if sum(map(len, held)) >= _BLOCK_FRAMES:
            yield np.concatenate(held), frame.sample_rate
            held = []
    yield np.concatenate([np.empty(0, np.float32), *held]), frame.sample_rate


def _mix_down(pcm: np.ndarray, file: AudioFile) -> np.ndarray:
    """(samples, channels) -> (samples,), finite; by columns: numpy's mean along so short an axis is slow."""
    channels = pcm.shape[1]
    mono = pcm[:, 0]
    if channels > 1:
        logger.warning_once(f"Audio of {channels} channels is mixed down to one by their mean (said once).")
        mono = sum(pcm.T) / channels
        file.remarks.channel_energy += float(np.vdot(pcm, pcm)) / channels
        file.remarks.mixed_energy += float(np.vdot(mono, mono))
    if not np.isfinite(mono).all():
        raise ValueError(f"{file.name} holds NaN or infinite samples. Export it again, or leave it out.")
    return mono
