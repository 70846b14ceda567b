import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import processing.audio
from processing.audio import count_samples, decode_audio, decode_windows


RATES = [8000, 16_000, 22_050, 44_100, 48_000]
DRAWN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, samples: int = 40_000, rate: int = 16_000, channels: int = 1, times: int = 1) -> Path:
    """Noise that swells and fades, other in every channel; `times` such pieces, one after the other."""
    generator = np.random.default_rng(samples)
    swell = 0.1 + 0.4 * np.abs(np.sin(np.arange(samples) / rate * 7))
    pcm = (swell * generator.uniform(-1, 1, (channels, samples))).astype(np.float32)
    if path.suffix != ".m4a":
        with sf.SoundFile(path, "w", rate, channels) as sound:
            for _ in range(times):
                sound.write(pcm.T)
        return path
    with av.open(path, "w") as container:
        layout = "mono" if channels == 1 else "stereo"
        track = container.add_stream("aac", rate=rate, layout=layout)
        for _ in range(times):
            frame = av.AudioFrame.from_ndarray(pcm, format="fltp", layout=layout)
            frame.sample_rate = rate
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def assert_windows_are_parts(path: Path, num_samples: int, hop: int, sampling_rate: int = 16_000) -> None:
    """Every window has the bits that `decode_audio` gives for its start."""
    found = list(decode_windows(path, num_samples=num_samples, hop=hop, sampling_rate=sampling_rate))

    assert found[0][0] == 0
    for start, samples in found:
        part = decode_audio(path, start=start, num_samples=num_samples, sampling_rate=sampling_rate)
        assert samples.dtype == np.float32
        np.testing.assert_array_equal(samples, part, err_msg=f"from {start}")
    start, samples = found[-1]
    assert start + len(samples) == count_samples(path, sampling_rate=sampling_rate)


@pytest.fixture
def small_blocks(monkeypatch):
    """So short that windows, filters and codec frames all cross their edges."""
    monkeypatch.setattr(processing.audio, "_BLOCK_FRAMES", 1777)


# Values


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.m4a", "a.ogg"])
def test_windows_have_the_bits_of_the_parts(tmp_path, name, rate, channels):
    path = write(tmp_path / name, 5 * rate, rate, channels)

    assert_windows_are_parts(path, num_samples=16_000, hop=7000)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("name", ["a.flac", "a.mp3"])
def test_windows_have_the_bits_of_the_parts_whatever_is_decoded_at_once(tmp_path, small_blocks, name, rate):
    path = write(tmp_path / name, 3 * rate, rate)

    assert_windows_are_parts(path, num_samples=9000, hop=4000)


def test_windows_of_another_rate_have_the_bits_of_the_parts(tmp_path):
    path = write(tmp_path / "a.wav", rate=48_000)

    assert_windows_are_parts(path, num_samples=8000, hop=3000, sampling_rate=22_050)


def test_windows_of_bytes_are_those_of_the_file(tmp_path):
    path = write(tmp_path / "a.mp3")

    windows = list(decode_windows(path.read_bytes(), num_samples=8000, hop=8000))

    expected = list(decode_windows(path, num_samples=8000, hop=8000))
    assert [start for start, _ in windows] == [start for start, _ in expected]
    np.testing.assert_array_equal(
        np.concatenate([samples for _, samples in windows]),
        np.concatenate([samples for _, samples in expected]),
    )


def test_window_that_is_written_to_changes_no_other(tmp_path):
    path = write(tmp_path / "a.wav")

    for start, samples in decode_windows(path, num_samples=8000, hop=3000):
        np.testing.assert_array_equal(samples, decode_audio(path, start=start, num_samples=8000))
        samples[:] = 0


def test_channels_that_change_within_a_file_are_mixed_as_before(tmp_path):
    mono, stereo = write(tmp_path / "a.mp3", channels=1), write(tmp_path / "b.mp3", channels=2)
    for path in (mono, stereo):  # without the header that states the length of one of the two
        with av.open(path) as container:
            path.write_bytes(b"".join(bytes(packet) for packet in container.demux(audio=0)))
    joined = tmp_path / "c.mp3"
    joined.write_bytes(mono.read_bytes() + stereo.read_bytes())

    whole = decode_audio(joined)

    first = len(decode_audio(mono))
    np.testing.assert_array_equal(whole[: first - 1152], decode_audio(mono)[: first - 1152])
    np.testing.assert_allclose(whole[first + 4000 :], decode_audio(stereo)[4000:], atol=1e-5)
    assert_windows_are_parts(joined, num_samples=8000, hop=3000)


# Starts


@pytest.mark.parametrize(
    ("length", "starts"),
    [
        (1, [0]),
        (7999, [0]),
        (8000, [0]),
        (8001, [0, 1]),
        (10_999, [0, 2999]),
        (11_000, [0, 3000]),
        (11_001, [0, 3000, 3001]),
        (14_000, [0, 3000, 6000]),
    ],
)
def test_last_window_ends_with_the_file(tmp_path, length, starts):
    path = write(tmp_path / "a.wav", length)

    windows = list(decode_windows(path, num_samples=8000, hop=3000))

    assert [start for start, _ in windows] == starts
    assert {len(samples) for _, samples in windows} == {min(length, 8000)}
    assert_windows_are_parts(path, num_samples=8000, hop=3000)


