"""
What `eval.py` does before and after the network scores a corpus, part by part, on as many files as one likes:
recordings of a split under N names, hard-linked into a temporary folder in the layout of ASVspoof 2019 LA.
With a model, the whole of `eval.py` follows, with all further arguments handed to it.

    python tests/benchmarks/around_scoring.py --data_dir ../shared/data/asvspoof2019_la_mini
    python tests/benchmarks/around_scoring.py --data_dir LA --model MODEL --bf16 --torch_compile
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print the seconds of a part, on the clock and of all cores."""
    start, cpu_start = time.perf_counter(), sum(os.times()[:4])  # of children, too
    yield
    seconds, cpu_seconds = time.perf_counter() - start, sum(os.times()[:4]) - cpu_start
    print(f"{what}: {seconds:.2f} s, {cpu_seconds:.2f} CPU seconds", flush=True)


with measured("imports"):
    import numpy as np
    from accelerate import PartialState

    import modeling  # noqa: F401  as eval.py does
    from metrics.statistics import Bootstrap
    from processing.corpora import CorpusArguments, load_corpus, take_readable_splits
    from processing.model_evaluation import evaluate_model  # noqa: F401  and all that it imports
    from processing.results import describe_environment, evaluate_corpus, write_results
    from processing.resuming import hash_rows
    from processing.trials import list_trials


def make_corpus(folder: Path, recordings: list[Path], num_files: int) -> None:
    """An eval split of `num_files` names of the recordings: a tenth bona fide, 13 attacks, 67 speakers."""
    audio, protocols = folder / "ASVspoof2019_LA_eval" / "flac", folder / "ASVspoof2019_LA_cm_protocols"
    audio.mkdir(parents=True)
    protocols.mkdir()
    lines = []
    for i in range(num_files):
        target, source = audio / f"LA_E_{i:07d}.flac", recordings[i % len(recordings)]
        if i < len(recordings):
            shutil.copyfile(source, target)  # the corpus may be on another disk
        else:
            target.hardlink_to(audio / f"LA_E_{i % len(recordings):07d}.flac")
        attack_and_key = f"A{7 + i % 13:02d} spoof" if i % 10 else "- bonafide"
        lines.append(f"LA_{i % 67:04d} {target.stem} - {attack_and_key}\n")
    (protocols / "ASVspoof2019.LA.cm.eval.trl.txt").write_text("".join(lines))


def measure_parts(folder: Path) -> None:
    """All of an evaluation of the corpus in the folder but the model; the scores are drawn."""
    with measured("corpus"):
        corpus = load_corpus(CorpusArguments(data_dir=str(folder)))
    for when in ("for the first time", "again"):
        with measured(f"readable recordings, {when}"):
            corpus, splits = take_readable_splits(corpus, {"eval": "eval"}, allow_unreadable=False)
    with measured("hash of the rows"):
        hash_rows(splits["eval"])
    trials = list_trials(splits["eval"])
    scores = np.random.default_rng(0).normal(size=len(trials)) + 3 * (trials["key"] == "bonafide").to_numpy()
    with measured("results with intervals"):
        results = evaluate_corpus(corpus, "eval", trials, scores, bootstrap=Bootstrap(1000))
    with measured("files of results, plots"):
        write_results(folder / "results", results, trials, {"drawn": scores})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with FLAC files, at any depth")
    parser.add_argument("--num_files", type=int, default=20_000)
    parser.add_argument("--model", help="folder or Hub id of a trained model, for the whole of eval.py")
    args, of_eval = parser.parse_known_args()
    environment = describe_environment()
    print(f"{date.today()}, {environment['hardware']}, torch {environment['versions']['torch']}")
    PartialState(cpu=args.model is None)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_corpus(folder, sorted(args.data_dir.rglob("*.flac")), args.num_files)
        measure_parts(folder)
        if args.model:
            command = [sys.executable, "eval.py", "--model", args.model, "--data_dir", folder, *of_eval]
            with measured("eval.py as a whole, recordings known to be readable"):
                subprocess.run([*command, "--output_dir", folder / "evaluation"], check=True)


if __name__ == "__main__":
    main()
