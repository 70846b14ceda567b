"""ASVspoof 2021 logical access (LA) and deepfake (DF), for evaluation only; formats:
https://github.com/asvspoof-challenge/2021/tree/main/eval-package."""

from .corpus_names import CORPORA
from .trials import Layout


SUBSETS = ("eval", "progress", "hidden")


def _make_layout(track: str, columns: tuple[str, ...], breakdowns: tuple[str, ...]) -> Layout:
    """The layout of "LA" or "DF": one protocol lists all subsets, which are its splits."""
    return Layout(
        name=CORPORA[f"asvspoof2021-{track.lower()}"],
        columns=columns,
        protocols=dict.fromkeys(SUBSETS, "trial_metadata.txt"),
        folders=("", "ASVspoof2021", f"ASVspoof2021_{track}", track),
        # The ways in which the official archive is found unpacked.
        protocol_folders=(f"keys/{track}/CM", f"{track}/CM", f"{track}-keys-full/keys/{track}/CM"),
        audio_folders=dict.fromkeys(SUBSETS, (f"ASVspoof2021_{track}_eval/flac",)),
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
