"""
Score damaged recordings of all formats by eval.py, in processes whose memory and time are watched:

    python tests/campaigns/damaged_audio.py --model runs/lcnn --folder /tmp/campaign --files 10000

Each file is whole, or cut off, has flipped bits, holes, parts of other files, another file's header or name,
is empty or garbage, states a length of its own making, or is a playlist that asks for files of this machine
and for pages of a server, which counts the requests. eval.py must end by itself and give each file a score or
a reason. A score must be of the samples that the ffmpeg program decodes, or the file must have a remark.

What a campaign found is kept in its folder: the files, and `findings.csv`.
"""

import argparse
import csv
import http.server
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pandas as pd
import soundfile

from processing.audio import decode_audio, read_header
from processing.demo import synthesise


ROOT = Path(__file__).parents[2]
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
RATE = 16_000
ENDINGS = {  # options of ffmpeg by which the format is written
    **dict.fromkeys(
        ("wav", "flac", "aiff", "au", "caf", "w64", "mp3", "aac", "ac3", "wma", "opus", "mp2"), ()
    ),
    **{
        "float.wav": ("-c:a", "pcm_f32le"),
        "law.wav": ("-c:a", "pcm_alaw"),
        "adpcm.wav": ("-c:a", "adpcm_ms"),
    },
    **{"24.flac": ("-sample_fmt", "s32"), "ogg": ("-c:a", "libvorbis"), "oga": ("-c:a", "flac")},
    **{
        "m4a": (),
        "alac.m4a": ("-c:a", "alac"),
        "mp4": ("-movflags", "+frag_keyframe"),
        "webm": (),
        "mka": (),
    },
    **{"ts": ("-c:a", "aac"), "avi": ("-c:a", "mp3"), "mov": ("-c:a", "pcm_s16be"), "g722": ("-f", "g722")},
}
FILES_OF_A_PROCESS = 250
SECONDS_OF_A_FILE = 6  # that a process may take, times the load of the machine
LARGEST_MEMORY = 3 * 2**30


def make_sources(folder: Path) -> dict[str, bytes]:
    """Content of a file of 1 to 5 s of each format."""
    rng, sources = np.random.default_rng(0), {}
    for index, (ending, options) in enumerate(ENDINGS.items()):
        signal = np.tile(synthesise(np.random.default_rng(index), rng), 3)[: int(RATE * rng.uniform(1, 5))]
        soundfile.write(folder / "source.wav", 0.5 * signal / np.abs(signal).max(), RATE)
        made = folder / f"made.{ending}"
        subprocess.run([FFMPEG, "-v", "error", "-y", "-i", folder / "source.wav", *options, made], check=True)
        sources[ending] = made.read_bytes()
    return sources


