"""
Score any number of recordings, shard by shard, by datatrove: with processes on this machine, a Slurm array,
Ray or Hugging Face Jobs. The same command does what a killed one has left.
"""

import hashlib
import json
import posixpath
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from .arguments import ArgumentParser
from .evaluation_arguments import ScaleArguments, ScoringArguments
from .machine import count_cores
from .resuming import describe_difference
from .score_folders import (
    FAILED,
    SETTINGS_NAME,
    cut_list,
    list_finished,
    open_scores,
    read_failures,
    read_settings,
    write_whole,
)
from .scoring import identify_scorer
from .shard_workers import EXECUTORS, ScoreShard, load_worker
from .shards import find_shards


ROOT = Path(__file__).resolve().parents[1]


def score_shards(scoring: ScoringArguments, args: ScaleArguments) -> None:
    """
    Score the shards that have no file in the output folder yet. ValueError, OSError: no input or model, a
    folder that holds other scores, a shard that is damaged, or a worker that was killed.
    """
    is_local, workers = args.executor == "local", args.workers or (1 if args.executor == "local" else -1)
    if scoring.num_threads is None:
        cores = count_cores() // workers if is_local else args.executor_options.get("cpus_per_task", 1)
        scoring = replace(scoring, num_threads=max(1, cores))
    shards, (fs, folder) = find_shards(args.input, args.list_size), url_to_fs(args.output)
    columns = {"audio": args.audio_column, "id": args.id_column}
    settings = {
        **identify_scorer(*load_worker(scoring, args.label_map)),
        "num_threads": scoring.num_threads,
        "columns": columns,
        "num_shards": len(shards),
        "input_sha256": hashlib.sha256(json.dumps([*map(asdict, shards)]).encode()).hexdigest(),
    }
    load_worker.cache_clear()  # the workers have their own
    if not is_local:
        del settings["device"]  # of another machine
    if difference := describe_difference(read_settings(fs, folder) or settings, settings):
        raise FileExistsError(
            f"{args.output} holds scores of something else: {difference}. Give the same input and "
            "settings, among them --num_threads, or another --output."
        )
    fs.makedirs(posixpath.join(folder, FAILED), exist_ok=True)
    with write_whole(fs, posixpath.join(folder, SETTINGS_NAME)) as stream:
        stream.write(json.dumps(settings, indent=2).encode())
    output = fs.unstrip_protocol(folder)
    step = ScoreShard(scoring, args.label_map, shards, columns, output)
    options = {"tasks": len(shards), "workers": workers, "logging_dir": posixpath.join(output, "logs")}
    if args.executor == "slurm":
        path = f"{shlex.quote(str(Path(sys.executable).parent))}:$PATH"
        options["env_command"] = f"export PYTHONPATH={shlex.quote(str(ROOT))} PATH={path}"
    try:
        executor = EXECUTORS[args.executor]([step], **{**options, **args.executor_options})
    except TypeError as error:
        raise ValueError(f"--executor_options: {error}") from error
    forget_deleted(fs, folder)
    executor.run()
    if (finished := len(list_finished(fs, folder))) < len(shards):
        lines = [f"Scored so far: {finished:,} of {len(shards):,} shards, in {args.output}"]
        lines += cut_list(read_failures(fs, folder))
        if is_local:
            remedy = "Once that is mended, the same command does the rest. Details: "
            raise ValueError("\n".join([*lines, f"{remedy}{posixpath.join(args.output, FAILED)}"]))
        print("\n".join(lines))
        return
    scores, failed = open_scores(args.output)
    print("\n".join([f"Scored: {scores.count_rows():,} recordings in {len(shards):,} shards", *failed]))
    print(f"To evaluate: python eval.py --scores {args.output} --protocol PROTOCOL")


def forget_deleted(fs: AbstractFileSystem, folder: str) -> None:
    """Take shards whose files the user has deleted from those that datatrove knows as completed."""
    finished = {posixpath.basename(path).split("-")[0] for path in list_finished(fs, folder)}
    for path in fs.glob(posixpath.join(folder, "logs/completions/[0-9]*")):
        if posixpath.basename(path) not in finished:
            fs.rm_file(path)


def main(argv: list[str]) -> None:
    """Do what the arguments ask for; an error ends the program with a line."""
    parser = ArgumentParser((ScoringArguments, ScaleArguments), prog="processing.scale", description=__doc__)
    (scoring, args), _ = parser.parse(argv)
    for name, value in {"model": scoring.model, "input": args.input, "output": args.output}.items():
        if value is None:
            parser.error(f"--{name} is missing")
    try:
        score_shards(scoring, args)
    except (ValueError, OSError) as error:
        sys.exit(f"processing.scale: error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
