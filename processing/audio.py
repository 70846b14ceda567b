"""Decode one audio file, or part of it, to float32 mono at one sampling rate.

libsndfile (soundfile) reads the formats in which it seeks and counts to the sample; FFmpeg (PyAV) reads all
others, and what libsndfile 1.2.2 refuses: about half of ASVspoof 2021's FLAC files hold blocks whose samples
overflow 16 bits. FFmpeg wraps those; in some files that is not what was encoded (their MD5 differs).
"""

import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile as sf
from transformers.utils import logging

from .resampling import check_rate, count_resampled, get_resampler


logger = logging.get_logger(__name__)

AudioSource = str | Path | bytes | Mapping[str, Any]
Window = Callable[[int], tuple[int, int]]  # rate of the file -> first sample wanted of it, one after the last

# A seek is exact to the sample, and so is the header's length. In lossy formats neither is.
_EXACT_SUBTYPES = {"PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's count for a FLAC stream that does not state its length
_PLACEHOLDER_BYTES = 0x7FFF0000  # sizes from here on are what writers into a pipe put into the header
_BLOCK_FRAMES = 2**16  # decoded at once, so that of all channels only this much is ever held
_SLACK = 4096  # samples by which a lossy file may fall short of its header: encoder delay and padding


def decode_audio(
    source: AudioSource, *, sampling_rate: int = 16_000, start: int = 0, num_samples: int | None = None
) -> np.ndarray:
    """
    Decode `source`, or a part of it, to mono at `sampling_rate` (Hz).

    Channels are mixed down by their mean; other rates are resampled by torchaudio with its defaults, as in
    transformers' audio pipelines. Either is logged once per process. A part has the bits of the same slice of
    the whole. Of WAV, FLAC and their like only the part is decoded, of other formats also what precedes it.

    Args:
        source: a file, the content of one, or a value of `Audio(decode=False)`, {"path": ..., "bytes": ...},
            of which the bytes win if both are given.
        start, num_samples: the part, counted at `sampling_rate`; `None`: to the end.

    Returns:
        (n,), float32, in [-1, 1]: integers are divided by 2**(bits - 1). A float file that exceeds 1 is left
        as it is. `n` is less than `num_samples` where the file ends.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `start` is negative or beyond the end; `num_samples` or `sampling_rate` is not positive;
            the file cannot be decoded, was cut off, has no audio stream, no samples, or NaN or infinite ones.
    """
    if start < 0 or sampling_rate <= 0 or (num_samples is not None and num_samples <= 0):
        raise ValueError(
            "start must not be negative, num_samples and sampling_rate must be positive: got "
            f"start={start}, num_samples={num_samples}, sampling_rate={sampling_rate}."
        )
    stop = sys.maxsize if num_samples is None else start + num_samples
    with _open_source(source) as (stream, name):
        blocks = [*_decode_blocks(stream, name, sampling_rate, start, stop)]
    if not any(map(len, blocks)):
        raise ValueError(f"{name} ends before sample {start} at {sampling_rate} Hz. Choose a smaller start.")
    return np.concatenate(blocks)


def decode_windows(
    source: AudioSource, *, num_samples: int, hop: int, sampling_rate: int = 16_000
) -> Iterator[tuple[int, np.ndarray]]:
    """
    Decode `source` to overlapping windows, in one pass and in memory that does not grow with its length.

    The windows start at 0, `hop`, `2 * hop`, ... Where the file goes on after the last of them, one more ends
    with the file's last sample. So every sample lies in a window, and the last window's start plus its length
    is the length of the file. A window has the bits of `decode_audio` with its start and `num_samples`.

    Args:
        source, sampling_rate: as for `decode_audio`, whose errors are raised when the decoding comes to them.
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
    start, held = 0, np.empty(0, np.float32)  # the signal from `start` on
    with _open_source(source) as (stream, name):
        for block in _decode_blocks(stream, name, sampling_rate, 0, sys.maxsize):
            held = np.concatenate([held, block])
            while len(held) >= num_samples + hop:  # so that the next window is whole as well
                yield start, held[:num_samples].copy()
                start, held = start + hop, held[hop:]
    yield start, held[:num_samples].copy()
    if len(held) > num_samples:
        yield start + len(held) - num_samples, held[-num_samples:].copy()


def count_samples(source: AudioSource, *, sampling_rate: int = 16_000) -> int:
    """
    Length of `decode_audio(source, sampling_rate=sampling_rate)`, in samples.

    Read from the header where that is exact (WAV, FLAC and their like), found by decoding elsewhere. Raises
    what `decode_audio` raises, save for damage that only decoding would find.
    """
    with _open_source(source) as (stream, name):
        try:
            with _open_soundfile(stream, name) as sound:
                length, rate = sound.frames, sound.samplerate
        except sf.SoundFileError:
            stream.seek(0)
            length, rate = 0, 0
            for frame in _decode_frames(stream, name):
                length, rate = length + frame.samples, frame.sample_rate
    check_rate(rate, name)
    return count_resampled(length, rate, sampling_rate)


def estimate_seconds(source: AudioSource) -> float:
    """Length in seconds as the header states it or lets guess, 0 where it does not; nothing is decoded."""
    try:
        with _open_source(source) as (stream, _), _open_container(stream, probesize="65536") as container:
            return max(0, container.duration or 0) / av.time_base
    except (ValueError, OSError, av.FFmpegError):
        return 0


@contextmanager
def _open_source(source: AudioSource) -> Iterator[tuple[BinaryIO, str]]:
    """The source as a binary stream, and the name that errors give it."""
    if isinstance(source, Mapping):
        content, path = source.get("bytes"), source.get("path")
    else:
        content, path = (source, None) if isinstance(source, bytes) else (None, source)
    if content is not None:
        yield BytesIO(content), str(path or "audio given as bytes")
    elif path is None:
        raise ValueError("The audio has neither a path nor bytes. Give one of them.")
    elif not Path(path).is_file():
        raise FileNotFoundError(f"There is no audio file {path}. Check its folder and name.")
    else:
        with open(path, "rb") as stream:
            yield stream, str(path)


def _open_soundfile(stream: BinaryIO, name: str) -> sf.SoundFile:
    """Opened by libsndfile. Raises `SoundFileError` for what FFmpeg has to read, `ValueError` if cut off."""
    try:
        sound = sf.SoundFile(stream)
    except TypeError as error:  # soundfile takes any name in .raw for a file without a header
        raise sf.SoundFileRuntimeError(str(error)) from error
    if sound.subtype not in _EXACT_SUBTYPES or not 0 < sound.frames < _UNKNOWN_FRAMES:
        raise sf.SoundFileRuntimeError(f"{sound.subtype} with {sound.frames} frames is left to FFmpeg")
    # Of a WAV, AIFF or AU shorter than its header says, libsndfile takes what is there; only its log tells.
    cut = re.search(r"(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", sound.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < _PLACEHOLDER_BYTES:
        raise ValueError(
            f"{name} was cut off: of {cut[1]} bytes of samples {cut[2]} are there. Fetch it again."
        )
    return sound


def _decode_blocks(
    stream: BinaryIO, name: str, sampling_rate: int, start: int, stop: int
) -> Iterator[np.ndarray]:
    """Samples `start` to `stop` at `sampling_rate`, as far as the file goes: one block or more."""

    def window(rate: int) -> tuple[int, int]:
        check_rate(rate, name)
        if rate == sampling_rate:
            return start, stop
        return get_resampler(rate, sampling_rate).find_source(start, stop)

    blocks = _read_blocks(stream, name, window)
    first, rate = next(blocks)
    source = itertools.chain([first], (block for block, _ in blocks))
    if rate == sampling_rate:
        return source
    return get_resampler(rate, sampling_rate).resample(source, start, stop)


def _read_blocks(stream: BinaryIO, name: str, window: Window) -> Iterator[tuple[np.ndarray, int]]:
    """The mono samples inside `window(rate)`, as far as the file goes: one block or more, and their rate."""
    num_read = 0
    try:
        for mono, rate in _read_by_soundfile(stream, name, window):
            yield mono, rate
            num_read += len(mono)
    except sf.SoundFileError:
        # It may have failed far into the file. What both decode, FFmpeg decodes to the same bits: it goes on.
        stream.seek(0)
        yield from _read_by_ffmpeg(stream, name, window, skip=num_read)


def _read_by_soundfile(stream: BinaryIO, name: str, window: Window) -> Iterator[tuple[np.ndarray, int]]:
    with _open_soundfile(stream, name) as sound:
        first, stop = (min(edge, sound.frames) for edge in window(sound.samplerate))
        sound.seek(first)
        yield np.empty(0, np.float32), sound.samplerate  # the rate, even if the file ends before the window
        for at in range(first, stop, _BLOCK_FRAMES):
            wanted = min(_BLOCK_FRAMES, stop - at)
            mono = _mix_down(sound.read(wanted, dtype="float32", always_2d=True), name)
            if len(mono) < wanted:
                raise sf.SoundFileRuntimeError(f"{wanted - len(mono)} samples are missing")
            yield mono, sound.samplerate


def _read_by_ffmpeg(
    stream: BinaryIO, name: str, window: Window, *, skip: int = 0
) -> Iterator[tuple[np.ndarray, int]]:
    """As `_read_by_soundfile`, without the window's first `skip` samples. What lies before is decoded too."""
    position, held = 0, []
    for frame in _decode_frames(stream, name):
        first, stop = window(frame.sample_rate)
        begin, end = max(0, first + skip - position), min(frame.samples, stop - position)
        if begin < end:
            held.append(_mix_down(_convert_pcm(frame)[begin:end], name))
        position += frame.samples
        if position >= stop:
            break
        if sum(map(len, held)) >= _BLOCK_FRAMES:
            yield np.concatenate(held), frame.sample_rate
            held = []
    yield np.concatenate([np.empty(0, np.float32), *held]), frame.sample_rate


def _open_container(stream: BinaryIO, **options: str) -> av.container.InputContainer:
    # No protocols: a playlist under an audio file's name must not make FFmpeg open files or addresses.
    return av.open(stream, metadata_errors="ignore", options={"protocol_whitelist": "none", **options})


def _decode_frames(stream: BinaryIO, name: str) -> Iterator[av.AudioFrame]:
    """The file from its beginning, one codec frame at a time, all of one rate."""
    # The header in which an MP3 may state its length: flags, of which the last is "frames", and their number.
    xing = re.search(rb"(?:Xing|Info)\0{3}[\x01\x03\x05\x07\t\x0b\r\x0f](?!\0{4})", stream.read(2**16))
    stream.seek(0)
    position, rate = 0, 0
    try:
        with _open_container(stream) as container:
            kind, track = container.format.name, container.streams.best("audio")
            if track is None:
                raise ValueError(f"{name} has no audio stream.")
            if kind == "flac":
                track.codec_context.options = {"err_detect": "crccheck+explode"}
            for frame in container.decode(track):
                if rate not in (0, frame.sample_rate):
                    raise ValueError(f"{name} goes from {rate} to {frame.sample_rate} Hz. Split it there.")
                rate = frame.sample_rate
                # FFmpeg drops a damaged FLAC block silently, but the next block says where it belongs.
                if kind == "flac" and frame.pts != position:
                    raise ValueError(
                        f"{name} is damaged from sample {position} on ({rate} Hz). Fetch it again."
                    )
                position += frame.samples
                yield frame
            # These formats state their length. Elsewhere `duration` is a guess from the bit rate.
            if track.duration and (kind == "flac" or "mp4" in kind or (kind == "mp3" and xing)):
                missing = round(track.duration * track.time_base * rate) - position
                if missing > (0 if kind == "flac" else _SLACK):
                    raise ValueError(f"{name} was cut off: {missing} samples are missing. Fetch it again.")
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{name} cannot be decoded as audio ({error.strerror}).") from error
    if position == 0:
        raise ValueError(f"{name} holds no audio samples. Leave it out.")


def _convert_pcm(frame: av.AudioFrame) -> np.ndarray:
    """(samples, channels) in float32, scaled as libsndfile scales: FFmpeg aligns 24 bits to the top of 32."""
    pcm = frame.to_ndarray()
    pcm = pcm.T if frame.format.is_planar else pcm.reshape(-1, frame.layout.nb_channels)
    if pcm.dtype.kind == "f":
        return pcm.astype(np.float32, copy=False)
    half = 2 ** (8 * pcm.dtype.itemsize - 1)
    return (pcm.astype(np.float32) - (half if pcm.dtype.kind == "u" else 0)) / half


def _mix_down(pcm: np.ndarray, name: str) -> np.ndarray:
    """(samples, channels) -> (samples,), finite; by columns: numpy's mean along so short an axis is slow."""
    channels = pcm.shape[1]
    if channels > 1:
        logger.warning_once(f"Audio of {channels} channels is mixed down to one by their mean (said once).")
    mono = pcm[:, 0] if channels == 1 else sum(pcm.T) / channels
    if not np.isfinite(mono).all():
        raise ValueError(f"{name} holds NaN or infinite samples. Export it again, or leave it out.")
    return mono


__all__ = ["AudioSource", "count_samples", "decode_audio", "decode_windows", "estimate_seconds"]