def damage(kind: str, content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """The content of a file, damaged in one way."""
    size = len(content)
    begin, end = sorted(rng.integers(0, size, 2))
    if kind == "whole":
        return content
    if kind == "cut off":
        return content[:begin]
    if kind == "beginning lost":
        return content[begin:]
    if kind == "hole":
        return content[:begin] + content[end:]
    if kind == "zeros":
        return content[:begin] + bytes(int(end - begin)) + content[end:]
    if kind in ("bits flipped", "header's bits flipped"):
        bits = np.unpackbits(np.frombuffer(content, np.uint8))
        reach = len(bits) if kind == "bits flipped" else min(len(bits), 8 * 200)
        bits[rng.integers(0, reach, int(2 ** rng.uniform(0, 8)))] ^= 1
        return np.packbits(bits).tobytes()
    if kind == "spliced":
        return content[:begin] + other[int(rng.integers(0, len(other))) :]
    if kind == "followed":
        return content + other
    if kind == "header of another":
        return other[: int(rng.integers(4, 300))] + content[int(rng.integers(0, 300)) :]
    if kind == "numbers of the header":  # lengths, rates, numbers of channels
        place, number = (
            int(rng.integers(0, min(size, 120) - 4)),
            rng.choice([0, 1, 2**15, 2**31 - 1, 2**32 - 1]),
        )
        return content[:place] + int(number).to_bytes(4, rng.choice(["little", "big"])) + content[place + 4 :]
    if kind == "garbage":
        return rng.bytes(int(10 ** rng.uniform(0, 5)))
    return b""


KINDS = (
    *(
        "whole",
        "cut off",
        "beginning lost",
        "hole",
        "zeros",
        "bits flipped",
        "header's bits flipped",
        "spliced",
    ),
    *("followed", "header of another", "numbers of the header", "garbage", "empty"),
)


def write_playlist(address: str, victim: Path, rng: np.random.Generator) -> tuple[str, bytes]:
    """Ending and content of a file that asks a player for others: of this machine, and of a server."""
    target = str(
        rng.choice([str(victim), f"file://{victim}", f"{address}/a.wav", f"concat:{victim}|{victim}"])
    )
    lists = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        "pls": f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nm=audio {address[-5:]} RTP/AVP 0\n",
        "xspf": f'<playlist xmlns="http://xspf.org/ns/0/"><track><location>{target}</location></track></playlist>',
        "mpd": f"<MPD><Period><AdaptationSet><BaseURL>{target}</BaseURL></AdaptationSet></Period></MPD>",
    }
    name = str(rng.choice(list(lists)))
    return str(rng.choice(["wav", "mp3", "m4a", "flac"])), lists[name].encode()


def write_files(folder: Path, number: int, address: str, victim: Path, rng: np.random.Generator) -> list[str]:
    """Write so many files, and return what each is, in the order of their names."""
    sources = make_sources(folder.parent)
    kinds = []
    for index in range(number):
        if rng.uniform() < 0.03:
            kind, (ending, content) = "playlist", write_playlist(address, victim, rng)
        else:
            kind = str(rng.choice(KINDS))
            ending, other = (str(rng.choice(list(sources))) for _ in range(2))
            content = damage(kind, sources[ending], sources[other], rng)
            if rng.uniform() < 0.05:
                kind, ending = f"{kind}, under another name", other
        part = folder / f"{index // FILES_OF_A_PROCESS:03}"
        part.mkdir(exist_ok=True)
        Path(part, f"{index:06}.{ending}").write_bytes(content)
        kinds.append(kind)
    return kinds


