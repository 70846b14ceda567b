"""Seconds and memory of loading the whole evaluation protocol of ASVspoof 2019 LA: text to rows, no audio.

    python tests/benchmarks/protocol.py --protocol ASVspoof2019.LA.cm.eval.trl.txt

Without a protocol, one of the same size is generated in the official format. Seconds are of the wall clock,
the protocol in the page cache, and without the look for the audio files. Memory is what the first load adds,
at its highest, to what the process holds after the imports; it is read from /proc, so on Linux only.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from processing.asvspoof2019 import read_protocol  # noqa: E402
from processing.trials import make_rows  # noqa: E402


NUM_TRIALS = 71_237


def write_protocol(path: Path) -> Path:
    """As many lines as the official one has, with names as long; every tenth trial is bona fide."""
    with path.open("w") as lines:
        for i in range(NUM_TRIALS):
            kind = f"A{7 + i % 13:02d} spoof" if i % 10 else "- bonafide"
            lines.write(f"LA_{i % 67:04d} LA_E_{1_000_000 + i} - {kind}\n")
    return path


def load(protocol: Path) -> dict[str, float]:
    """Seconds of each step."""
    begin = time.perf_counter()
    columns = read_protocol(protocol)
    parsed = time.perf_counter()
    rows = make_rows(columns, [f"/corpora/LA/flac/{utterance}.flac" for utterance in columns.utterance_id])
    end = time.perf_counter()
    return {
        f"read_protocol, {len(rows):,} lines": parsed - begin,
        f"make_rows, {len(rows):,} rows": end - parsed,
        "both": end - begin,
    }


def mebibytes(name: str) -> float:
    """A figure of this process: "VmRSS" is the memory held now, "VmHWM" the most that it ever held."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--protocol", type=Path, help="official protocol to load instead of a generated one")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        protocol = arguments.protocol or write_protocol(Path(folder, "protocol.txt"))
        imports = mebibytes("VmRSS")
        repeats = [load(protocol)]
        peak = mebibytes("VmHWM")
        repeats += [load(protocol) for _ in range(arguments.repeats - 1)]

    from processing.results import describe_environment  # imports torch, which loading does without

    environment = describe_environment()
    hardware, versions = environment["hardware"], environment["versions"]
    print(f"{'seconds':<38}{'best':>8}{'median':>8}{'first':>8}")
    for name in repeats[0]:
        seconds = [repeat[name] for repeat in repeats]
        print(f"{name:<38}{min(seconds):>8.3f}{statistics.median(seconds):>8.3f}{seconds[0]:>8.3f}")
    print(f"\nmemory over the imports (which hold {imports:.0f} MiB), at most: {peak - imports:.0f} MiB")
    print(
        f"{arguments.protocol.name if arguments.protocol else 'generated protocol'}, {len(repeats)} repeats"
    )
    print(f"{hardware['cpu']}, {hardware['cores']} cores; Python {versions['python']}", end=", ")
    print(f"datasets {versions['datasets']}; {date.today()}")


if __name__ == "__main__":
    main()
