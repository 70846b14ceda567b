"""ASVspoof 5 track 1, countermeasures without ASV."""

from .corpus_names import CORPORA
from .layout import Layout


ASVSPOOF5 = Layout(
    name=CORPORA["asvspoof5"],
    columns=(
        *("speaker_id", "utterance_id", "gender", "codec", "codec_quality", "codec_seed"),
        *("attack_tag", "attack", "key", "-"),
    ),
    protocols={
        "train": "ASVspoof5.train.tsv",  # between white space, despite its name
        "dev": "ASVspoof5.dev.track_1.tsv",
        "eval": "ASVspoof5.eval.track_1.tsv",
    },
    audio_folders={"train": "flac_T", "dev": "flac_D", "eval": "flac_E_eval"},
    breakdowns=("codec",),
)
