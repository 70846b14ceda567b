"""Damaged files: what decodes is what the ffmpeg program decodes, at its time; what was skipped is said."""

import logging
import re
import subprocess
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import soundfile as sf

from processing.audio import count_samples, decode_audio, decode_windows
from processing.audio_file import Remarks


RATE = 16_000
SECONDS = 4.0
ENCODERS = {
    "a.mp3": ["-b:a", "64k"],
    "vbr.mp3": ["-q:a", "5"],
    "stream.mp3": ["-b:a", "64k", "-write_xing", "0"],
    "a.aac": [],
    "a.m4a": [],
    "a.ogg": ["-c:a", "libvorbis"],
    "a.opus": [],
    "a.webm": ["-c:a", "libopus", "-cluster_time_limit", "500"],
    "a.mka": ["-c:a", "aac", "-cluster_time_limit", "500"],
    "a.wma": [],
    "a.ts": ["-c:a", "aac"],
    "a.ac3": [],
    "a.mp2": [],
    "a.flac": [],
}


def run_ffmpeg(*arguments) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", "-y", *map(str, arguments)]
    return subprocess.run(command, capture_output=True).stdout


def ffmpeg_pcm(path: Path) -> np.ndarray:
    """As the ffmpeg program decodes the file, damaged or not, at its own rate."""
    return np.frombuffer(run_ffmpeg("-i", path, "-f", "f32le", "-"), "<f4")


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, bytes]:
    """Content of a file in each format: noise that swells, so that every second is unlike the others."""
    folder = tmp_path_factory.mktemp("sound")
    time = np.arange(int(RATE * SECONDS)) / RATE
    noise = np.random.default_rng(0).standard_normal(len(time)) * (0.02 + 0.05 * time)
    sf.write(folder / "original.wav", noise, RATE)
    for name, options in ENCODERS.items():
        run_ffmpeg("-i", folder / "original.wav", *options, folder / name)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def overwrite(content: bytes, at: float, num_bytes: int) -> bytes:
    """Noise over so many bytes, from a place on that is a part of the whole."""
    begin = int(len(content) * at)
    noise = np.random.default_rng(1).integers(0, 256, num_bytes, dtype=np.uint8).tobytes()
    return content[:begin] + noise + content[begin + num_bytes :]


def decode(path: Path) -> tuple[np.ndarray, Remarks]:
    remarks = Remarks()
    samples = decode_audio(path, remarks=remarks)
    assert count_samples(path) == len(samples)
    return samples, remarks


# What is appended


@pytest.mark.parametrize("junk", [b"{}", b"\n", bytes(100)])
@pytest.mark.parametrize("name", ["a.mp3", "vbr.mp3", "stream.mp3", "a.mp2", "a.aac"])
def test_what_follows_the_last_packet_costs_nothing_but_a_remark(sound, tmp_path, name, junk):
    path = tmp_path / name
    path.write_bytes(sound[name])
    whole, _ = decode(path)
    path.write_bytes(sound[name] + junk)

    samples, remarks = decode(path)

    np.testing.assert_array_equal(samples, whole)
    assert remarks.skipped_seconds == 0
    assert "1 packet that cannot be decoded" in remarks.describe() or "left unread" in remarks.describe()


