"""
kill -9 of train.py and of eval.py at random points, until the same command has done the rest:

    PYTHONPATH=. python tests/campaigns/kill_training.py --kills 20

A small RawNet2 is trained on a part of the demo corpus, and the train split is scored, once without a kill
and then with them, by the same command (training: --resume_from_checkpoint last). Weights and scores must
have the same bits, and the folder the same files. Each start is a forked process that has all imports, so
that most kills meet the work itself; a third of them come within the first second.
"""

import argparse
import importlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import yaml


sys.path.insert(0, str(Path(__file__).parents[1]))


def run(program: str, arguments: list, log: Path, seconds: float | None = None) -> int:
    """Exit status of a program; that of a kill, if it has not ended after so many seconds."""
    if (child := os.fork()) == 0:
        out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.setpgid(0, 0)
        status = 70
        try:
            status = importlib.import_module(program).main([*map(str, arguments)]) or 0
        except SystemExit as stop:
            print(stop.code)
            status = 1
        finally:
            sys.stdout.flush()
            os._exit(status)
    until = time.monotonic() + (seconds or 3600)
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def list_files(folder: Path) -> list[str]:
    """Files of a folder, hidden ones too, but for TensorBoard's, of which each start writes one."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if "tfevents" not in path)


def kill_often(program: str, arguments: list, folder: Path, expected: Path, result: str, args) -> None:
    """Kill a program so often, and compare what it leaves each time that it is done."""
    log, kills, rounds = folder.with_suffix(".log"), 0, 0
    started = time.monotonic()
    reference = run(program, [*arguments, "--output_dir", expected], log)
    whole = time.monotonic() - started
    assert reference == 0, log.read_text()[-2000:]
    while kills < args.kills:
        output = folder / f"round{rounds}"
        own = [*arguments, "--output_dir", output]
        while True:
            seconds = random.uniform(0, 1) if random.random() < 1 / 3 else random.uniform(0, 0.7 * whole)
            status = run(program, own, log, seconds if kills < args.kills else None)
            if status != -signal.SIGKILL:
                break
            kills += 1
        assert status == 0, log.read_text()[-2000:]
        same = (output / result).read_bytes() == (expected / result).read_bytes()
        other = sorted({*list_files(output)} ^ {*list_files(expected)})
        rounds += 1
        print(f"{program}: {kills} kills, round {rounds}: same bits {same}, other files {other}", flush=True)
        assert same and not other
    print(
        f"{program}: {kills} kills in {rounds} rounds of {whole:.0f} s: {result} has the same bits",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="Of training, and as many of scoring.")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        os.environ |= {"HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        os.environ |= {"OMP_NUM_THREADS": "1"}
        from conftest import TINY_RECIPE

        for program in ("train", "eval"):
            importlib.import_module(program)
        training = {**TINY_RECIPE["training"], "num_train_epochs": 3, "dataloader_num_workers": 0}
        recipe = work / "tiny.yaml"
        recipe.write_text(yaml.safe_dump({**TINY_RECIPE, "training": {**training, "report_to": "none"}}))
        arguments = ["--model", recipe, "--use_cpu", "true", "--resume_from_checkpoint", "last"]
        arguments += ["--train_split", "train[:24]", "--dev_split", "dev[:16]", "--eval_split", "eval[:16]"]
        (work / "train").mkdir()
        (work / "eval").mkdir()
        kill_often("train", arguments, work / "train", work / "trained", "model.safetensors", args)
        arguments = ["--model", work / "trained", "--dataset", "demo", "--split", "train", "--use_cpu"]
        arguments += ["--batch_size", "2", "--num_workers", "0", "--num_resamples", "0"]
        kill_often("eval", arguments, work / "eval", work / "scored", "scores.txt", args)


if __name__ == "__main__":
    main()
