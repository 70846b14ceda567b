"""The named corpora as their makers lay them out: protocols, and folders of recordings, found in a folder
however it was unpacked or converted. Imports no torch."""

import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from transformers.utils import logging

from .columns import is_header_line, read_columns
from .corpus_names import CORPORA, CorpusName
from .folder_tree import FolderTree, join, read_tree
from .text_tables import quote_text, read_first_line, read_table, split_line
from .trials import KEY_OF_LABEL, SUBSET_OF_NAME, Corpus, as_word, check_trials, complete_trials, make_rows


logger = logging.get_logger(__name__)

# What fields of a protocol may say, and what that is called here.
VALUES = {
    "key": {"bonafide": "bonafide", "bona-fide": "bonafide", "spoof": "spoof"},
    "subset": SUBSET_OF_NAME,
}


@dataclass(frozen=True)
class Layout:
    """
    A named corpus: protocols, and folders of recordings.

    Attributes:
        name: of the corpus.
        columns: what the fields of a protocol line are, in order; see [`read_table`]. One called `subset`
            tells the split of each trial, one called `file` names its recording.
        protocols: the official path of the protocol, by split. Its name tells it wherever it lies; one that
            does not begin with ASVspoof must also lie in a folder of the official name, and begin as one.
        audio_folders: the official folder of the recordings of each split, "" for that of the protocol.
        breakdowns: see [`Corpus`].
        asv_scores: patterns of the ASV score files of a `{split}`, below the folder above the protocol's.
        header: the first line of a protocol that is CSV, "" for fields between white space.
    """

    name: CorpusName
    columns: Sequence[str]
    protocols: Mapping[str, str]
    audio_folders: Mapping[str, str]
    breakdowns: tuple[str, ...] = ()
    asv_scores: tuple[str, ...] = ()
    header: str = ""

    def find_protocols(self, tree: FolderTree) -> dict[str, str]:
        """
        The protocols that there are below a folder, by split. Of several, it is the one the least deep.

        Raises:
            ValueError: there are several equally deep.
        """
        found = {}
        for split, protocol in self.protocols.items():
            above, name = posixpath.split(protocol)
            lines = {path: read_first_line(tree.root / path) for path in tree.find(name)}
            if not name.startswith("ASVspoof"):
                end = f"/{posixpath.basename(above)}/{name}" if above else f"/{name}"
                lines = {k: line for k, line in lines.items() if f"/{k}".endswith(end) and self.matches(line)}
            paths = sorted(lines, key=lambda path: (path.count("/"), path))
            if len(paths) > 1 and paths[0].count("/") == paths[1].count("/"):
                raise ValueError(
                    f"{tree.root} holds {self.name.title} several times: {paths[0]} and {paths[1]}. "
                    "Give the folder of one of them."
                )
            if paths:
                found[split] = paths[0]
        return found

    def has_audio(self, tree: FolderTree) -> bool:
        """Whether there are the official folders of recordings, if these have a name."""
        return any(not name or _list_named(tree.recordings, name) for name in self.audio_folders.values())

    def is_near(self, tree: FolderTree) -> bool:
        """Whether there are official folders, of recordings or of protocols, that no other corpus has."""
        paths = {*self.protocols.values(), *self.audio_folders.values()}
        folders = [*tree.recordings, *tree.others]
        return any(_list_named(folders, path) for path in paths if "_" in path.split("/")[0])

    def find_asv_scores(self, protocol: Path, split: str) -> tuple[Path, ...]:
        """The ASV score files of a split, where all of them are there."""
        patterns = [pattern.format(split=split) for pattern in self.asv_scores]
        found = [next(protocol.parents[1].glob(pattern), None) for pattern in patterns]
        return tuple(found) if all(found) else ()

    def matches(self, first_line: str) -> bool:
        """Whether a file that begins so is one of the corpus's protocols, by header or number of fields."""
        if self.header:
            return split_line(first_line, ",") == self.header.split(",")
        # The keys of stage 1 of ASVspoof 2021 have no speaker, nor what else is needed.
        return len(first_line.split()) == len(self.columns) and not first_line.startswith("- ")

    def read_protocol(self, path: Path) -> pd.DataFrame:
        """The trials of a protocol. A column `file` names their recordings, if not `<utterance_id>.flac`."""
        trials = read_table(path, self.columns, values=VALUES, is_csv=bool(self.header))
        if "file" in trials:
            ids = trials["file"].map(lambda name: as_word(Path(name).stem))
            trials = complete_trials(trials.assign(utterance_id=ids))
        check_trials(trials, str(path))
        return trials

    def split_trials(self, trials: pd.DataFrame, path: Path) -> dict[str, pd.DataFrame]:
        """The trials of a protocol by split: "all" if neither a column nor an official name tells it."""
        if "subset" in trials:
            found = dict(tuple(trials.groupby("subset")))
            return {name: found[name].drop(columns="subset") for name in self.protocols if name in found}
        splits = (split for split, protocol in self.protocols.items() if path.name == Path(protocol).name)
        return {next(splits, "all"): trials}

    def load(self, folder: Path | FolderTree, *, allow_missing: bool = False) -> Corpus:
        """
        Load the splits whose protocols are there; recordings that these do not list are left out.

        Args:
            folder: that of the corpus as it was unpacked, or any above it.
            allow_missing: leave listed utterances without audio out, and count them, instead of raising.

        Raises:
            FileNotFoundError: no protocol, or recordings that are listed but not there.
            ValueError: protocols that do not parse, or of which there are several.
        """
        tree = folder if isinstance(folder, FolderTree) else read_tree(folder)
        protocols = self.find_protocols(tree)
        if not protocols:
            raise FileNotFoundError(self.describe_absence(tree))
        splits, missing, places, notes = {}, {}, [], []
        for path in dict.fromkeys(protocols.values()):  # one may list several splits
            listed = self.read_protocol(tree.root / path)
            files = listed.get("file", listed["utterance_id"] + ".flac")
            official = next(self.audio_folders[split] for split in protocols if protocols[split] == path)
            folders = self._choose_folders(tree, official, posixpath.dirname(path))
            places.append(str(tree.root / (folders[0] if folders else official)))
            listed["file"] = _find_files(tree, files, folders, official)
            present = listed["file"].notna()
            if converted := (listed["file"].dropna().map(posixpath.basename) != files[present]).sum():
                notes.append(
                    f"{converted:,} recordings listed in {Path(path).name} were converted from their format."
                )
            where = places[-1] + (f" and {len(folders) - 1:,} more folders" if len(folders) > 1 else "")
            report_missing(files, present, source=tree.root / path, where=where, allow_missing=allow_missing)
            for split, trials in self.split_trials(listed, tree.root / path).items():
                here = trials[trials["file"].notna()]
                missing[split] = len(trials) - len(here)
                if len(here):
                    paths = str(tree.root.resolve()) + os.sep + here["file"]
                    splits[split] = make_rows(here.drop(columns="file"), paths)
        if not splits:
            raise FileNotFoundError(
                f"{', '.join(places)} holds none of the audio files that the protocols list."
            )
        left_out = tree.left_out.copy()
        left_out["recordings that no protocol lists"] = tree.num_recordings - sum(map(len, splits.values()))
        scores = {split: self.find_asv_scores(tree.root / protocols[split], split) for split in splits}
        return Corpus(
            self.name.title,
            splits,
            missing,
            left_out=dict(+left_out),
            note=" ".join(notes),
            breakdowns=self.breakdowns,
            asv_score_files={split: files for split, files in scores.items() if files},
        )

    def _choose_folders(self, tree: FolderTree, official: str, protocol_folder: str) -> list[str]:
        """Folders named as the official one, else those below the protocol's, else of no other ASVspoof."""
        if named := _list_named(tree.recordings, official):
            return named
        own = "".join(self.name.title.split()[:2])  # ASVspoof2019
        candidates = [
            folder for folder in tree.recordings if {own, *re.findall(r"ASVspoof\d+", folder)} == {own}
        ]
        start = f"{protocol_folder}/".lstrip("/")
        return [folder for folder in candidates if f"{folder}/".startswith(start)] or candidates

    def describe_absence(self, tree: FolderTree) -> str:
        """Why a folder is none of this corpus, and how to make it one."""
        names = ", ".join(dict.fromkeys(self.protocols.values()))
        header = f" with the header {self.header}" if self.header else ""
        return (
            f"{tree.root} is not an {self.name.title} folder: there is no {names}{header} in it. Give the "
            f"folder in which it is unpacked. Download it from {self.name.source}."
        )


