import hashlib
import logging
import os
import subprocess
import sys
import tracemalloc
from functools import cache
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import soundfile as sf
import torch
import torchaudio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processing.audio import count_samples, decode_audio, read_header
from processing.audio_file import Remarks


WAV_WIDTHS = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
RATES = [8000, 11025, 16_000, 22_050, 44_100, 48_000]


def run_ffmpeg(*arguments) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def ffmpeg_pcm(path: Path, *options) -> np.ndarray:
    """The samples of a file as the ffmpeg program decodes them, channels interleaved."""
    return np.frombuffer(run_ffmpeg("-i", path, *options, "-f", "f32le", "-"), "<f4")


@cache
def voice(rate: int, seconds: float = 2.0, channels: int = 1) -> np.ndarray:
    """(samples, channels): a buzz with noise, another one in every channel, the ends not silent."""
    time = np.arange(int(rate * seconds)) / rate
    generator = np.random.default_rng(channels)
    buzz = [
        sum(np.sin(2 * np.pi * 110 * (c + 1) * k * time) / k for k in range(1, 8)) for c in range(channels)
    ]
    return (0.2 * np.stack(buzz, 1) + 0.05 * generator.standard_normal((len(time), channels))).astype(
        np.float32
    )


def write(path: Path, rate: int = 16_000, seconds: float = 2.0, channels: int = 1, subtype=None) -> Path:
    """By soundfile where it knows the suffix, by ffmpeg elsewhere."""
    if path.suffix in (".wav", ".flac", ".mp3", ".ogg", ".aiff"):
        sf.write(path, voice(rate, seconds, channels), rate, subtype=subtype)
    else:
        original = path.with_name(path.name + ".original.wav")
        sf.write(original, voice(rate, seconds, channels), rate)
        run_ffmpeg("-i", original, "-movflags", "+faststart", path)
    return path


def without_data_size(wav: Path) -> bytes:
    """
    The file as a recorder leaves it that was stopped: libsndfile then sees no samples, FFmpeg reads them.
    """
    content = bytearray(wav.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = bytes(4)
    return bytes(content)


# Values


@pytest.mark.parametrize("subtype", WAV_WIDTHS)
def test_wav_of_every_width_has_the_values_that_ffmpeg_finds(tmp_path, subtype):
    path = write(tmp_path / "a.wav", subtype=subtype)

    samples = decode_audio(path)

    assert samples.dtype == np.float32 and samples.shape == (32_000,)
    np.testing.assert_array_equal(samples, ffmpeg_pcm(path))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_flac_has_the_values_that_ffmpeg_finds(tmp_path, subtype):
    path = write(tmp_path / "a.flac", subtype=subtype)

    np.testing.assert_array_equal(decode_audio(path), ffmpeg_pcm(path))


@pytest.mark.parametrize("subtype", WAV_WIDTHS)
def test_what_libsndfile_can_not_read_is_scaled_as_if_it_could(tmp_path, subtype):
    path = write(tmp_path / "a.wav", subtype=subtype)
    expected, _ = sf.read(path, dtype="float32")

    np.testing.assert_array_equal(decode_audio(without_data_size(path)), expected)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_flac_in_ogg_which_libsndfile_refuses_is_exact(tmp_path, subtype):
    original = write(tmp_path / "a.flac", subtype=subtype)
    run_ffmpeg("-i", original, "-c:a", "flac", tmp_path / "a.oga")

    np.testing.assert_array_equal(decode_audio(tmp_path / "a.oga"), sf.read(original, dtype="float32")[0])


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("name", ["a.mp3", "a.ogg"])
def test_lossy_file_has_the_samples_that_ffmpeg_finds(tmp_path, name, rate):
    path = write(tmp_path / name, rate)

    samples = decode_audio(path, sampling_rate=rate)

    np.testing.assert_allclose(samples, ffmpeg_pcm(path), atol=1e-5)
    assert count_samples(path, sampling_rate=rate) == len(samples)


def test_opus_has_the_samples_that_ffmpeg_finds(tmp_path):
    path = write(tmp_path / "a.opus", 48_000)

    np.testing.assert_allclose(decode_audio(path, sampling_rate=48_000), ffmpeg_pcm(path), atol=1e-5)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("name", ["a.m4a", "a.mp4"])
def test_aac_has_the_samples_that_ffmpeg_finds_up_to_the_padding_of_the_last_frame(tmp_path, name, rate):
    path = write(tmp_path / name, rate)

    samples, expected = decode_audio(path, sampling_rate=rate), ffmpeg_pcm(path)

    assert 0 <= len(samples) - len(expected) < 1024  # newer FFmpegs than PyAV's cut the padding off
    np.testing.assert_allclose(samples[: len(expected)], expected, atol=1e-5)


def test_sound_track_is_taken_from_a_video(tmp_path):
    sound = write(tmp_path / "a.m4a")
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=d=2:s=64x64", "-i", sound, "-c:a", "copy", tmp_path / "a.mp4")

    np.testing.assert_array_equal(decode_audio(tmp_path / "a.mp4"), decode_audio(sound))


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_stereo_is_mixed_as_ffmpeg_mixes_to_integers(tmp_path, name):
    path = write(tmp_path / name, channels=2)

    # To integers, because to floats ffmpeg mixes to sqrt(2) times the mean.
    mixed = np.frombuffer(run_ffmpeg("-i", path, "-ac", 1, "-f", "s16le", "-"), "<i2")

    np.testing.assert_allclose(decode_audio(path) * 2**15, mixed, atol=1)


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.m4a"])
def test_stereo_of_a_lossy_file_is_mixed_by_the_mean(tmp_path, name):
    path = write(tmp_path / name, channels=2)

    samples, expected = decode_audio(path), ffmpeg_pcm(path).reshape(-1, 2).mean(axis=1)

    np.testing.assert_allclose(samples[: len(expected)], expected, atol=1e-5)


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_channels_are_mixed_by_their_mean(tmp_path, channels):
    path = write(tmp_path / "a.wav", channels=channels, subtype="FLOAT")

    np.testing.assert_allclose(decode_audio(path), voice(16_000, 2.0, channels).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("seconds", [0.001, 0.25, 2.0])
@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 24_000, 32_000, 37_800, 44_100, 48_000, 96_000])
def test_other_rates_are_resampled_as_torchaudio_resamples_the_whole(tmp_path, rate, seconds):
    path = write(tmp_path / "a.wav", rate, seconds, subtype="FLOAT")
    whole = torch.from_numpy(voice(rate, seconds)[:, 0])

    samples = decode_audio(path)

    expected = torchaudio.functional.resample(whole, rate, 16_000).numpy()
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    assert count_samples(path) == len(expected)


