"""Name, folder or Hub id to corpus, the splits that training and evaluation use, and protocols without
audio."""

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, ReadInstruction
from transformers.hf_argparser import HfArg

from . import asvspoof5, asvspoof2019, asvspoof2021, demo, in_the_wild
from .audio_folder import ColumnNames, load_folder, load_hub
from .corpus_names import DEMO, DEMO_NOTE
from .trials import Corpus, ProtocolColumns, check_one_class


# Each of these has NAME, SOURCE, PROTOCOLS (official file name by split), BREAKDOWNS, find_root(data_dir),
# read_protocol(path) and load(data_dir, allow_missing=...).
BY_NAME = {
    "asvspoof2019-la": asvspoof2019,
    "asvspoof2021-la": asvspoof2021.LA,
    "asvspoof2021-df": asvspoof2021.DF,
    "asvspoof5": asvspoof5,
    "in-the-wild": in_the_wild,
}
# Those whose protocols are told apart by the number of fields of a line.
BY_NUM_FIELDS = {
    len(corpus.COLUMNS): corpus for corpus in (asvspoof2019, asvspoof2021.LA, asvspoof2021.DF, asvspoof5)
}


@dataclass
class CorpusArguments:
    """Which corpus, and how to read it."""

    _argument_group_name = "corpus"

    dataset: str | None = HfArg(
        default=None,
        help=f"Corpus: {', '.join([*BY_NAME, DEMO])}, a folder, or the id of a data set on the Hub. "
        "Without it, the layout of --data_dir decides; without both, the demo corpus is used.",
    )
    data_dir: str | None = HfArg(default=None, help="Folder of the corpus.")
    allow_missing: bool = HfArg(
        default=False, help="Leave out listed utterances without audio, and record their count."
    )
    dataset_config: str | None = HfArg(
        default=None, help="Configuration of a data set on the Hub that has several."
    )
    audio_column: str | None = HfArg(default=None, help="Audio column, where it can't be guessed.")
    label_column: str | None = HfArg(default=None, help="Label column, where it can't be guessed.")
    id_column: str | None = HfArg(default=None, help="Column of the utterance id; default: file names.")
    speaker_column: str | None = HfArg(default=None, help="Column of the speaker.")
    attack_column: str | None = HfArg(default=None, help="Column of the attack.")

    @property
    def is_demo(self) -> bool:
        """Whether the demo corpus is meant: by name, or because none is named."""
        return self.dataset == DEMO or (self.dataset is None and self.data_dir is None)


@dataclass
class SplitArguments:
    """Which splits of the corpus."""

    _argument_group_name = "splits"

    train_split: str = HfArg(default="train", help="Split to train on; may be a slice, train[:90%%].")
    dev_split: str = HfArg(default="dev", help="Split for model choice; may be a slice, train[90%%:].")
    eval_split: str = HfArg(default="eval", help="Split to evaluate on at the end, where there is one.")


@dataclass(frozen=True)
class Protocol:
    """
    What a protocol lists, without audio.

    Attributes:
        corpus: name of the corpus if the file has its official name, otherwise the file's own name.
        splits: trials by split; "all" where the file does not say which split it is.
        breakdowns: names of the string columns by whose values results are broken down.
    """

    corpus: str
    splits: dict[str, ProtocolColumns]
    breakdowns: tuple[str, ...]


