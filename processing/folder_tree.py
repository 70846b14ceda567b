"""A folder as it is on disk: its recordings and other files, found in one walk, and the archives in place of
them."""

import hashlib
import os
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from datasets import config
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Endings of recordings that PyAV decodes: those that `datasets` takes for audio, and others in use.
AUDIO_EXTENSIONS = frozenset(
    [
        *AudioFolder.EXTENSIONS,
        *(".3gpp", ".aac", ".ac3", ".adts", ".aif", ".aifc", ".al", ".alaw", ".amr", ".ape", ".awb", ".bwf"),
        *(".dff", ".dsf", ".dss", ".dts", ".eac3", ".f4a", ".g722", ".gsm", ".m2a", ".m2ts", ".m4a", ".m4b"),
        *(".m4p", ".m4r", ".mka", ".mp1", ".mp2", ".mp4", ".mpa", ".mpc", ".mpeg", ".mpga", ".mts", ".oga"),
        *(".ogv", ".ogx", ".oma", ".qt", ".ra", ".rm", ".sln", ".snd", ".sph", ".spx", ".tak", ".ts", ".tta"),
        *(".ul", ".ulaw", ".vob", ".wave", ".weba", ".wv"),
    ]
)
SMALL_ARCHIVE, LARGEST_EXPANSION = 2**28, 100  # bytes that any archive may hold, else times its own size
ARCHIVE_EXTENSIONS = tuple(ending for _, endings, _ in shutil.get_unpack_formats() for ending in endings)


@dataclass(frozen=True)
class FolderTree:
    """
    All files below a folder.

    Attributes:
        root: the folder.
        recordings: names of the files with the ending of an audio file, by folder: "" is `root`, "a/b" is
            below it. Folders and names are sorted.
        others: names of all other files, likewise.
        left_out: how many recordings cannot be used, by the reason.
    """

    root: Path
    recordings: dict[str, list[str]] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)
    left_out: Counter = field(default_factory=Counter)

    @property
    def num_recordings(self) -> int:
        """In all folders."""
        return sum(map(len, self.recordings.values()))

    def find(self, name: str) -> list[str]:
        """All files of this name that are no recordings."""
        return [join(folder, name) for folder, names in self.others.items() if name in names]

    def list_others(self) -> list[str]:
        """Names of all files that are no recordings."""
        return [name for names in self.others.values() for name in names]


def join(folder: str, name: str) -> str:
    """Path of a file in a folder of a [`FolderTree`]."""
    return f"{folder}/{name}" if folder else name


def describe_endings(names: Iterable[str]) -> str:
    """How many files there are of each ending, in words."""
    endings = Counter(os.path.splitext(name)[1].lower() or "without an ending" for name in names)
    return ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(10)) or "no files"


def is_recording(name: str) -> bool:
    """Whether a file has the ending of an audio file."""
    return os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS


def open_tree(path: Path) -> FolderTree:
    """What a folder holds, or in place of recordings the archives in it, or what an archive holds."""
    tree = read_tree(path) if path.is_dir() else FolderTree(path)
    return tree if tree.recordings else unpack_archives(path) or tree


def read_tree(root: Path) -> FolderTree:
    """
    All files below a folder; hidden ones are passed over, of which macOS puts one into a zip for each file.
    Links are followed, but not back to a folder that they are in.
    """
    tree, pending = FolderTree(root), [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
        below = []
        for entry in entries:
            name = entry.name
            if name.startswith(".") or name == "__MACOSX":
                tree.left_out["hidden files"] += is_recording(name)
            elif entry.is_dir():
                if not (entry.is_symlink() and _leads_back(entry.path)):
                    below.append(join(folder, name))
            elif not entry.is_file():
                tree.left_out["links to a file that is gone"] += is_recording(name)
            else:
                kind = tree.recordings if is_recording(name) else tree.others
                kind.setdefault(folder, []).append(name)
        pending += reversed(below)
    return tree


def list_recordings(root: Path) -> list[Path]:
    """The recordings below a folder, at any depth, sorted by folder. `FileNotFoundError`: there are none."""
    recordings = read_tree(root).recordings if root.is_dir() else {}
    if not recordings:
        raise FileNotFoundError(f"{root} is not a folder that holds recordings. Check its name.")
    return [root / folder / name for folder, names in recordings.items() for name in names]


def _leads_back(link: str) -> bool:
    target, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return os.path.commonpath([target, here]) == target


def unpack_archives(path: Path) -> FolderTree | None:
    """
    What an archive holds, or a folder with archives instead of recordings: unpacked once, each as a folder of
    its name, into the cache of `datasets`. `None` where there is no archive.

    Raises:
        ValueError: an archive that cannot be unpacked.
    """
    files, root = [path], path.parent
    if path.is_dir():
        others, root = read_tree(path).others, path
        files = [root / folder / name for folder, names in others.items() for name in names]
    if not any(file.name.lower().endswith(ARCHIVE_EXTENSIONS) for file in files):
        return None
    identity = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    folder = Path(config.HF_DATASETS_CACHE) / "unpacked" / f"{path.name}-{digest}"
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        logger.warning("Unpacking the archives of %s into %s.", path, folder)
        try:
            for file in files:
                _unpack(file, partial / file.relative_to(root))
        except ValueError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.rename(folder)
    return read_tree(folder)


def _unpack(file: Path, target: Path) -> None:
    """Unpack an archive to a folder of its name, or copy another file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    ending = next((ending for ending in ARCHIVE_EXTENSIONS if file.name.lower().endswith(ending)), None)
    if ending is None:
        shutil.copy(file, target)
        return
    limit, unpacked = max(SMALL_ARCHIVE, LARGEST_EXPANSION * file.stat().st_size), 0
    too_large = f"it holds more than {LARGEST_EXPANSION} times its size"

    def take(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
        nonlocal unpacked
        unpacked += member.size
        if unpacked > limit:
            raise tarfile.TarError(too_large)
        return tarfile.data_filter(member, folder)

    try:
        if ending == ".zip":
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
            if outside := [of.filename for of in members if of.filename[:1] == "/" or ".." in of.filename]:
                raise zipfile.BadZipFile(f"{outside[0]!r} would not be written")  # and nobody be told
            if sum(of.file_size for of in members) > limit:
                raise zipfile.BadZipFile(too_large)
        options = {} if ending == ".zip" or not hasattr(tarfile, "data_filter") else {"filter": take}
        shutil.unpack_archive(file, target.with_name(target.name[: -len(ending)]), **options)
    except (shutil.ReadError, zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError) as error:
        raise ValueError(f"{file} cannot be unpacked: {error}") from error
