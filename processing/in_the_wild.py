"""In-the-Wild (Müller et al., "Does Audio Deepfake Detection Generalize?", Interspeech 2022): for evaluation
only."""

import csv
from pathlib import Path

import pandas as pd

from .corpus_names import CORPORA
from .text_tables import read_table
from .trials import Layout, as_word, check_trials


KEY_OF_LABEL = {"bona-fide": "bonafide", "spoof": "spoof"}


class InTheWild(Layout):
    """
    The corpus, whose protocol is a CSV with a header. It does not say which system made a spoofed recording:
    the attack is "unknown".
    """

    def has_header(self, path: Path) -> bool:
        """Whether the first line of a file is that of `meta.csv`."""
        with open(path, encoding="utf-8-sig", errors="backslashreplace", newline="") as lines:
            return tuple(next(csv.reader(lines), ())) == self.columns

    def find_protocols(self, root: Path) -> dict[str, Path]:
        return {split: path for split, path in super().find_protocols(root).items() if self.has_header(path)}

    def describe_protocols(self) -> str:
        return f"{super().describe_protocols()} with the header {','.join(self.columns)}"

    def read_protocol(self, path: Path) -> pd.DataFrame:
        table = read_table(path, self.columns, values={"label": KEY_OF_LABEL}, sep=",", has_header=True)
        trials = pd.DataFrame(
            {
                "utterance_id": table["file"].map(lambda name: as_word(Path(name).stem)),
                "speaker_id": table["speaker"],
                "attack": table["label"].map({"bona-fide": "-", "spoof": "unknown"}),
                "key": table["label"].map(KEY_OF_LABEL),
                "file": table["file"],
            }
        )
        check_trials(trials, str(path))
        return trials


IN_THE_WILD = InTheWild(
    name=CORPORA["in-the-wild"],
    columns=("file", "speaker", "label"),
    protocols={"eval": "meta.csv"},
    folders=("", "release_in_the_wild"),
    protocol_folders=("",),
    audio_folders={"eval": ("",)},
)
