"""ASVspoof 2019 logical access (LA), in the folder layout of the official `LA.zip`."""

from pathlib import Path

from .corpus_names import CORPORA
from .trials import Layout


class ASVspoof2019(Layout):
    """The corpus, which comes with the scores of the organisers' ASV system for dev and eval."""

    def find_asv_scores(self, root: Path, split: str) -> tuple[Path, ...]:
        path = root / "ASVspoof2019_LA_asv_scores" / f"ASVspoof2019.LA.asv.{split}.gi.trl.scores.txt"
        return (path,) if path.is_file() else ()


LA = ASVspoof2019(
    name=CORPORA["asvspoof2019-la"],
    columns=("speaker_id", "utterance_id", "-", "attack", "key"),
    protocols={
        "train": "ASVspoof2019.LA.cm.train.trn.txt",
        "dev": "ASVspoof2019.LA.cm.dev.trl.txt",
        "eval": "ASVspoof2019.LA.cm.eval.trl.txt",
    },
    folders=("", "LA", "LA/LA"),
    protocol_folders=("ASVspoof2019_LA_cm_protocols",),
    audio_folders={split: (f"ASVspoof2019_LA_{split}/flac",) for split in ("train", "dev", "eval")},
)