def test_float_file_above_full_scale_is_left_as_it_is(tmp_path):
    sf.write(tmp_path / "a.wav", np.float32([0.5, 1.5, -3.0]), 16_000, subtype="FLOAT")

    np.testing.assert_array_equal(decode_audio(tmp_path / "a.wav"), np.float32([0.5, 1.5, -3.0]))


# Parts


@pytest.fixture(scope="module")
def wholes(tmp_path_factory) -> dict:
    """Files, each with its whole signal at 16 kHz."""
    folder = tmp_path_factory.mktemp("wholes")
    paths = [write(folder / f"{rate}.wav", rate) for rate in RATES]
    paths += [write(folder / f"{rate}.flac", rate, channels=2) for rate in (16_000, 44_100)]
    paths += [write(folder / name, 22_050) for name in ("a.mp3", "a.ogg", "a.m4a")]
    return {path.name: (path, decode_audio(path)) for path in paths}


@pytest.mark.parametrize("name", [*(f"{rate}.wav" for rate in RATES), "16000.flac", "44100.flac"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 31_999), num_samples=st.integers(1, 40_000))
def test_part_has_the_bits_of_the_slice(wholes, name, start, num_samples):
    path, whole = wholes[name]

    part = decode_audio(path, start=start, num_samples=num_samples)

    np.testing.assert_array_equal(part, whole[start : start + num_samples])


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.m4a"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 31_999), num_samples=st.integers(1, 40_000))
def test_part_of_a_lossy_file_has_the_bits_of_the_slice(wholes, name, start, num_samples):
    path, whole = wholes[name]

    part = decode_audio(path, start=start, num_samples=num_samples)

    np.testing.assert_array_equal(part, whole[start : start + num_samples])


def test_start_alone_goes_on_to_the_end(wholes):
    path, whole = wholes["44100.wav"]

    np.testing.assert_array_equal(decode_audio(path, start=12_345), whole[12_345:])


def test_part_that_passes_the_end_is_shorter(wholes):
    path, _ = wholes["16000.wav"]

    assert decode_audio(path, start=31_000, num_samples=64_000).shape == (1000,)


