"""ASVspoof 5 track 1, countermeasures without ASV."""

from .corpus_names import CORPORA
from .trials import Layout


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
    folders=("", "ASVspoof5"),
    protocol_folders=("", "ASVspoof5_protocols"),
    audio_folders={
        "train": ("ASVspoof5_train/flac_T", "flac_T"),
        "dev": ("ASVspoof5_dev/flac_D", "flac_D"),
        "eval": ("ASVspoof5_eval/flac_E_eval", "flac_E_eval"),
    },
    breakdowns=("codec",),
)
