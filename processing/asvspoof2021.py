"""ASVspoof 2021 logical access (LA) and deepfake (DF), for evaluation only; formats:
https://github.com/asvspoof-challenge/2021/tree/main/eval-package."""

from pathlib import Path

import pandas as pd

from .corpus_names import CORPORA
from .text_tables import read_table
from .trials import KEYS, SUBSET_OF_NAME, Layout, check_trials


SUBSETS = ("eval", "progress", "hidden")
PROTOCOL_NAME = "trial_metadata.txt"  # which lists all subsets


class ASVspoof2021(Layout):
    """One track; its subsets are splits."""

    @classmethod
    def from_track(cls, track: str, columns: tuple[str, ...], breakdowns: tuple[str, ...]) -> "ASVspoof2021":
        """
        Args:
            track: "LA" or "DF", as in the names of folders.
            columns, breakdowns: see [`Layout`].
        """
        return cls(
            name=CORPORA[f"asvspoof2021-{track.lower()}"],
            columns=columns,
            protocols=dict.fromkeys(SUBSETS, PROTOCOL_NAME),
            folders=("", "ASVspoof2021", f"ASVspoof2021_{track}", track),
            # The ways in which the official archive is found unpacked.
            protocol_folders=(f"keys/{track}/CM", f"{track}/CM", f"{track}-keys-full/keys/{track}/CM"),
            audio_folders=dict.fromkeys(SUBSETS, (f"ASVspoof2021_{track}_eval/flac",)),
            breakdowns=breakdowns,
        )

    def read_protocol(self, path: Path) -> pd.DataFrame:
        trials = read_table(path, self.columns, values={"key": KEYS, "subset": SUBSET_OF_NAME})
        check_trials(trials, str(path))
        return trials.assign(subset=trials["subset"].map(SUBSET_OF_NAME))

    def split_trials(self, trials: pd.DataFrame, path: Path) -> dict[str, pd.DataFrame]:
        found = dict(tuple(trials.groupby("subset")))
        return {subset: found[subset].drop(columns="subset") for subset in SUBSETS if subset in found}

    def find_asv_scores(self, root: Path, split: str) -> tuple[Path, ...]:
        asv = self.find_protocols(root)[split].parents[1] / "ASV"
        # The organisers' README and scripts write the name of this folder in two ways.
        scores, metadata = next(asv.glob("ASV[Tt]orch_[Kk]aldi/score.txt"), None), asv / PROTOCOL_NAME
        return (scores, metadata) if scores and metadata.is_file() else ()


LA = ASVspoof2021.from_track(
    "LA",
    columns=("speaker_id", "utterance_id", "codec", "transmission", "attack", "key", "trim", "subset"),
    breakdowns=("codec", "transmission"),
)
DF = ASVspoof2021.from_track(
    "DF",
    columns=(
        *("speaker_id", "utterance_id", "compression", "source", "attack", "key", "trim", "subset"),
        *("vocoder_type", "vcc_task", "team", "gender_pair", "language"),
    ),
    breakdowns=("compression", "source", "vocoder_type"),
)