def report_missing(
    files: pd.Series, present: pd.Series, *, source: Path | str, where: str, allow_missing: bool
) -> None:
    """A FileNotFoundError for listed `files` that are not `present`; only a warning where that is allowed."""
    if not present.all():
        message = (
            f"{(~present).sum():,} of the {len(files):,} utterances listed in {source} have no audio file in "
            f"{where}; the first is {files[~present].iloc[0]}."
        )
        if not allow_missing:
            raise FileNotFoundError(f"{message} Complete the corpus, or leave them out with --allow_missing.")
        logger.warning("%s They are left out, and the count goes into the results.", message)


def _list_named(folders: Iterable[str], official: str) -> list[str]:
    """Folders in one whose name begins as the official one: the archive's parts have a number after it."""
    start = "/" + official.split("/")[0]
    return [folder for folder in folders if official and start in f"/{folder}"]


def _find_files(tree: FolderTree, listed: pd.Series, folders: list[str], official: str) -> pd.Series:
    """The path of each listed file: rather the listed ending, the official folder, the one the least deep."""
    stems = listed.map(lambda name: name.rpartition(".")[0] or name)  # os.path.splitext takes long
    wanted = dict(zip(stems, listed, strict=True))
    found: dict[str, str] = {}
    ranks: dict[str, tuple] = {}
    ties: dict[str, str] = {}
    for folder in folders:
        is_other = not f"/{folder}".endswith(f"/{official}")
        depth = folder.count("/")
        for name in tree.recordings[folder]:
            stem = name.rpartition(".")[0] or name
            if stem not in wanted:
                continue
            rank = (name != wanted[stem], is_other, depth)
            if stem not in found or rank < ranks[stem]:
                found[stem], ranks[stem] = join(folder, name), rank
                ties.pop(stem, None)
            elif rank == ranks[stem]:
                ties[stem] = join(folder, name)
    for stem, path in ties.items():
        raise ValueError(
            f"{tree.root} holds utterance {stem} several times: {found[stem]} and {path}. Move all but one "
            "version of the recordings out of the folder, or give the folder of one."
        )
    return stems.map(found)