@pytest.mark.parametrize("name", ["16000.wav", "44100.wav", "a.mp3"])
def test_start_at_the_end_is_an_error_that_names_the_file(wholes, name):
    path, whole = wholes[name]

    with pytest.raises(ValueError, match=f"{name} ends before sample {len(whole)} at 16000 Hz"):
        decode_audio(path, start=len(whole), num_samples=1)


@pytest.mark.parametrize(
    "arguments", [{"start": -1}, {"num_samples": -1}, {"num_samples": 0}, {"sampling_rate": 0}]
)
def test_negative_or_empty_part_is_an_error(wholes, arguments):
    path, _ = wholes["16000.wav"]

    with pytest.raises(ValueError, match="must not be negative"):
        decode_audio(path, **arguments)


@pytest.mark.parametrize("name", ["16000.wav", "44100.flac", "22050.wav", "a.mp3", "a.ogg", "a.m4a"])
def test_count_is_the_length_of_the_whole(wholes, name):
    path, whole = wholes[name]

    assert count_samples(path) == len(whole)


@pytest.mark.parametrize("name", ["16000.wav", "44100.flac", "a.mp3", "a.ogg", "a.m4a"])
def test_estimate_is_about_the_length(wholes, name):
    path, whole = wholes[name]

    assert read_header(path)["seconds"] == pytest.approx(len(whole) / 16_000, abs=0.1)


def test_estimate_of_what_can_not_be_read_is_0(tmp_path):
    (tmp_path / "text.wav").write_text("This is a text about audio, not audio.")

    for name in ("text.wav", "absent.wav"):
        assert read_header(tmp_path / name) == {"seconds": 0}


# Sources


@pytest.mark.parametrize("name", ["a.flac", "a.mp3", "a.m4a"])
def test_bytes_and_rows_decode_like_the_file(tmp_path, name):
    path = write(tmp_path / name)
    expected = decode_audio(path, start=100, num_samples=16_000)
    content = path.read_bytes()
    sources = [str(path), content, {"path": str(path), "bytes": None}, {"path": None, "bytes": content}]

    for source in sources:
        np.testing.assert_array_equal(decode_audio(source, start=100, num_samples=16_000), expected)


def test_bytes_win_over_the_path_of_a_row(tmp_path):
    path = write(tmp_path / "a.flac")
    row = {"path": "not/here.flac", "bytes": path.read_bytes()}

    np.testing.assert_array_equal(decode_audio(row), decode_audio(path))


def test_path_of_a_row_names_its_bytes_in_an_error():
    with pytest.raises(ValueError, match="not/here.flac cannot be decoded"):
        decode_audio({"path": "not/here.flac", "bytes": b"no audio"})


def test_row_without_path_and_bytes_is_an_error():
    with pytest.raises(ValueError, match="neither a path nor bytes"):
        decode_audio({"path": None, "bytes": None})


@pytest.mark.parametrize("suffix", [".flac", ".m4a"])
def test_name_outside_ascii_is_read(tmp_path, suffix):
    plain = write(tmp_path / f"a{suffix}")
    path = tmp_path / f"голос 声 é{suffix}"
    path.write_bytes(plain.read_bytes())

    np.testing.assert_array_equal(decode_audio(path), decode_audio(plain))


def test_flac_under_a_name_for_headerless_audio_is_read(tmp_path):
    path = write(tmp_path / "a.flac").rename(tmp_path / "a.raw")

    assert decode_audio(path).shape == (32_000,)


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_stream_that_does_not_state_its_length_is_read_whole(tmp_path, form):
    original = write(tmp_path / "a.wav")
    (tmp_path / "piped").write_bytes(run_ffmpeg("-i", original, "-f", form, "-"))

    np.testing.assert_array_equal(decode_audio(tmp_path / "piped"), decode_audio(original))
    assert count_samples(tmp_path / "piped") == 32_000


# Files that must be refused


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.flac"):
        decode_audio(tmp_path / "absent.flac")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: 0 bytes"),
        (b"RIFF", "cannot be decoded"),
        (b"This is a text about audio, not audio.\n" * 100, "cannot be decoded"),
    ],
)
def test_file_without_audio_is_named(tmp_path, content, message):
    (tmp_path / "text.wav").write_bytes(content)

    with pytest.raises(ValueError, match=f"text.wav {message}"):
        decode_audio(tmp_path / "text.wav")


