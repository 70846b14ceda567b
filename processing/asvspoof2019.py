"""ASVspoof 2019 logical access (LA), in the folder layout of the official `LA.zip`, with the scores of
the organisers' ASV system for dev and eval."""

from .corpus_names import CORPORA
from .layout import Layout


LA = Layout(
    name=CORPORA["asvspoof2019-la"],
    columns=("speaker_id", "utterance_id", "-", "attack", "key"),
    protocols={
        "train": "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.train.trn.txt",
        "dev": "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.dev.trl.txt",
        "eval": "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt",
    },
    audio_folders={split: f"ASVspoof2019_LA_{split}/flac" for split in ("train", "dev", "eval")},
    asv_scores=("ASVspoof2019_LA_asv_scores/ASVspoof2019.LA.asv.{split}.gi.trl.scores.txt",),
)
