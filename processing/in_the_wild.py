"""In-the-Wild (Müller et al., "Does Audio Deepfake Detection Generalize?", Interspeech 2022): for evaluation
only."""

from pathlib import Path

import pandas as pd

from .corpus_names import CORPORA
from .layout import Layout
from .text_tables import read_table
from .trials import as_word, check_trials


KEY_OF_LABEL = {"bona-fide": "bonafide", "spoof": "spoof"}


class InTheWild(Layout):
    """The corpus, which does not say by which system a recording was spoofed: the attack is "unknown"."""

    def read_protocol(self, path: Path) -> pd.DataFrame:
        table = read_table(path, self.columns, values={"label": KEY_OF_LABEL}, is_csv=True)
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
    audio_folders={"eval": ""},
    is_csv=True,
)
