"""Files that appear whole or not at all, what identifies their content, and paths without their folders."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONNX_NAME = "model.onnx"  # of an export
# A whole value that is a path of one machine: absolute, in a home folder, on a drive or a server.
_PATH_OF_A_MACHINE = re.compile(r"(?:/|~[^/\\\s]*[/\\]|[A-Za-z]:[\\/]|\\\\)\S")


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """
    A path beside `path` to write to, which takes its name when the block ends without an error. The folder is
    made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text, in UTF-8, that appears whole or not at all."""
    with write_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object, default: Callable[[object], object] | None = None) -> None:
    """Write a content as JSON that appears whole or not at all; `default` as in `json.dumps`."""
    write_text(path, json.dumps(content, indent=2, default=default) + "\n")


def write_figure(path: Path, figure: "Figure", *, dpi: int = 150) -> None:
    """Write a matplotlib figure as a PNG that appears whole or not at all."""
    with write_whole(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi)


def move_model(source: Path, folder: Path) -> None:
    """
    Move the files of a complete model into another folder on the same file system, config.json, which
    makes it loadable, last. Weights, which safetensors writes for the user alone, get the permissions of
    config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    mode = stat.S_IMODE((source / "config.json").stat().st_mode)
    for path in sorted(source.iterdir(), key=lambda path: path.name == "config.json"):
        if path.suffix == ".safetensors":
            path.chmod(mode)
        os.replace(path, folder / path.name)
    source.rmdir()


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files, by name."""
    return {path.name: hash_file(path) for path in sorted(paths)}


def read_json(path: Path) -> dict | None:
    """The content of a JSON file; `None` where there is no such file. ValueError: not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def is_exported(folder: Path) -> bool:
    """Whether the model in the folder is in ONNX's format."""
    return (folder / ONNX_NAME).is_file()


def find_weights(folder: Path) -> list[Path]:
    """The safetensors files that `from_pretrained` loads from a folder, or the model.onnx of one that was
    exported. FileNotFoundError: one is missing. ValueError: one would lie elsewhere."""
    if is_exported(folder):
        return [folder / ONNX_NAME]
    files = [folder / "model.safetensors"]
    if not files[0].is_file() and (index := read_json(folder / "model.safetensors.index.json")):
        files = [folder / name for name in sorted(set(index["weight_map"].values()))]
        if outside := [path for path in files if path.parent != folder or path.name == ".."]:
            raise ValueError(f"The weights of {folder} would lie outside of it: {outside[0]}.")
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no {path.name}: the weights are not complete.")
    return files


def strip_folder(value: str) -> str:
    """A value, but of a path of one machine its last name only."""
    if not _PATH_OF_A_MACHINE.match(value):
        return value
    return PureWindowsPath(value).name or value  # which parts at / and at \\


def strip_folders(value: object) -> object:
    """[`strip_folder`] of a value and of all that lies in it, where it is a list or a mapping."""
    if isinstance(value, dict):
        return {name: strip_folders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [strip_folders(item) for item in value]
    return strip_folder(value) if isinstance(value, str) else value