@pytest.mark.parametrize("frames", [22_049, 22_050, 22_051, 44_100, 44_101])
def test_last_window_of_a_resampled_file_ends_with_it(tmp_path, frames):
    path = write(tmp_path / "a.wav", frames, rate=44_100)

    for num_samples in (7999, 8000, 8001, 16_000):
        assert_windows_are_parts(path, num_samples, hop=num_samples // 2)


@DRAWN
@given(length=st.integers(1, 5000), num_samples=st.integers(1, 6000), data=st.data())
def test_windows_cover_the_file_in_order(tmp_path, small_blocks, length, num_samples, data):
    hop = data.draw(st.integers(max(1, num_samples // 8), num_samples))
    path = write(tmp_path / "a.wav", length)
    whole = decode_audio(path)

    windows = list(decode_windows(path, num_samples=num_samples, hop=hop))

    starts = [start for start, _ in windows]
    assert starts[:-1] == list(range(0, hop * (len(starts) - 1), hop))
    assert all(0 < later - earlier <= hop for earlier, later in zip(starts, starts[1:], strict=False))
    assert starts[0] == 0 and starts[-1] == max(0, length - num_samples)
    for start, samples in windows:
        np.testing.assert_array_equal(samples, whole[start : start + num_samples])


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_samples": 100, "hop": 0},
        {"num_samples": 100, "hop": -1},
        {"num_samples": 100, "hop": 101},
        {"num_samples": 0, "hop": 0},
        {"num_samples": 100, "hop": 50, "sampling_rate": 0},
    ],
)
def test_windows_that_leave_samples_out_are_refused(tmp_path, arguments):
    path = write(tmp_path / "a.wav")

    with pytest.raises(ValueError, match="hop must be positive and at most num_samples"):
        list(decode_windows(path, **arguments))


# Files that must be refused


def test_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="absent.flac"):
        list(decode_windows("absent.flac", num_samples=100, hop=50))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.m4a"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_file_that_was_cut_off_is_an_error(tmp_path, name, kept):
    path = write(tmp_path / name, 400_000)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])

    with pytest.raises(ValueError, match=name):
        list(decode_windows(path, num_samples=16_000, hop=8000))


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_an_error(tmp_path, value, rate):
    samples = np.zeros(200_000)
    samples[-1] = value
    sf.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")

    with pytest.raises(ValueError, match="a.wav holds NaN or infinite samples"):
        list(decode_windows(tmp_path / "a.wav", num_samples=16_000, hop=8000))


# Where libsndfile fails


def test_ffmpeg_goes_on_in_mid_file_without_repeating_or_changing_a_window(shared_data, small_blocks):
    paths = sorted((shared_data / "asvspoof2021_df_flac").glob("*.flac"))

    for path in paths:
        assert_windows_are_parts(path, num_samples=4000, hop=1500)

    assert len(paths) == 8


def test_windows_before_and_after_the_sample_where_libsndfile_fails(tmp_path, monkeypatch):
    path = write(tmp_path / "a.flac", 400_000, rate=44_100)
    expected = list(decode_windows(path, num_samples=16_000, hop=8000))
    read, calls = sf.SoundFile.read, []

    def fails_the_third_time(sound, *arguments, **options):
        calls.append(sound.tell())
        if len(calls) == 3:
            raise sf.SoundFileRuntimeError("lost sync")
        return read(sound, *arguments, **options)

    monkeypatch.setattr(sf.SoundFile, "read", fails_the_third_time)
    windows = list(decode_windows(path, num_samples=16_000, hop=8000))

    assert calls == [0, 2**16, 2**17]
    assert [start for start, _ in windows] == [start for start, _ in expected]
    for (_, samples), (_, same) in zip(windows, expected, strict=True):
        np.testing.assert_array_equal(samples, same)


# Long files


def peak_of_windows(path: Path) -> int:
    """Bytes that NumPy and Python held at most."""
    tracemalloc.start()
    for _ in decode_windows(path, num_samples=64_000, hop=32_000):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [
        ("a.wav", 8000, 2),
        ("a.flac", 44_100, 1),
        ("a.mp3", 16_000, 2),
        ("a.ogg", 22_050, 1),
        ("a.m4a", 16_000, 1),
    ],
)
def test_memory_does_not_grow_with_the_file(tmp_path, name, rate, channels):
    short = write(tmp_path / f"short_{name}", 30 * rate, rate, channels, times=2)
    long = write(tmp_path / f"long_{name}", 30 * rate, rate, channels, times=6)
    peak_of_windows(short)  # what is made once stays out of the measurement

    assert peak_of_windows(long) < 1.1 * peak_of_windows(short) < 4_000_000  # whole, the long takes 11.5 MB


# The process's memory also has what FFmpeg, libsndfile and torch hold.
MEASURE = """
import resource, sys
from processing.audio import decode_windows
for path in sys.argv[1:]:
    for start, samples in decode_windows(path, num_samples=64_000, hop=32_000):
        pass
    print(start + len(samples), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux alone")
@pytest.mark.parametrize(("name", "minutes"), [("a.wav", 180), ("a.flac", 180), ("a.mp3", 40), ("a.m4a", 40)])
def test_memory_of_the_process_does_not_grow_with_the_file(tmp_path, name, minutes):
    short = write(tmp_path / f"short_{name}", 60 * 8000, rate=8000, times=5)
    long = write(tmp_path / f"long_{name}", 60 * 8000, rate=8000, times=minutes)

    command = [sys.executable, "-c", MEASURE, str(short), str(long)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    lines = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()

    (_, before), (length, after) = zip(lines[::2], lines[1::2], strict=True)
    assert int(length) // 16_000 == 60 * minutes
    assert int(after) - int(before) < 16 * 1024  # KiB; 40 minutes are 146 MiB, three hours 659 MiB
