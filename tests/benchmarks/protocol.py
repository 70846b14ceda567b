"""Seconds and memory of loading the evaluation protocol of ASVspoof 2019 LA, text to rows without audio,
and a score file of as many trials as ASVspoof 2021 DF has.

    python tests/benchmarks/protocol.py --protocol ASVspoof2019.LA.cm.eval.trl.txt

Without a protocol, one of the same size is generated in the official format. The files are in the page cache,
and the look for the audio files is left out. Memory is what the first load adds, at its highest, to what the
process holds after the imports; it is read from /proc, so on Linux only.
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

from processing.layouts import LAYOUTS  # noqa: E402
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


class Stopwatch:
    """Seconds of the wall clock and of the CPU, all threads, by what they were spent on."""

    def __init__(self):
        self.seconds: dict[str, tuple[float, float]] = {}
        self._begin = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """Ends what is called so; the next begins."""
        now = time.perf_counter(), time.process_time()
        self.seconds[name] = now[0] - self._begin[0], now[1] - self._begin[1]
        self._begin = time.perf_counter(), time.process_time()


def load_rows(protocol: Path) -> dict[str, tuple[float, float]]:
    """Seconds of each step from a protocol to rows."""
    watch = Stopwatch()
    trials = LAYOUTS["asvspoof2019-la"].read_protocol(protocol)
    watch.lap(f"read_protocol, {len(trials):,} lines")
    make_rows(trials, "/corpora/LA/flac/" + trials["utterance_id"] + ".flac")
    watch.lap(f"make_rows, {len(trials):,} rows")
    return watch.seconds


def load_scores(scores: Path, protocol: Path) -> dict[str, tuple[float, float]]:
    """Seconds of each step from a score file to the scores of a protocol's trials."""
    trials = LAYOUTS["asvspoof2019-la"].read_protocol(protocol)
    watch = Stopwatch()
    scored = read_scores(scores)
    watch.lap(f"read_scores, {len(scored):,} lines")
    match_scores(scored, trials, file=scores, source="the protocol")
    watch.lap(f"match_scores, {len(scored):,} trials")
    return watch.seconds


def mebibytes(name: str) -> float:
    """A figure of this process: "VmRSS" is the memory held now, "VmHWM" the most that it ever held."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--protocol", type=Path, help="official protocol to load instead of a generated one")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        protocol = arguments.protocol or write_protocol(Path(folder, "protocol.txt"), NUM_TRIALS)
        listed = write_protocol(Path(folder, "listed.txt"), NUM_SCORES)
        scores = write_scores(Path(folder, "scores.txt"), NUM_SCORES)
        imports, peaks, repeats = mebibytes("VmRSS"), [], []
        for _ in range(arguments.repeats):
            rows = load_rows(protocol)
            peaks.append(mebibytes("VmHWM") - imports)
            repeats.append(rows | load_scores(scores, listed))
            peaks.append(mebibytes("VmHWM") - imports)

    from processing.results import describe_environment  # imports torch, which loading does without

    environment = describe_environment()
    hardware, versions = environment["hardware"], environment["versions"]
    print(f"{'seconds, medians':<32}{'wall':>8}{'CPU':>8}")
    for name in repeats[0]:
        wall, cpu = (statistics.median(repeat[name][i] for repeat in repeats) for i in (0, 1))
        print(f"{name:<32}{wall:>8.3f}{cpu:>8.3f}")
    print(f"\nmemory over the imports (which hold {imports:.0f} MiB), at most:")
    print(f"{peaks[0]:.0f} MiB for the rows, {peaks[1]:.0f} MiB with the scores")
    print(
        f"{arguments.protocol.name if arguments.protocol else 'generated protocol'}, {len(repeats)} repeats"
    )
    print(f"{hardware['cpu']}, {hardware['cores']} cores; Python {versions['python']}", end=", ")
    print(f"datasets {versions['datasets']}; {date.today()}")


if __name__ == "__main__":
    main()
