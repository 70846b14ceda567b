"""ASVspoof 2019 logical access (LA), in the folder layout of the official `LA.zip`."""

from pathlib import Path

from .rows import KEYS, Corpus, ProtocolColumns, check_columns, keep_present, make_rows


NAME = "ASVspoof 2019 LA"
SOURCE = "https://datashare.ed.ac.uk/handle/10283/3336 (LA.zip)"
PROTOCOL_FOLDER = "ASVspoof2019_LA_cm_protocols"
PROTOCOLS = {"train": "train.trn", "dev": "dev.trl", "eval": "eval.trl"}


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
        ValueError: a line that does not parse, or an utterance listed twice.
    """
    columns = ProtocolColumns()
    with open(path, encoding="utf-8-sig", errors="backslashreplace") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 5 or fields[4] not in KEYS or (fields[3] == "-") != (fields[4] == "bonafide"):
                raise ValueError(
                    f"{path}, line {number}: {line.strip()!r} is not `speaker utterance - attack key` with "
                    "the key bonafide (attack -) or spoof (attack named)."
                )
            columns.speaker_id.append(fields[0])
            columns.utterance_id.append(fields[1])
            columns.attack.append(fields[3])
            columns.key.append(fields[4])
    check_columns(columns, str(path))
    return columns


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
    splits, missing = {}, {}
    for split, ending in PROTOCOLS.items():
        protocol = root / PROTOCOL_FOLDER / f"ASVspoof2019.LA.cm.{ending}.txt"
        if not protocol.is_file():
            continue
        columns = read_protocol(protocol)
        file_names = [f"{utterance}.flac" for utterance in columns.utterance_id]
        audio_folder = (root / f"ASVspoof2019_LA_{split}" / "flac").resolve()
        columns, paths, missing[split] = keep_present(
            columns, file_names, audio_folder, source=str(protocol), allow_missing=allow_missing
        )
        if paths:
            splits[split] = make_rows(columns, paths)
    if not missing:
        raise FileNotFoundError(
            f"{root / PROTOCOL_FOLDER} holds none of the protocols ASVspoof2019.LA.cm.*.txt."
        )
    if not splits:
        raise FileNotFoundError(f"{root} holds none of the audio files that its protocols list.")
    return Corpus(NAME, splits, missing)
