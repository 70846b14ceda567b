"""Seconds and memory of loading the evaluation protocol of ASVspoof 2019 LA, text to rows without audio,
and a score file of as many trials as ASVspoof 2021 DF has.

    python tests/benchmarks/protocol.py --protocol ASVspoof2019.LA.cm.eval.trl.txt

Without a protocol, one of the same size is generated in the official format. Seconds are of the wall clock,
the files in the page cache, and without the look for the audio files. Memory is what the first load of both
adds, at its highest, to what the process holds after the imports; it is read from /proc, so on Linux only.
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

from processing.asvspoof2019 import LA  # noqa: E402
from processing.scores import match_scores, read_scores  # noqa: E402
from processing.trials import make_rows  # noqa: E402


NUM_TRIALS = 71_237
NUM_SCORES = 600_000


def write_protocol(path: Path, num_trials: int) -> Path:
    """Lines like the official ones, with names as long; every tenth trial is bona fide."""
    with path.open("w") as lines:
        for i in range(num_trials):
            kind = f"A{7 + i % 13:02d} spoof" if i % 10 else "- bonafide"
            lines.write(f"LA_{i % 67:04d} LA_E_{1_000_000 + i} - {kind}\n")
    return path


def write_scores(path: Path, num_trials: int) -> Path:
    """Scores of the trials of [`write_protocol`], backwards."""
    with path.open("w") as lines:
        for i in reversed(range(num_trials)):
            kind = f"A{7 + i % 13:02d} spoof" if i % 10 else "- bonafide"
            lines.write(f"LA_E_{1_000_000 + i} {kind} {i * 0.00123456789 - 3:.9g}\n")
    return path


def load(protocol: Path, listed: Path, scores: Path) -> dict[str, float]:
    """Seconds of each step."""
    begin = time.perf_counter()
    trials = LA.read_protocol(protocol)
    parsed = time.perf_counter()
    rows = make_rows(trials, "/corpora/LA/flac/" + trials["utterance_id"] + ".flac")
    made = time.perf_counter()
    trials = LA.read_protocol(listed)
    begin_of_scores = time.perf_counter()
    scored = read_scores(scores)
    read = time.perf_counter()
    match_scores(scored, trials, file=scores, source="the protocol")
    end = time.perf_counter()
    return {
        f"read_protocol, {len(rows):,} lines": parsed - begin,
        f"make_rows, {len(rows):,} rows": made - parsed,
        "both": made - begin,
        f"read_scores, {len(scored):,} lines": read - begin_of_scores,
        f"match_scores, {len(scored):,} lines": end - read,
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
        files = (
            arguments.protocol or write_protocol(Path(folder, "protocol.txt"), NUM_TRIALS),
            write_protocol(Path(folder, "listed.txt"), NUM_SCORES),
            write_scores(Path(folder, "scores.txt"), NUM_SCORES),
        )
        imports = mebibytes("VmRSS")
        repeats = [load(*files)]
        peak = mebibytes("VmHWM")
        repeats += [load(*files) for _ in range(arguments.repeats - 1)]

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