@pytest.mark.parametrize("name", ["none.wav", "none.flac", "none.ogg"])
def test_file_of_no_samples_is_named(tmp_path, name):
    sf.write(tmp_path / name, np.zeros((0, 1)), 16_000)

    with pytest.raises(ValueError, match=name):
        decode_audio(tmp_path / name)


def test_silent_film_is_named(tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:s=64x64", tmp_path / "film.mp4")

    with pytest.raises(ValueError, match="film.mp4 has no audio stream"):
        decode_audio(tmp_path / "film.mp4")


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_an_error(tmp_path, value, rate, subtype):
    samples = voice(rate)[:, 0].astype(np.float64)
    samples[100] = value
    sf.write(tmp_path / "a.wav", samples, rate, subtype=subtype)

    with pytest.raises(ValueError, match="a.wav holds NaN or infinite samples"):
        decode_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.flac", "a.mp3", "a.m4a", "a.mp4", "a.wv"])
@pytest.mark.parametrize("kept", [0.4, 0.8])
def test_file_that_was_cut_off_is_an_error_not_a_shorter_signal(tmp_path, name, kept):
    path = write(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])

    with pytest.raises(ValueError, match=name):
        decode_audio(path)


@pytest.mark.parametrize(("name", "lost"), [("a.flac", 1), ("a.flac", 3), ("a.m4a", 10)])
def test_file_that_was_cut_off_between_two_packets_is_an_error(tmp_path, name, lost):
    path = write(tmp_path / name)
    with av.open(path) as container:
        sizes = [packet.size for packet in container.demux(audio=0) if packet.size]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - sum(sizes[-lost:])])

    with pytest.raises(ValueError, match=f"{name} was cut off"):
        decode_audio(path)


def test_intact_beginning_of_a_flac_that_was_cut_off_is_read(tmp_path):
    path = write(tmp_path / "a.flac")
    whole = decode_audio(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])

    np.testing.assert_array_equal(decode_audio(path, num_samples=16_000), whole[:16_000])


@pytest.mark.parametrize("seed", range(20))
def test_damaged_flac_is_an_error_or_as_it_was_but_for_silence_that_is_remarked(tmp_path, seed):
    path = write(tmp_path / "a.flac")
    whole = decode_audio(path)
    generator = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    content[generator.integers(4096, len(content))] ^= 1 << generator.integers(8)
    path.write_bytes(content)

    for start, stop in [(0, 32_000), (0, 16_000), (16_000, 24_000)]:
        remarks = Remarks()
        try:
            samples = decode_audio(path, start=start, num_samples=stop - start, remarks=remarks)
        except ValueError as error:
            assert "a.flac" in str(error)
        else:
            silent = samples == 0
            np.testing.assert_array_equal(samples[~silent], whole[start:stop][~silent])
            expected = whole[start:stop] == 0
            assert (silent == expected).all() or silent.sum() <= 16_000 * remarks.skipped_seconds + 8


def test_playlist_under_an_audio_name_does_not_open_other_files(tmp_path):
    write(tmp_path / "other.wav")
    (tmp_path / "a.wav").write_text("ffconcat version 1.0\nfile 'other.wav'\n")

    with pytest.raises(ValueError, match="a.wav cannot be decoded"):
        decode_audio(tmp_path / "a.wav")


# What is said


@pytest.mark.parametrize("rate", [16_010, 47_990, 1_601])
def test_rates_with_hardly_a_common_divisor_are_resampled_as_torchaudio_resamples(tmp_path, rate):
    signal = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * rate + 17).astype(np.float32)
    sf.write(tmp_path / "a.wav", signal, rate, subtype="FLOAT")

    decoded = decode_audio(tmp_path / "a.wav")
    part = decode_audio(tmp_path / "a.wav", start=9_000, num_samples=12_345)

    expected = torchaudio.functional.resample(torch.from_numpy(signal).double(), rate, 16_000)
    np.testing.assert_allclose(decoded, expected, rtol=0, atol=2e-6)
    assert part.tobytes() == decoded[9_000:21_345].tobytes()