def write_hours(folder: Path) -> None:
    """Two recordings of three hours, and two that only say so."""
    folder.mkdir()
    quiet = [FFMPEG, "-v", "error", "-f", "lavfi", "-i", "anoisesrc=r=16000:d=10800:a=0.01"]
    subprocess.run(
        [*quiet, folder / "three_hours.flac", "-b:a", "16k", folder / "three_hours.mp3"], check=True
    )
    soundfile.write(folder / "a.wav", np.zeros(RATE), RATE)
    content = (folder / "a.wav").read_bytes()
    (folder / "a.wav").write_bytes(content[:40] + (2 * 3 * 3600 * RATE).to_bytes(4, "little") + content[44:])
    content = (folder / "three_hours.flac").read_bytes()
    (folder / "cut.flac").write_bytes(content[: len(content) // 1000])


def score(model: str, folder: Path, output: Path) -> tuple[float, int, int]:
    """Seconds that eval.py takes for a folder, its exit status and its largest memory in bytes."""
    command = [sys.executable, ROOT / "eval.py", "--model", model, "--num_threads", "1", "--overwrite"]
    command += ["--files", folder, "--output_dir", output]
    started = time.monotonic()
    with open(output.with_suffix(".log"), "w") as log:
        process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=log, stderr=log)
        limit = 600 + SECONDS_OF_A_FILE * FILES_OF_A_PROCESS * max(1, os.getloadavg()[0])
        timer = threading.Timer(limit, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
    return time.monotonic() - started, os.waitstatus_to_exitcode(status), 1024 * usage.ru_maxrss


def compare(path: Path) -> str:
    """What is wrong with a score without a remark; "" if ffmpeg decodes the same samples."""
    rate = read_header(path).get("sampling_rate") or RATE
    ours = decode_audio(path, sampling_rate=rate)
    command = [FFMPEG, "-v", "error", "-i", path, "-map", "a:0", "-f", "f32le", "-"]
    ran = subprocess.run(command, capture_output=True, timeout=120)
    theirs = np.frombuffer(ran.stdout[: len(ran.stdout) // 4 * 4], "<f4")
    channels = read_header(path).get("channels") or 1
    theirs = theirs[: len(theirs) // channels * channels].reshape(-1, channels).mean(axis=1)
    if abs(len(ours) - len(theirs)) > 0.1 * rate:
        return f"{len(ours) / rate:.2f} s, of ffmpeg {len(theirs) / rate:.2f} s"
    shared = min(len(ours), len(theirs))
    if not np.allclose(ours[:shared], theirs[:shared], atol=1e-3):
        return "other samples than ffmpeg's"
    return ""


class CountingServer(http.server.ThreadingHTTPServer):
    requests = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        self.send_error(404)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="A small model, such as an LCNN's folder.")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, required=True, help="An empty folder, for all that is written."
    )
    parser.add_argument("--no_hours", action="store_true", help="Without the recordings of three hours.")
    args = parser.parse_args()
    recordings = args.folder / "recordings"
    recordings.mkdir(parents=True)
    victim = args.folder / "victim.wav"
    soundfile.write(victim, np.random.default_rng(0).normal(size=RATE) / 10, RATE)
    server = CountingServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    kinds = write_files(recordings, args.files, address, victim, np.random.default_rng(args.seed))
    if not args.no_hours:
        write_hours(recordings / "hours")
    found, counts, findings, longest, largest = 0, Counter(), [], 0.0, 0
    for part in sorted(recordings.iterdir()):
        output = args.folder / f"scores-{part.name}"
        seconds, status, memory = score(args.model, part, output)
        longest, largest = max(longest, seconds), max(largest, memory)
        files = sorted(path for path in part.iterdir() if path.is_file())
        if status not in (0, 1):
            findings.append({"file": part.name, "finding": f"exit status {status} after {seconds:.0f} s"})
            continue
        if memory > LARGEST_MEMORY:
            findings.append({"file": part.name, "finding": f"{memory / 2**30:.1f} GiB"})
        table = pd.read_csv(output / "recordings.csv", keep_default_na=False)
        rows = {Path(row["file"]).name: row for row in table.to_dict("records")}
        for path in files:
            row = rows.pop(path.name, None)
            kind = kinds[int(path.name[:6])] if path.name[:6].isdigit() else "three hours"
            wrong = ""
            if row is None or not any(row[name] != "" for name in ("score", "error", "withheld")):
                wrong = "neither a score nor a reason"
            elif row["error"] or row["withheld"]:
                counts[kind, "refused"] += 1
            elif kind.startswith("playlist"):
                wrong = "a score of a playlist"
            elif row["remark"]:
                counts[kind, "scored, with a remark"] += 1
            else:
                counts[kind, "scored"] += 1
                wrong = "" if kind == "three hours" else compare(path)
            if wrong:
                findings.append({"file": str(path.relative_to(recordings)), "kind": kind, "finding": wrong})
            found += 1
        if rows:
            findings.append({"file": part.name, "finding": f"rows of no file: {sorted(rows)[:3]}"})
        print(f"{found} files, {len(findings)} findings, {part.name}: {seconds:.0f} s", flush=True)
    if server.requests:
        findings.append({"file": "", "finding": f"{server.requests} requests of a server"})
    with open(args.folder / "findings.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "kind", "finding"])
        writer.writeheader()
        writer.writerows(findings)
    for (kind, outcome), number in sorted(counts.items()):
        print(f"{kind:40} {outcome:24} {number:6}")
    print(
        f"{found} files; longest process {longest:.0f} s, largest {largest / 2**30:.2f} GiB; "
        f"{server.requests} requests of the server; {len(findings)} findings: {args.folder / 'findings.csv'}"
    )


if __name__ == "__main__":
    main()
