"""ASVspoof 2021 logical access (LA) and deepfake (DF), for evaluation only; formats:
https://github.com/asvspoof-challenge/2021/tree/main/eval-package."""

from pathlib import Path

import pandas as pd

from .corpus_names import CORPORA
from .layout import Layout
from .text_tables import read_first_line


SUBSETS = ("eval", "progress", "hidden")


class ASVspoof2021(Layout):
    """A track, of which one protocol lists all subsets, which are its splits."""

    def matches(self, first_line: str) -> bool:
        return self._is_stage_1(first_line) or super().matches(first_line) and first_line[0] != "-"

    def read_protocol(self, path: Path) -> pd.DataFrame:
        if self._is_stage_1(read_first_line(path)):
            raise ValueError(
                f"{path} holds the keys of stage 1, which lack speakers, attacks and codecs. Download the "
                f"full keys, and put them in its place: {self.name.source}."
            )
        return super().read_protocol(path)

    def _is_stage_1(self, first_line: str) -> bool:
        """Whether a file begins as the keys published first, of this track: `- DF_E_1 - - - spoof - eval`."""
        fields = first_line.split()
        return len(fields) == 8 and fields[0] == "-" and self.name.title.endswith(fields[1].split("_")[0])


def _make_layout(track: str, columns: tuple[str, ...], breakdowns: tuple[str, ...]) -> Layout:
    """The layout of "LA" or "DF"."""
    return ASVspoof2021(
        name=CORPORA[f"asvspoof2021-{track.lower()}"],
        columns=columns,
        protocols=dict.fromkeys(SUBSETS, f"keys/{track}/CM/trial_metadata.txt"),
        audio_folders=dict.fromkeys(SUBSETS, f"ASVspoof2021_{track}_eval/flac"),
        breakdowns=breakdowns,
        # The organisers' README and scripts write the name of the folder in two ways.
        asv_scores=("ASV/ASV[Tt]orch_[Kk]aldi/score.txt", "ASV/trial_metadata.txt"),
    )


LA = _make_layout(
    "LA",
    columns=("speaker_id", "utterance_id", "codec", "transmission", "attack", "key", "trim", "subset"),
    breakdowns=("codec", "transmission"),
)
DF = _make_layout(
    "DF",
    columns=(
        *("speaker_id", "utterance_id", "compression", "source", "attack", "key", "trim", "subset"),
        *("vocoder_type", "vcc_task", "team", "gender_pair", "language"),
    ),
    breakdowns=("compression", "source", "vocoder_type"),
)