def test_memory_of_resampling_is_bounded_by_the_signal(tmp_path):
    sf.write(tmp_path / "a.wav", np.sin(np.arange(48_001) * 2 * np.pi * 440 / 48_001), 48_001)
    script = """if True:
        import resource, sys
        from processing.audio import decode_audio
        decode_audio(sys.argv[1])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(len(decode_audio(sys.argv[2])), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    sf.write(tmp_path / "usual.wav", np.zeros(44_100), 44_100)

    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "usual.wav", tmp_path / "a.wav"],
        capture_output=True,
        text=True,
        check=True,
    )

    num_samples, kilobytes = map(int, run.stdout.split())
    assert num_samples == 16_000
    assert kilobytes < 100_000  # torchaudio's filter alone has 3,000,000


@pytest.mark.parametrize("rate", [999, 11_025_007])
def test_rate_that_no_recording_has_is_refused(tmp_path, rate):
    sf.write(tmp_path / "a.wav", np.zeros(1000), rate)

    for read in (decode_audio, count_samples):
        with pytest.raises(ValueError, match=rf"a.wav states a sampling rate of {rate:,} Hz.*768,000 Hz"):
            read(tmp_path / "a.wav")


def test_resampling_is_said_once(tmp_path, caplog):
    path = write(tmp_path / "a.wav", 18_900)

    with caplog.at_level(logging.WARNING):
        decode_audio(path)
        decode_audio(path, num_samples=1000)

    assert [record.getMessage() for record in caplog.records] == [
        "Audio at 18900 Hz is resampled to 16000 Hz (said once)."
    ]


def test_mixing_down_is_said_once(tmp_path, caplog):
    path = write(tmp_path / "a.wav", channels=5)

    with caplog.at_level(logging.WARNING):
        decode_audio(path)
        decode_audio(path, num_samples=1000)

    assert [record.getMessage() for record in caplog.records] == [
        "Audio of 5 channels is mixed down to one by their mean (said once)."
    ]


# Long files


@pytest.fixture(scope="module", params=[("16000.wav", 30), ("44100.flac", 10), ("16000.ogg", 5)])
def long_file(request, tmp_path_factory) -> Path:
    """A rate as its name, and minutes."""
    name, minutes = request.param
    path = tmp_path_factory.mktemp("long") / name
    rate = int(path.stem)
    with sf.SoundFile(path, "w", rate, 1) as sound:
        for _ in range(minutes):
            sound.write(voice(rate, 60.0))
    return path


def test_first_seconds_of_a_long_file_take_little_memory(long_file):
    decode_audio(long_file, num_samples=64_000)  # what is made once stays out of the measurement
    tracemalloc.start()

    samples = decode_audio(long_file, num_samples=64_000)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert samples.shape == (64_000,)
    assert peak < 4_000_000  # the shortest takes 19 MB whole


@pytest.mark.skipif(
    not os.path.exists("/proc/self/io"), reason="counts the bytes read by Linux's /proc/self/io"
)
def test_first_seconds_of_a_long_file_read_a_small_part_of_it(long_file):
    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = bytes_read()
    decode_audio(long_file, num_samples=64_000)

    assert bytes_read() - before < 500_000  # of 1.4 to 58 MB


# Real corpora


def test_asvspoof2021_files_that_libsndfile_refuses_decode_as_by_ffmpeg(shared_data):
    paths = sorted((shared_data / "asvspoof2021_df_flac").glob("*.flac"))

    decoded = [decode_audio(path) for path in paths]

    assert len(decoded) == 8
    for path, samples in zip(paths, decoded, strict=True):
        np.testing.assert_array_equal(samples, ffmpeg_pcm(path), err_msg=path.name)
        assert count_samples(path) == len(samples)


def test_parts_of_asvspoof2021_files_have_the_bits_of_the_slice(shared_data):
    for path in sorted((shared_data / "asvspoof2021_df_flac").glob("*.flac")):
        whole = decode_audio(path)
        for start in range(0, len(whole), 3001):
            part = decode_audio(path, start=start, num_samples=5000)
            np.testing.assert_array_equal(
                part, whole[start : start + 5000], err_msg=f"{path.name} from {start}"
            )


def test_asvspoof2019_files_have_the_samples_that_their_md5_is_of(shared_data):
    paths = sorted((shared_data / "asvspoof2019_la_mini").rglob("*.flac"))

    differing = []
    for path in paths:
        pcm = (decode_audio(path) * 2**15).astype("<i2")
        stated = path.open("rb").read(42)[26:]  # at the end of STREAMINFO
        if hashlib.md5(pcm.tobytes()).digest() != stated:
            differing.append(path.name)

    assert len(paths) > 600 and differing == []