def load_corpus(arguments: CorpusArguments) -> Corpus:
    """
    Load the corpus that the arguments name.

    Raises:
        FileNotFoundError: a folder or audio files that are not there; the message says where the corpus is to
            be had.
        ValueError: a layout or label that is not understood, or a folder that holds several named corpora.
    """
    if "" in (arguments.dataset, arguments.data_dir):
        raise ValueError(
            "--dataset or --data_dir is empty. Name a corpus or folder, or leave the option out."
        )
    name, data_dir = arguments.dataset, arguments.data_dir and Path(arguments.data_dir).expanduser()
    if arguments.is_demo:
        if data_dir:
            raise ValueError("The demo corpus is made by this package: leave --data_dir out.")
        corpus = asvspoof2019.load(demo.demo_corpus())
        return Corpus("demo", corpus.splits, corpus.missing, note=DEMO_NOTE)
    columns = ColumnNames(
        arguments.audio_column,
        arguments.label_column,
        arguments.id_column,
        arguments.speaker_column,
        arguments.attack_column,
    )
    if name in BY_NAME:
        module = BY_NAME[name]
        if data_dir is None:
            raise ValueError(
                f"--dataset {name} needs --data_dir, the folder of {module.NAME}. It is to be had at "
                f"{module.SOURCE}."
            )
        _must_exist(data_dir)
        return module.load(data_dir, allow_missing=arguments.allow_missing)
    if name is not None and data_dir is not None:
        raise ValueError(
            f"--dataset {name} is not one of the named corpora {', '.join([*BY_NAME, DEMO])}; a folder or a "
            "Hub id is given by --dataset alone."
        )
    folder = data_dir or Path(name).expanduser()
    if data_dir is None and not folder.exists():
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            _must_exist(folder)
        return load_hub(name, columns, arguments.dataset_config)
    _must_exist(folder)
    found = [name for name, module in BY_NAME.items() if module.find_root(folder)]
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds several corpora: {', '.join(found)}. Say which one is meant with --dataset "
            f"NAME, e.g. --dataset {found[0]} --data_dir {folder}."
        )
    if found:
        return BY_NAME[found[0]].load(folder, allow_missing=arguments.allow_missing)
    return load_folder(folder, columns)


def read_protocol(path: Path) -> Protocol:
    """
    Read the protocol of a named corpus by itself, for scoring by a score file alone. Its layout tells the
    corpus; a file under another than the official name may list other trials, and goes by its own name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an empty file, a layout that is not known, or a line that does not parse.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no protocol {path}.")
    with open(path, encoding="utf-8-sig", errors="backslashreplace") as lines:
        num_fields = len(next((line.split() for line in lines if not line.isspace()), []))
    module = in_the_wild if in_the_wild.has_header(path) else BY_NUM_FIELDS.get(num_fields)
    if module is None:
        found = f"has {num_fields} fields in its first line" if num_fields else "is empty"
        known = ", ".join(f"{known.NAME} ({number})" for number, known in BY_NUM_FIELDS.items())
        raise ValueError(
            f"{path} {found}. The layouts known, by the number of fields of a line: {known}; and "
            f"{in_the_wild.NAME}, by the header {','.join(in_the_wild.HEADER)}."
        )
    columns = module.read_protocol(path)
    official = [split for split, name in module.PROTOCOLS.items() if name == path.name]
    if "subset" in columns.extra:
        splits = asvspoof2021.split_by_subset(columns)
    else:
        splits = {official[0] if official else "all": columns}
    return Protocol(module.NAME if official else path.name, splits, module.BREAKDOWNS)


def split_specs(split_args: SplitArguments, corpus: Corpus) -> dict[str, str]:
    """Our three splits and what they are called in the corpus; "eval" only where the corpus has it."""
    specs = {"train": split_args.train_split, "dev": split_args.dev_split, "eval": split_args.eval_split}
    if split_args.eval_split == "eval" and "eval" not in corpus.splits:
        del specs["eval"]
    return specs


def take_split(corpus: Corpus, spec: str) -> Dataset:
    """
    Rows of a split, or of a slice of one in `datasets` notation: "dev", "train[:90%]".

    Raises:
        ValueError: the corpus has no such split, or the slice is empty or holds one class only.
    """
    lengths = {name: len(rows) for name, rows in corpus.splits.items()}
    try:
        (instruction,) = ReadInstruction.from_spec(spec).to_absolute(lengths)  # several in "train+dev"
    except (ValueError, AssertionError, KeyError) as error:
        raise ValueError(
            f"{corpus.name} has no split {spec!r}, only "
            f"{', '.join(f'{k} ({n:,})' for k, n in lengths.items())}. Name a split or a slice of one, e.g. "
            "'train[:90%]'."
        ) from error
    rows = corpus.splits[instruction.splitname]
    if instruction.from_ is not None or instruction.to is not None:
        start, stop = instruction.from_ or 0, instruction.to if instruction.to is not None else len(rows)
        rows = rows.select(range(start, stop) if start < stop else [])
    check_one_class(rows, f"{corpus.name}, split {spec}")
    return rows


def _must_exist(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