def _make_layout_2021(track: str, columns: str, breakdowns: tuple[str, ...]) -> Layout:
    """A track of ASVspoof 2021, "LA" or "DF", by the eval-package of github.com/asvspoof-challenge/2021."""
    subsets = ("eval", "progress", "hidden")
    return Layout(
        CORPORA[f"asvspoof2021-{track.lower()}"],
        columns=columns.split(),
        protocols=dict.fromkeys(subsets, f"keys/{track}/CM/trial_metadata.txt"),
        audio_folders=dict.fromkeys(subsets, f"ASVspoof2021_{track}_eval/flac"),
        breakdowns=breakdowns,
        # The organisers' README and scripts write the name of the folder in two ways.
        asv_scores=("ASV/ASV[Tt]orch_[Kk]aldi/score.txt", "ASV/trial_metadata.txt"),
    )


LAYOUTS = {
    "asvspoof2019-la": Layout(
        CORPORA["asvspoof2019-la"],
        columns="speaker_id utterance_id - attack key".split(),
        protocols={
            "train": "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.train.trn.txt",
            "dev": "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.dev.trl.txt",
            "eval": "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt",
        },
        audio_folders={split: f"ASVspoof2019_LA_{split}/flac" for split in ("train", "dev", "eval")},
        asv_scores=("ASVspoof2019_LA_asv_scores/ASVspoof2019.LA.asv.{split}.gi.trl.scores.txt",),
    ),
    "asvspoof2021-la": _make_layout_2021(
        "LA",
        columns="speaker_id utterance_id codec transmission attack key trim subset",
        breakdowns=("codec", "transmission"),
    ),
    "asvspoof2021-df": _make_layout_2021(
        "DF",
        columns="speaker_id utterance_id compression source attack key trim subset vocoder_type "
        "vcc_task team gender_pair language",
        breakdowns=("compression", "source", "vocoder_type"),
    ),
    "asvspoof5": Layout(
        CORPORA["asvspoof5"],
        columns=[
            *("speaker_id", "utterance_id", "gender", "codec", "codec_quality", "codec_seed"),
            *("attack_tag", "attack", "key", "-"),
        ],
        protocols={
            "train": "ASVspoof5.train.tsv",  # between white space, despite its name
            "dev": "ASVspoof5.dev.track_1.tsv",
            "eval": "ASVspoof5.eval.track_1.tsv",
        },
        audio_folders={"train": "flac_T", "dev": "flac_D", "eval": "flac_E_eval"},
        breakdowns=("codec",),
    ),
    # Its makers do not say by which system a recording was spoofed: the attack is "unknown".
    "in-the-wild": Layout(
        CORPORA["in-the-wild"],
        columns="file speaker_id key".split(),
        protocols={"eval": "meta.csv"},
        audio_folders={"eval": ""},
        header="file,speaker,label",
    ),
}


def read_protocol(path: Path, keys: Mapping[str, str] = KEY_OF_LABEL) -> Corpus:
    """
    Read a protocol by itself, for scoring by a score file alone: that of a named corpus, which its layout
    tells, or any file whose first line names the columns of utterance and key, spelt as `keys` say. One under
    another than an official name may list other trials, and goes by its own name. The splits are tables of
    trials instead of rows.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no protocol {path}.")
    first = read_first_line(path)
    layout = find_layout(first)
    if layout is None and is_header_line(first):
        trials = complete_trials(read_columns(path, "key", keys=keys))
        check_trials(trials, str(path))
        return Corpus(path.name, {"all": trials})
    if layout is None:
        found = f"has {len(first.split())} fields in its first line" if first else "is empty"
        known = (f"{x.name.title} ({x.header or len(x.columns)})" for x in LAYOUTS.values())
        raise ValueError(
            f"{path} {found}. The layouts known, by the number of fields or the header: {', '.join(known)}. "
            "The first line of any other file must name its columns: utterance,key. Here it is "
            f"{quote_text(first)}."
        )
    splits = layout.split_trials(layout.read_protocol(path), path)
    is_official = path.name in [Path(protocol).name for protocol in layout.protocols.values()]
    name = layout.name.title if is_official else path.name
    return Corpus(name, splits, breakdowns=layout.breakdowns)


def find_layout(first_line: str) -> Layout | None:
    """That of a protocol that begins so; `None` where it is none of a named corpus."""
    layout = next((layout for layout in LAYOUTS.values() if layout.matches(first_line)), None)
    return layout if layout and (layout.header or not is_header_line(first_line)) else None
