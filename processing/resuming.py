"""What a killed run has left: read once for all processes, and told apart from something else's by what
identifies its rows and tensors."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import pyarrow.compute as pc
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset


T = TypeVar("T")


def read_on_main(read: Callable[[], T]) -> T:
    """What `read` returns on the main process, or the `ValueError` that it raises there, in every process."""
    outcome = [None]
    if PartialState().is_main_process:
        try:
            outcome = [read()]
        except ValueError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], ValueError):
        raise outcome[0]
    return outcome[0]


def describe_difference(before: Mapping, now: Mapping) -> str:
    """
    The entries that differ of two descriptions, of which one may have gone through JSON: "seed was 1, now 2;
    model.size was 3, now 4", or "" where they are the same.
    """
    before, now = (json.loads(json.dumps(each, default=str)) for each in (before, now))
    return "; ".join(_list_differences(before, now))


def _list_differences(before: object, now: object, name: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in {**before, **now}
            for difference in _list_differences(before.get(key), now.get(key), f"{name}.{key}")
        ]
    return [] if before == now else [f"{name[1:]} was {before!r}, now {now!r}"]


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 of named tensors in their order: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def count_audio_bytes(rows: Dataset) -> int:
    """Bytes of the audio of rows: of the files, or of what is within the rows."""
    total = 0
    for batch in rows.select_columns("audio").with_format("arrow").iter(1000):
        contents = pc.struct_field(batch["audio"], "bytes")
        paths = pc.struct_field(batch["audio"], "path").filter(pc.is_null(contents))
        total += pc.sum(pc.binary_length(contents)).as_py() or 0
        total += sum(map(os.path.getsize, paths.to_pylist()))
    return total


def hash_rows(rows: Dataset) -> str:
    """
    SHA-256 of the utterances in their order and of their audio: path, size and time of the last change of a
    file, the bytes where they are within the rows.
    """
    digest = hashlib.sha256()
    for batch in rows.select_columns(["utterance_id", "audio"]).with_format("arrow").iter(1000):
        paths = pc.struct_field(batch["audio"], "path").to_pylist()
        contents = pc.struct_field(batch["audio"], "bytes")
        for utterance, path, content in zip(batch["utterance_id"].to_pylist(), paths, contents, strict=True):
            digest.update(f"{utterance} {path} ".encode())
            if content.is_valid:
                digest.update(hashlib.sha256(content.as_buffer()).digest())
            else:
                status = os.stat(path)
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
