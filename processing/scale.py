"""
Score any number of recordings, shard by shard, by datatrove: with processes on this machine, a Slurm array,
Ray or Hugging Face Jobs. The same command does what a killed one has left.
"""

import functools
import hashlib
import json
import os
import posixpath
import shlex
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import Value, connection, get_context, parent_process
from pathlib import Path
from threading import Thread

import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from tqdm.auto import tqdm

import modeling  # noqa: F401  registers the architectures; this is a script, the other modules here know none

from .arguments import ArgumentParser, ScaleArguments, ScoringArguments
from .machine import count_cores, count_workers, keep_freed_memory, share_out_cores
from .model_evaluation import load_model
from .models import Countermeasure
from .resuming import describe_difference
from .score_folders import SETTINGS_NAME, list_finished, open_scores, read_settings, write_whole
from .scoring import Batches, identify_scorer
from .shards import Shard, find_shards, score_shard


# Of a shard that fails datatrove prints the traceback, by loguru: without the values of all variables.
os.environ |= {"LOGURU_DIAGNOSE": "NO", "LOGURU_BACKTRACE": "NO"}
try:
    from datatrove import executor as executors
except ImportError as error:
    raise ImportError(f'{error}. Install what it needs by pip install -e ".[scale]".') from error

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ScoreShard:
    """The one step of the pipeline: task `rank` scores that shard and writes its file, whole or not."""

    scoring: ScoringArguments
    label_map: str | None
    shards: list[Shard] = field(repr=False)  # datatrove logs the step for each of them
    columns: dict[str, str | None]
    output: str

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        shard, (fs, folder) = self.shards[rank], url_to_fs(self.output)
        path = posixpath.join(folder, f"{rank:05d}-{shard.name}.parquet")
        if fs.exists(path):  # of a worker that was killed before datatrove knew
            return
        countermeasure, batches = load_worker(self.scoring, self.label_map)
        try:
            table = score_shard(countermeasure, shard.read(self.columns), batches)
        except (ValueError, OSError) as error:
            raise ValueError(f"{shard.url} cannot be scored: {error}") from None
        with write_whole(fs, path) as stream:
            pq.write_table(table, stream)


@functools.cache
def load_worker(scoring: ScoringArguments, label_map: str | None) -> tuple[Countermeasure, Batches]:
    """The model and how it takes batches, once for a process, on its device and threads."""
    keep_freed_memory()
    device = PartialState(cpu=scoring.use_cpu or not torch.accelerator.is_available()).device
    share_out_cores(scoring.num_threads, device)
    num_workers = count_workers(device.type != "cpu") if scoring.num_workers is None else scoring.num_workers
    return load_model(scoring, label_map), Batches(scoring.batch_size, num_workers)


class LocalExecutor(executors.LocalPipelineExecutor):
    """datatrove's, with workers whose death is noticed, on either side: for one that was killed, its own pool
    would wait for ever. A shard that cannot be read is named, and does not stop the others."""

    def run(self) -> None:
        context, failed = get_context(self.start_method), []
        context.set_forkserver_preload([__name__])  # so that the workers need not each import all this
        options = {"initializer": begin_worker, "initargs": (context.Value("i", 0),)}
        # Of local rank 1, tasks print nothing but errors; all else is in their files of the log.
        with ProcessPoolExecutor(self.workers, context, **options) as pool:
            tasks = [pool.submit(self._run_for_rank, rank, 1) for rank in self.get_incomplete_ranks()]
            for task in tqdm(as_completed(tasks), total=len(tasks), desc="Scoring", unit=" shards"):
                if isinstance(error := task.exception(), BrokenProcessPool):
                    raise OSError("A worker was killed. The same command does the rest.") from error
                failed += [str(error)] if error else []
        if failed:
            raise ValueError("\n".join([*failed, "Once that is mended, the same command does the rest."]))


def begin_worker(number: Value) -> None:
    """End with the coordinator, whatever ends that; of several GPUs take one in turn."""

    def follow() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    Thread(target=follow, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker, and not only its task
    with number.get_lock():
        if torch.cuda.device_count() > 1:
            torch.cuda.set_device(number.value % torch.cuda.device_count())
        number.value += 1


EXECUTORS = {
    "local": LocalExecutor,
    "slurm": executors.SlurmPipelineExecutor,
    "ray": executors.RayPipelineExecutor,
    "jobs": executors.JobsPipelineExecutor,
}


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
    fs.makedirs(folder, exist_ok=True)
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
        print(f"Scored so far: {finished:,} of {len(shards):,} shards, in {args.output}")
        return
    scores, failed, _ = open_scores(args.output)
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
    from processing import scale  # by the name under which workers find what they are sent

    scale.main(sys.argv[1:])
