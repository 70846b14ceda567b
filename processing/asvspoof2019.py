"""ASVspoof 2019 logical access (LA), in the folder layout of the official `LA.zip`."""

from pathlib import Path

from .trials import Corpus, ProtocolColumns, load_splits, read_columns


NAME = "ASVspoof 2019 LA"
SOURCE = "https://datashare.ed.ac.uk/handle/10283/3336 (LA.zip)"
PROTOCOL_FOLDER = "ASVspoof2019_LA_cm_protocols"
PROTOCOLS = {
    "train": "ASVspoof2019.LA.cm.train.trn.txt",
    "dev": "ASVspoof2019.LA.cm.dev.trl.txt",
    "eval": "ASVspoof2019.LA.cm.eval.trl.txt",
}
COLUMNS = ("speaker_id", "utterance_id", "-", "attack", "key")
BREAKDOWNS = ()


def find_root(data_dir: Path) -> Path | None:
    """
    The folder that holds the protocols: `data_dir` itself or the `LA` folder in it; `None` if neither does.
    """
    for folder in (data_dir, data_dir / "LA", data_dir / "LA" / "LA"):
        if (folder / PROTOCOL_FOLDER).is_dir():
            return folder
    return None


def read_protocol(path: Path) -> ProtocolColumns:
    """
    Read a countermeasure protocol: speaker, utterance, "-", attack ("-" for bona fide) and key on each line.

    Raises:
        ValueError: a line that does not parse, an utterance listed twice, no trial at all.
    """
    return read_columns(path, COLUMNS)


def load(data_dir: Path, *, allow_missing: bool = False) -> Corpus:
    """
    Load train, dev and eval of ASVspoof 2019 LA. The protocols are the authority: FLAC files that they do not
    list (ASV enrolment) are passed over.

    Args:
        data_dir: the unpacked `LA.zip`: the folder `LA`, or the one above it.
        allow_missing: leave listed utterances without audio out, and count them, instead of raising.

    Raises:
        FileNotFoundError: no such layout, or listed files that are missing.
        ValueError: a protocol that does not parse; see [`read_protocol`].
    """
    root = find_root(data_dir)
    if root is None:
        raise FileNotFoundError(
            f"{data_dir} is not an ASVspoof 2019 LA folder: there is no {PROTOCOL_FOLDER} in it. Give the "
            f"unpacked LA folder of {SOURCE}."
        )
    files = {
        split: (root / PROTOCOL_FOLDER / name, root / f"ASVspoof2019_LA_{split}" / "flac")
        for split, name in PROTOCOLS.items()
        if (root / PROTOCOL_FOLDER / name).is_file()
    }
    if not files:
        raise FileNotFoundError(
            f"{root / PROTOCOL_FOLDER} holds none of the protocols ASVspoof2019.LA.cm.*.txt."
        )
    splits, missing = load_splits(files, COLUMNS, allow_missing=allow_missing)
    if not splits:
        raise FileNotFoundError(f"{root} holds none of the audio files that its protocols list.")
    scores = {
        split: root / "ASVspoof2019_LA_asv_scores" / f"ASVspoof2019.LA.asv.{split}.gi.trl.scores.txt"
        for split in splits
    }
    asv_score_files = {split: (path,) for split, path in scores.items() if path.is_file()}
    return Corpus(NAME, splits, missing, asv_score_files=asv_score_files)
