"""ASVspoof 5 track 1, countermeasures without ASV."""

from pathlib import Path

from .trials import Corpus, ProtocolColumns, load_splits, read_columns


NAME = "ASVspoof 5"
SOURCE = "https://zenodo.org/records/14498691 (ASVspoof5_protocols.tar.gz, flac_{T,D,E}_*.tar)"
PROTOCOLS = {
    "train": "ASVspoof5.train.tsv",
    "dev": "ASVspoof5.dev.track_1.tsv",
    "eval": "ASVspoof5.eval.track_1.tsv",
}
AUDIO_FOLDERS = {"train": "flac_T", "dev": "flac_D", "eval": "flac_E_eval"}
COLUMNS = (
    *("speaker_id", "utterance_id", "gender", "codec", "codec_quality", "codec_seed"),
    *("attack_tag", "attack", "key", "-"),
)
BREAKDOWNS = ("codec",)


def find_root(data_dir: Path) -> Path | None:
    """The folder that holds a protocol or `ASVspoof5_protocols` with one: `data_dir` or `ASVspoof5` in it."""
    for root in (data_dir, data_dir / "ASVspoof5"):
        if any(_protocol(root, split) for split in PROTOCOLS):
            return root
    return None


def read_protocol(path: Path) -> ProtocolColumns:
    """
    Read a protocol of track 1; its fields lie between white space, as those of the other corpora.

    Raises:
        ValueError: a line that does not parse, an utterance listed twice, no trial at all.
    """
    return read_columns(path, COLUMNS)


def load(data_dir: Path, *, allow_missing: bool = False) -> Corpus:
    """
    Load train, dev and eval of ASVspoof 5 track 1, those of them whose protocol is there.

    Args:
        data_dir: the folder of the unpacked archives, or the one above it.
        allow_missing: leave listed utterances without audio out, and count them, instead of raising.

    Raises:
        FileNotFoundError: no such layout, or listed files that are missing.
        ValueError: a protocol that does not parse; see [`read_protocol`].
    """
    root = find_root(data_dir)
    if root is None:
        raise FileNotFoundError(
            f"{data_dir} is not an ASVspoof 5 folder: there is no {', '.join(PROTOCOLS.values())} in it or "
            f"in ASVspoof5_protocols. Give the folder of the unpacked archives of {SOURCE}."
        )
    protocols = {split: _protocol(root, split) for split in PROTOCOLS}
    files = {split: (path, _audio(root, split)) for split, path in protocols.items() if path}
    splits, missing = load_splits(files, COLUMNS, allow_missing=allow_missing)
    if not splits:
        raise FileNotFoundError(f"{root} holds none of the audio files that its protocols list.")
    return Corpus(NAME, splits, missing, breakdowns=BREAKDOWNS)


def _protocol(root: Path, split: str) -> Path | None:
    for folder in (root, root / "ASVspoof5_protocols"):
        if (folder / PROTOCOLS[split]).is_file():
            return folder / PROTOCOLS[split]
    return None


def _audio(root: Path, split: str) -> Path:
    nested = root / f"ASVspoof5_{split}" / AUDIO_FOLDERS[split]
    return nested if nested.is_dir() else root / AUDIO_FOLDERS[split]