@pytest.mark.parametrize("name", ["a.mp3", "vbr.mp3", "stream.mp3", "a.aac"])
def test_two_files_in_a_row_are_decoded_as_ffmpeg_decodes_them(sound, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(2 * sound[name])

    samples, remarks = decode(path)

    assert abs(len(samples) - len(ffmpeg_pcm(path)) - RATE * remarks.skipped_seconds) < 1152
    assert remarks.skipped_packets == (0 if name == "a.aac" else 1) and remarks.skipped_seconds < 0.04


# Damage in the middle


@pytest.mark.parametrize("name", sorted(set(ENCODERS) - {"a.mp3", "vbr.mp3", "a.mp2", "a.ac3"}))
def test_damage_in_the_middle_is_skipped_as_by_ffmpeg_and_remarked(sound, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(overwrite(sound[name], 0.5, 1000))
    rate, remarks = 48_000 if name in ("a.opus", "a.webm") else RATE, Remarks()

    samples = decode_audio(path, sampling_rate=rate, remarks=remarks)

    expected = ffmpeg_pcm(path)
    assert abs(len(samples) - rate * remarks.skipped_seconds - len(expected)) < 1100
    np.testing.assert_allclose(samples[:rate], expected[:rate], atol=1e-4)
    assert 0 < remarks.skipped_seconds < 2.1  # two pages of Opus
    assert re.search("replaced by silence, (at|in)", remarks.describe())


@pytest.mark.parametrize("name", ["a.flac", "a.m4a", "a.mka", "a.ogg", "a.opus", "a.ts", "a.webm", "a.wma"])
def test_what_follows_a_hole_keeps_its_time(sound, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(sound[name])
    whole, _ = decode(path)
    path.write_bytes(overwrite(sound[name], 0.5, 64))

    samples, remarks = decode(path)

    assert len(samples) == len(whole)
    np.testing.assert_allclose(samples[-RATE // 2 :], whole[-RATE // 2 :], atol=1e-4)
    assert abs((samples == 0).sum() / RATE - remarks.skipped_seconds) < 0.01


def test_packet_that_claims_to_be_of_another_track_is_silence(sound, tmp_path):
    path, content = tmp_path / "a.ts", bytearray(sound["a.ts"])
    path.write_bytes(content)
    whole, _ = decode(path)
    begins = [i for i in range(0, len(content), 188) if content[i + 1 : i + 3] == b"\x41\x00"]  # PID 256
    content[begins[len(begins) // 2] + 2] |= 8  # now 264
    path.write_bytes(content)

    samples, remarks = decode(path)

    assert len(samples) == len(whole) and 0 < remarks.skipped_seconds < 0.5
    np.testing.assert_allclose(samples[-RATE // 2 :], whole[-RATE // 2 :], atol=1e-4)


@pytest.mark.parametrize("name", ["a.flac", "a.m4a", "a.opus", "stream.mp3"])
def test_parts_and_windows_of_a_damaged_file_have_the_bits_of_the_whole(sound, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(overwrite(sound[name], 0.4, 200))
    whole, expected = decode(path)
    remarks = Remarks()

    windows = list(decode_windows(path, num_samples=9000, hop=7000, remarks=remarks))

    assert remarks == expected and windows[-1][0] + 9000 == len(whole)
    for start, samples in windows:
        np.testing.assert_array_equal(samples, whole[start : start + 9000])
        part = decode_audio(path, start=start, num_samples=9000, remarks=Remarks())
        np.testing.assert_array_equal(part, samples)


@pytest.mark.parametrize("name", ["a.aac", "a.m4a", "a.mp3", "a.webm"])
def test_file_of_which_less_than_half_decodes_is_an_error(sound, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(overwrite(sound[name], 0.2, len(sound[name]) * 7 // 10))

    with pytest.raises(ValueError, match=rf"{name} less than half can be decoded. Fetch it again. .*[1-9]\d"):
        decode_audio(path)


@pytest.mark.parametrize(("jump", "seconds"), [(1, 5.0), (70, 4.0)])
def test_hole_of_an_endless_stream_is_filled_if_it_can_be_one(sound, tmp_path, jump, seconds):
    (tmp_path / "a.m4a").write_bytes(sound["a.m4a"])
    path = tmp_path / "a.mka"
    with av.open(tmp_path / "a.m4a") as source, av.open(path, "w", options={"live": "1"}) as target:
        track = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.pts = packet.dts = packet.pts + (jump * RATE if packet.pts > 2 * RATE else 0)
                packet.stream = track
                target.mux(packet)

    samples, remarks = decode(path)

    assert len(samples) / RATE == pytest.approx(seconds, abs=0.1)
    assert remarks.skipped_seconds == pytest.approx(jump if jump == 1 else 0, abs=0.01)
    assert ("what follows is joined on" in remarks.describe()) == (jump == 70)


# What is said


def test_remark_says_how_many_packets_how_long_and_where(sound, tmp_path, caplog):
    path = tmp_path / "a.m4a"
    path.write_bytes(overwrite(overwrite(sound["a.m4a"], 0.3, 600), 0.7, 20))
    _, remarks = decode(path)

    with caplog.at_level(logging.WARNING):
        decode_audio(path)
        decode_audio(path)

    text = remarks.describe()
    pattern = (
        r"Skipped: _ packets that cannot be decoded, _ s replaced by silence, in 2 places from _ s to _ s\."
    )
    found = re.fullmatch(pattern.replace("_", "([0-9.]+)"), text)
    packets, seconds, first, last = map(float, found.groups())
    assert packets == remarks.skipped_packets and seconds == pytest.approx(packets * 1024 / RATE, abs=0.01)
    assert (first, last) == (pytest.approx(1.2, abs=0.3), pytest.approx(2.8, abs=0.3))
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {text} (said once)"]


# Lengths


@pytest.mark.parametrize("name", ["a.mp3", "vbr.mp3"])
def test_damage_is_held_against_the_length_that_an_mp3_states(sound, tmp_path, name):
    (tmp_path / name).write_bytes(overwrite(sound[name], 0.5, 1000))

    samples, remarks = decode(tmp_path / name)

    (missing,) = re.findall(r"a length of 4\.00 s, of which ([0-9.]+) s are missing", remarks.describe())
    assert float(missing) > 0.02
    assert len(samples) / RATE + float(missing) == pytest.approx(SECONDS, abs=0.006)


def test_length_that_ffmpeg_guesses_cuts_nothing_off(sound, tmp_path):
    original, path = tmp_path / "late.wav", tmp_path / "late.mp3"
    time = np.arange(int(RATE * SECONDS)) / RATE
    sf.write(original, 0.3 * (time > 1) * np.random.default_rng(0).uniform(-1, 1, len(time)), RATE)
    run_ffmpeg("-i", original, *ENCODERS["vbr.mp3"], path)
    path.write_bytes(bytes(100) + path.read_bytes())  # the first second lets guess more than a minute

    samples, _ = decode(path)

    np.testing.assert_allclose(samples, ffmpeg_pcm(path), atol=1e-5)


def test_length_behind_a_large_picture_is_found(sound, tmp_path):
    content = sound["vbr.mp3"]
    size = 300_000
    sync_safe = bytes(size >> shift & 127 for shift in (21, 14, 7, 0))
    frame = b"APIC" + (size - 10).to_bytes(4, "big") + bytes(2)
    tag = b"ID3\3\0\0" + sync_safe + frame + np.random.default_rng(0).bytes(size - 10)
    sound_alone = content[content.index(b"\xff\xf3") :]
    path = tmp_path / "a.mp3"
    path.write_bytes(tag + sound_alone)
    whole, remarks = decode(path)
    path.write_bytes(tag + sound_alone[: len(sound_alone) // 2])

    with pytest.raises(ValueError, match="a.mp3 was cut off: .* samples are missing"):
        decode_audio(path)

    assert len(whole) == RATE * SECONDS and remarks == Remarks()


@pytest.mark.parametrize(
    ("name", "remark"), [("a.webm", "4.0. s, of which 0.[6-9]. s"), ("a.ogg", "cut off")]
)
def test_end_that_was_cut_off_a_stream_is_remarked(sound, tmp_path, name, remark):
    path = tmp_path / name
    path.write_bytes(sound[name][: int(0.8 * len(sound[name]))])

    remarks = Remarks()
    samples = decode_audio(path, sampling_rate=48_000 if name == "a.webm" else RATE, remarks=remarks)

    assert len(samples) == len(ffmpeg_pcm(path))
    assert re.search(remark, remarks.describe())


@pytest.mark.parametrize("name", ["a.ogg", "a.opus"])
def test_damage_of_any_page_of_an_ogg_is_remarked(sound, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(sound[name])
    whole, remarks = decode(path)
    assert remarks.describe() == ""
    pages = [found.start() for found in re.finditer(b"OggS", sound[name])]

    for page in pages[2:]:  # behind those of the header
        path.write_bytes(sound[name][: page + 200] + sound[name][page + 220 :])
        samples, remarks = decode(path)
        assert len(samples) <= len(whole) and remarks.describe()


@pytest.mark.parametrize(("form", "subtype"), [("W64", "PCM_16"), ("RF64", "PCM_16"), ("WAV", "MS_ADPCM")])
def test_forms_of_wav_that_were_cut_off_are_errors(tmp_path, form, subtype):
    path = tmp_path / "a.wav"
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, RATE), RATE, format=form, subtype=subtype)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])

    with pytest.raises(ValueError, match="a.wav was cut off"):
        decode_audio(path)


@pytest.mark.parametrize("form", ["WAV", "RF64", "AIFF", "AU"])
def test_what_follows_the_stated_end_is_left_unread_and_remarked(tmp_path, form):
    path = tmp_path / "a"
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, RATE // 10), RATE, format=form)
    whole, alone = decode(path)
    content = path.read_bytes()
    path.write_bytes(5 * content)

    samples, remarks = decode(path)

    np.testing.assert_array_equal(samples, whole)
    unread = int(re.search(r"left unread: (.*)\.", remarks.describe())[1].replace(",", ""))
    assert alone == Remarks() and unread == 4 * len(content)


def test_chunks_after_the_samples_of_a_wav_are_nothing_unread(sound, tmp_path):
    path = tmp_path / "a.wav"
    content = sound["original.wav"] + b"LIST" + (5).to_bytes(4, "little") + b"INFO!\0"
    path.write_bytes(content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:])

    assert decode(path)[1] == Remarks()


@pytest.mark.parametrize("name", ["a.m4a", "a.opus", "a.ac3"])
def test_channels_beyond_five_are_decoded_as_by_ffmpeg(tmp_path, name):
    channels, layout = (6, "5.1") if name == "a.ac3" else (8, "7.1")
    noise = 0.1 * np.random.default_rng(0).standard_normal((48_000, channels))
    sf.write(tmp_path / "original.wav", noise, 48_000)
    run_ffmpeg("-channel_layout", layout, "-i", tmp_path / "original.wav", tmp_path / name)

    samples = decode_audio(tmp_path / name, sampling_rate=48_000)

    expected = ffmpeg_pcm(tmp_path / name).reshape(-1, channels).mean(axis=1)
    np.testing.assert_allclose(samples[:40_000], expected[:40_000], atol=1e-4)


def test_what_follows_the_samples_of_a_w64_is_not_decoded_and_no_traceback_is_printed(tmp_path, capfd):
    path = tmp_path / "a.w64"
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    whole, content = decode_audio(path), path.read_bytes()
    path.write_bytes(content + np.random.default_rng(1).bytes(len(content) // 2))

    samples, remarks = decode(path)

    np.testing.assert_array_equal(samples, whole)
    assert "left unread" in remarks.describe()
    assert "Traceback" not in capfd.readouterr().err


def test_two_flac_files_in_a_row_are_read_as_the_first_with_a_remark(sound, tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(sound["a.flac"])
    whole, nothing = decode(path)
    path.write_bytes(2 * sound["a.flac"])

    samples, remarks = decode(path)

    np.testing.assert_array_equal(samples, whole)
    assert nothing.describe() == "" and "left unread" in remarks.describe()


def test_flac_that_holds_more_than_it_states_says_so(sound, tmp_path):
    path, remarks, content = tmp_path / "a.flac", Remarks(), sound["a.flac"]
    third = len(content) // 3
    path.write_bytes(content[: len(content) // 2] + 2 * content[-third:])

    samples = decode_audio(path, remarks=remarks)

    assert f"states a length of 4.00 s, but holds {len(samples) / RATE:.2f} s" in remarks.describe()
