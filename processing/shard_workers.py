"""What `processing.scale` hands to datatrove: the step that scores a shard, and what runs it."""

import functools
import os
import posixpath
import signal
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import Value, connection, get_context, parent_process
from threading import Thread

import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from fsspec.core import url_to_fs
from tqdm.auto import tqdm

import modeling  # noqa: F401  registers the architectures; the workers of a script, the other modules know none

from .evaluation_arguments import ScoringArguments
from .machine import count_workers, keep_freed_memory, share_out_cores
from .models import Countermeasure, load_model
from .score_folders import FAILED, write_whole
from .scoring import Batches
from .shards import Shard, score_shard


try:
    from datatrove import executor as executors
except ImportError as error:
    raise ImportError(f'{error}. Install what it needs by pip install -e ".[scale]".') from error


@dataclass(frozen=True)
class ScoreShard:
    """The one step of the pipeline: task `rank` scores that shard and writes its file, whole or not. A shard
    that cannot be scored is noted, and is no error of the task, with which a Slurm job would end."""

    scoring: ScoringArguments
    label_map: str | None
    shards: list[Shard] = field(repr=False)  # datatrove logs the step for each of them
    columns: dict[str, str | None]
    output: str

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        shard, (fs, folder) = self.shards[rank], url_to_fs(self.output)
        name = f"{rank:05d}-{shard.name}"
        path, note = posixpath.join(folder, f"{name}.parquet"), posixpath.join(folder, FAILED, f"{name}.txt")
        if fs.exists(path):  # of a worker that was killed before datatrove knew
            return
        try:
            countermeasure, batches = load_worker(self.scoring, self.label_map)
            table = score_shard(countermeasure, shard.read(self.columns), batches)
            with write_whole(fs, path) as stream:
                pq.write_table(table, stream)
        except Exception as error:  # also of the device, or of a library
            reason = f"{shard.url} cannot be scored: {str(error) or repr(error)}"
            fs.write_text(note, f"{reason}\n\n{traceback.format_exc()}", encoding="utf-8")
        else:
            if fs.exists(note):
                fs.rm_file(note)


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
    would wait for ever."""

    def run(self) -> None:
        """Score what is left. OSError: a worker was killed."""
        context = get_context(self.start_method)
        context.set_forkserver_preload([__name__])  # so that the workers need not each import all this
        options = {"initializer": begin_worker, "initargs": (context.Value("i", 0),)}
        pool = ProcessPoolExecutor(self.workers, context, **options)
        try:
            # Of local rank 1, tasks print nothing but errors; all else is in their files of the log.
            tasks = [pool.submit(self._run_for_rank, rank, 1) for rank in self.get_incomplete_ranks()]
            for task in tqdm(as_completed(tasks), total=len(tasks), desc="Scoring", unit=" shards"):
                task.result()
        except BrokenProcessPool as error:
            raise OSError("A worker was killed. The same command does the rest.") from error
        finally:
            pool.shutdown(cancel_futures=True)  # those that have not begun when this is interrupted


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
