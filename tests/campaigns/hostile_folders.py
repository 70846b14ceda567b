"""
Give hostile models, checkpoints, recipes, runs, corpora and archives to the programs:

    PYTHONPATH=. python tests/campaigns/hostile_folders.py --folder /tmp/hostile

Each attack is one call of a program in a forked process of its own, whose memory, time and files are bounded
and watched. It must end by itself, with an error in words where the attack can only be refused, and without a
traceback; no payload may run (each would leave a file `canary`); and nothing may appear, change or vanish but
in the folders of the output, the cache and the temporary files. Takes some minutes on one core.
"""

import argparse
import contextlib
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from hostile_attacks import Place

LARGEST_FILE, LARGEST_MEMORY, SECONDS = 2**30, 2**31, 180
PROGRAMS = ("eval", "train", "hub_cards.publish", "modeling.convert_rawnet2_checkpoint")


def set_surroundings(root: Path) -> None:
    """Folders, and the environment of the programs, which they read as they are imported."""
    for name in ("output", "cache", "temporary", "surroundings/home"):
        (root / name).mkdir(parents=True)
    (root / "surroundings" / "secret.txt").write_text("SECRET\n")
    os.environ |= {"HOME": str(root / "surroundings" / "home"), "HF_HOME": str(root / "cache")}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TMPDIR": str(root / "temporary"), "OMP_NUM_THREADS": "1"}
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_TOKEN": "hf_" + "s" * 34}
    tempfile.tempdir = None


def take_snapshot(place: "Place") -> dict[str, tuple]:
    """What lies outside of the folders that may be written to."""
    paths = [path for name in ("input", "surroundings") for path in (place.root / name).rglob("*")]
    paths += place.root.glob("*")
    return {
        str(path.relative_to(place.root)): (
            status.st_mode,
            not path.is_dir() and (status.st_size, status.st_mtime_ns),
        )
        for path in paths
        if not path.match("*/.locks*") and (status := path.lstat())
    }


def run(log: Path, action: Callable[[], object]) -> tuple[int, int]:
    """Exit status and largest memory in bytes of an action in a forked process, which writes into `log`."""
    if (child := os.fork()) == 0:
        status = 70
        with contextlib.suppress(BaseException):
            stream = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
            resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
            signal.alarm(SECONDS)
            try:
                status = action() or 0
            except SystemExit as stop:
                status = stop.code if isinstance(stop.code, int) else 1
                print(stop.code or "")
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    _, status, usage = os.wait4(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status), 1024 * usage.ru_maxrss


def start(place: "Place", argv: list[str]) -> object:
    """Call a program as a user would, in the folder of the output."""
    os.chdir(place.output)
    return importlib.import_module(argv[0]).main([str(argument) for argument in argv[1:]])


def count_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="A new folder, for all that is written.")
    parser.add_argument("--only", default="", help="Only attacks whose names begin so.")
    args = parser.parse_args()
    set_surroundings(args.folder.resolve())
    attacks = importlib.import_module("hostile_attacks")
    place = attacks.Place(args.folder.resolve())
    for name in PROGRAMS:  # once, before all forks
        importlib.import_module(name)
    status, _ = run(place.root / "cache" / "preparation.log", place.prepare)
    assert status == 0, (place.root / "cache" / "preparation.log").read_text()
    outcomes, findings, largest = {}, [], 0
    for name, build, must_refuse in attacks.list_attacks():
        if not name.startswith(tuple(args.only.split(","))):
            continue
        shutil.rmtree(place.input, ignore_errors=True)
        shutil.rmtree(place.output)
        place.output.mkdir()
        place.input.mkdir()
        argv = build(place)
        before, cached = take_snapshot(place), count_bytes(place.root / "cache")
        log = place.root / "cache" / "log.txt"
        status, memory = run(log, lambda argv=argv: start(place, argv))
        text, after = log.read_text(errors="replace"), take_snapshot(place)
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        written = count_bytes(place.root / "cache") - cached
        problems = {
            "it ran": place.canary.exists(),
            f"written outside: {changed[:3]}": changed,
            f"died or hung: exit status {status}": status not in (0, 1, 2, 70),
            "a traceback": status == 70 or "Traceback (most" in text,
            "not refused": must_refuse and status == 0,
            "no word of why": status not in (0, 70) and len(text) < 20,
            "HTML of a name": any("<img src=x" in path.read_text() for path in place.output.rglob("*.html")),
            f"{memory / 2**30:.1f} GiB of memory": memory > LARGEST_MEMORY,
            f"{written / 2**20:.0f} MiB written": written > LARGEST_FILE,
            "the secret or the token is shown": "SECRET" in text or os.environ["HF_TOKEN"] in text,
        }
        found = [problem for problem, is_found in problems.items() if is_found]
        place.canary.unlink(missing_ok=True)
        outcomes[name], largest = status, max(largest, memory)
        findings += [f"{name}: {problem}" for problem in found]
        last = (text.strip().splitlines() or [""])[-1]
        print(
            f"{'FINDING' if found else 'ok':8}{name:58}{status:3}  {'; '.join(found) or last[:300]}",
            flush=True,
        )
    refused = sum(status != 0 for status in outcomes.values())
    print(
        f"{len(outcomes)} attacks, {refused} refused; largest process {largest / 2**30:.2f} GiB; "
        f"{len(findings)} findings"
    )
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
