"""ASVspoof 2021 logical access (LA) and deepfake (DF), for evaluation only. `LA` and `DF` have what a corpus
module has; formats: https://github.com/asvspoof-challenge/2021/tree/main/eval-package."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .trials import Corpus, ProtocolColumns, keep_present, make_rows, read_columns


PROTOCOL_NAME = "trial_metadata.txt"
SUBSETS = ("eval", "progress", "hidden")
# The organisers' first evaluation scripts say "hidden_track" where the full keys say "hidden".
SUBSET_OF_NAME = {"eval": "eval", "progress": "progress", "hidden": "hidden", "hidden_track": "hidden"}


@dataclass(frozen=True)
class Track:
    """
    One track of ASVspoof 2021.

    Attributes:
        NAME, SOURCE: the name in results, and where the corpus is to be had.
        PROTOCOLS: the official name of the protocol by split; here one file lists all subsets.
        COLUMNS: the fields of a protocol line, as [`read_columns`] takes them.
        BREAKDOWNS: the columns by which the organisers break results down.
        track: "LA" or "DF", as in the names of folders.
    """

    PROTOCOLS: ClassVar = dict.fromkeys(SUBSETS, PROTOCOL_NAME)
    NAME: str
    SOURCE: str
    COLUMNS: tuple[str, ...]
    BREAKDOWNS: tuple[str, ...]
    track: str

    def find_root(self, data_dir: Path) -> Path | None:
        """The folder that holds keys and audio: `data_dir` or one in it; `None` if none holds both."""
        for root in self._candidates(data_dir):
            if self._keys(root) and self._audio(root).is_dir():
                return root
        return None

    def read_protocol(self, path: Path) -> ProtocolColumns:
        """
        Read `CM/trial_metadata.txt`, all subsets of it; `extra["subset"]` holds the subset of each trial.

        Raises:
            ValueError: a line that does not parse, an utterance listed twice, no trial at all.
        """
        columns = read_columns(path, self.COLUMNS, values={"subset": SUBSET_OF_NAME})
        columns.extra["subset"] = [SUBSET_OF_NAME[name] for name in columns.extra["subset"]]
        return columns

    def load(self, data_dir: Path, *, allow_missing: bool = False) -> Corpus:
        """
        Load the subsets "eval", "progress" and "hidden", each as a split of its own.

        Args:
            data_dir: the folder that holds the unpacked keys and the unpacked audio, or the one above it.
            allow_missing: leave listed utterances without audio out, and count them, instead of raising.

        Raises:
            FileNotFoundError: no such layout, or listed files that are missing.
            ValueError: keys that do not parse; see [`read_protocol`].
        """
        root = self.find_root(data_dir) or next(filter(self._keys, self._candidates(data_dir)), None)
        if root is None:
            raise FileNotFoundError(
                f"{data_dir} is not an {self.NAME} folder: there is no keys/{self.track}/CM/{PROTOCOL_NAME} "
                f"in it. Give the folder that holds the unpacked keys and audio of {self.SOURCE}."
            )
        keys = self._keys(root)
        protocol = keys / "CM" / PROTOCOL_NAME
        listed = self.read_protocol(protocol)
        file_names = [f"{utterance}.flac" for utterance in listed.utterance_id]
        columns, paths, _ = keep_present(
            listed, file_names, self._audio(root).resolve(), source=str(protocol), allow_missing=allow_missing
        )
        if not paths:
            raise FileNotFoundError(
                f"{self._audio(root)} holds none of the audio files that {protocol} lists."
            )
        missing = {subset: len(indices) for subset, indices in _indices_by_subset(listed).items()}
        splits = {}
        for subset, indices in _indices_by_subset(columns).items():
            missing[subset] -= len(indices)
            splits[subset] = make_rows(_take(columns, indices), [paths[i] for i in indices])
        asv = keys / "ASV"
        # The organisers' README and scripts write the name of this folder in two ways.
        scores = next(asv.glob("ASV[Tt]orch_[Kk]aldi/score.txt"), None)
        pair = (scores, asv / PROTOCOL_NAME)
        asv_score_files = dict.fromkeys(splits, pair) if scores and pair[1].is_file() else {}
        return Corpus(self.NAME, splits, missing, breakdowns=self.BREAKDOWNS, asv_score_files=asv_score_files)

    def _candidates(self, data_dir: Path) -> list[Path]:
        names = ("ASVspoof2021", f"ASVspoof2021_{self.track}", self.track)
        return [data_dir, *(data_dir / name for name in names)]

    def _audio(self, root: Path) -> Path:
        return root / f"ASVspoof2021_{self.track}_eval" / "flac"

    def _keys(self, root: Path) -> Path | None:
        """The folder of the keys in `root`, by the ways in which the official archive is found unpacked."""
        for keys in (root / "keys", root, root / f"{self.track}-keys-full" / "keys"):
            if (keys / self.track / "CM" / PROTOCOL_NAME).is_file():
                return keys / self.track
        return None


def split_by_subset(columns: ProtocolColumns) -> dict[str, ProtocolColumns]:
    """The trials of each subset, without the column that says so."""
    return {subset: _take(columns, indices) for subset, indices in _indices_by_subset(columns).items()}


def _indices_by_subset(columns: ProtocolColumns) -> dict[str, list[int]]:
    indices: dict[str, list[int]] = {subset: [] for subset in SUBSETS}
    for i, subset in enumerate(columns.extra["subset"]):
        indices[subset].append(i)
    return {subset: of_subset for subset, of_subset in indices.items() if of_subset}


def _take(columns: ProtocolColumns, indices: list[int]) -> ProtocolColumns:
    taken = columns.select(indices)
    del taken.extra["subset"]
    return taken


_KEYS = "https://www.asvspoof.org/index2021.html ({}-keys-full.tar.gz) and {}"
LA = Track(
    NAME="ASVspoof 2021 LA",
    SOURCE=_KEYS.format("LA", "https://zenodo.org/records/4837263 (ASVspoof2021_LA_eval.tar.gz)"),
    COLUMNS=("speaker_id", "utterance_id", "codec", "transmission", "attack", "key", "trim", "subset"),
    BREAKDOWNS=("codec", "transmission"),
    track="LA",
)
DF = Track(
    NAME="ASVspoof 2021 DF",
    SOURCE=_KEYS.format("DF", "https://zenodo.org/records/4835108 (ASVspoof2021_DF_eval_part*.tar.gz)"),
    COLUMNS=(
        *("speaker_id", "utterance_id", "compression", "source", "attack", "key", "trim", "subset"),
        *("vocoder_type", "vcc_task", "team", "gender_pair", "language"),
    ),
    BREAKDOWNS=("compression", "source", "vocoder_type"),
    track="DF",
)
