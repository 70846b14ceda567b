"""Name, folder or Hub id to corpus, the splits that training and evaluation use, and protocols without
audio."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset, ReadInstruction
from transformers.hf_argparser import HfArg

from . import asvspoof2019, asvspoof2021, demo
from .asvspoof5 import ASVSPOOF5
from .audio_folder import GUESSES, load_folder, load_hub
from .columns import is_header_line, read_columns
from .corpus_names import DEMO, DEMO_NOTE
from .folder_tree import ARCHIVE_EXTENSIONS, FolderTree, open_tree
from .in_the_wild import IN_THE_WILD
from .readable import leave_out_unreadable
from .text_tables import read_first_line
from .trials import (
    KEY_OF_LABEL,
    Corpus,
    check_trials,
    complete_trials,
    count_classes,
    list_trials,
    read_label_map,
)


LAYOUTS = {
    "asvspoof2019-la": asvspoof2019.LA,
    "asvspoof2021-la": asvspoof2021.LA,
    "asvspoof2021-df": asvspoof2021.DF,
    "asvspoof5": ASVSPOOF5,
    "in-the-wild": IN_THE_WILD,
}


@dataclass
class CorpusArguments:
    """Which corpus, and how to read it."""

    _argument_group_name = "corpus"

    dataset: str | None = HfArg(
        default=None,
        help=f"Corpus: {', '.join([*LAYOUTS, DEMO])}, a folder, or the id of a data set on the Hub. "
        "Without it, the layout of --data_dir decides; without both, the demo corpus is used.",
    )
    data_dir: str | None = HfArg(default=None, help="Folder of the corpus.")
    allow_missing: bool = HfArg(
        default=False, help="Leave out listed utterances without audio, and record their count."
    )
    allow_unreadable: bool = HfArg(
        default=False, help="Leave out recordings that cannot be read, and record their count."
    )
    dataset_config: str | None = HfArg(
        default=None, help="Configuration of a data set on the Hub that has several."
    )
    audio_column: str | None = HfArg(default=None, help="Audio column, where it cannot be guessed.")
    label_column: str | None = HfArg(default=None, help="Label column, where it cannot be guessed.")
    label_map: str | None = HfArg(
        default=None,
        help="What labels mean that are spelt otherwise: real=bonafide,deepfake=spoof,0=bonafide.",
    )
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


def load_corpus(arguments: CorpusArguments) -> Corpus:
    """
    Load the corpus that the arguments name: an official one, the demo, a folder or a data set of the Hub.

    Raises:
        FileNotFoundError: a folder, protocols or audio files that are not there.
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
        corpus = asvspoof2019.LA.load(demo.demo_corpus())
        return Corpus(DEMO, corpus.splits, corpus.missing, note=DEMO_NOTE)
    if name in LAYOUTS and data_dir is None:
        corpus = LAYOUTS[name].name
        raise ValueError(
            f"--dataset {name} needs --data_dir, the folder of {corpus.title}. Download it from "
            f"{corpus.source}."
        )
    if name not in (None, *LAYOUTS) and data_dir is not None:
        raise ValueError(
            f"--dataset {name} is not one of the named corpora {', '.join([*LAYOUTS, DEMO])}; a folder or a "
            "Hub id is given by --dataset alone."
        )
    columns = {role: getattr(arguments, f"{role}_column") for role in GUESSES}
    keys = read_label_map(arguments.label_map)
    folder = data_dir or Path(name).expanduser()
    if not folder.is_dir() and not (folder.is_file() and folder.name.lower().endswith(ARCHIVE_EXTENSIONS)):
        is_path = folder.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1
        if data_dir is not None or is_path or folder.exists():
            raise FileNotFoundError(f"There is no folder {folder}.")
        return load_hub(name, columns, keys, arguments.dataset_config)
    tree = open_tree(folder)
    found = [name] if name in LAYOUTS else _recognize_layouts(tree)
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds several corpora: {', '.join(found)}. Say which one is meant with --dataset "
            f"NAME, e.g. --dataset {found[0]} --data_dir {folder}."
        )
    if found:
        layout = LAYOUTS[found[0]]
        if unused := [role for role, column in columns.items() if column is not None]:
            raise ValueError(
                f"--{unused[0]}_column has no effect on {layout.name.title}, whose protocols say it."
            )
        return layout.load(tree, allow_missing=arguments.allow_missing)
    is_data_set = any(name.endswith((".parquet", ".arrow")) for name in tree.list_others())
    if is_data_set and not tree.recordings:
        return load_hub(str(tree.root.resolve()), columns, keys, arguments.dataset_config)
    try:
        return load_folder(tree, columns, keys, allow_missing=arguments.allow_missing)
    except ValueError as error:
        for layout in LAYOUTS.values():
            if layout.is_near(tree):
                absence = layout.describe_absence(tree)
                raise FileNotFoundError(f"{absence} Nor are its recordings labelled: {error}") from error
        raise


def _recognize_layouts(tree: FolderTree) -> list[str]:
    """Names of the corpora in a folder. Protocols of several may lie beside the audio of one: it is that."""
    found = [name for name, layout in LAYOUTS.items() if layout.find_protocols(tree)]
    return [name for name in found if LAYOUTS[name].has_audio(tree)] or found


def read_protocol(path: Path, keys: Mapping[str, str] = KEY_OF_LABEL) -> Corpus:
    """
    Read a protocol by itself, for scoring by a score file alone: that of a named corpus, which its layout
    tells, or any file whose first line names the columns of utterance and key, spelt as `keys` say. One under
    another than an official name may list other trials, and goes by its own name. The splits are tables of
    trials instead of rows.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no protocol {path}.")
    first = read_first_line(path)
    layout = next((layout for layout in LAYOUTS.values() if layout.matches(first)), None)
    if is_header_line(first) and not (layout and layout.is_csv):
        trials = complete_trials(read_columns(path, "key", keys=keys))
        check_trials(trials, str(path))
        return Corpus(path.name, {"all": trials})
    if layout is None:
        found = f"has {len(first.split())} fields in its first line" if first else "is empty"
        known = ", ".join(f"{x.name.title} ({len(x.columns)})" for x in LAYOUTS.values() if not x.is_csv)
        raise ValueError(
            f"{path} {found}. The layouts known, by the number of fields of a line: {known}; and "
            f"{IN_THE_WILD.name.title}, by the header {','.join(IN_THE_WILD.columns)}. The "
            f"first line of any other file must name its columns: utterance,key. Here it is {first!r}."
        )
    splits = layout.split_trials(layout.read_protocol(path), path)
    name = layout.name.title if layout.is_official(path) else path.name
    return Corpus(name, splits, breakdowns=layout.breakdowns)


def split_specs(split_args: SplitArguments, corpus: Corpus) -> dict[str, str]:
    """Our three splits and what they are called in the corpus; "eval" only where the corpus has it."""
    specs = {"train": split_args.train_split, "dev": split_args.dev_split, "eval": split_args.eval_split}
    if split_args.eval_split == "eval" and "eval" not in corpus.splits:
        del specs["eval"]
    return specs


def choose_split(corpus: Corpus, split: str | None) -> str:
    """The split that is asked for, else the only one, else "eval"."""
    return split or (next(iter(corpus.splits)) if len(corpus.splits) == 1 else "eval")


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
        rows = rows.select([*range(len(rows))][instruction.from_ : instruction.to])
    _check_classes(corpus, spec, rows)
    return rows


def take_readable_splits(
    corpus: Corpus, specs: Mapping[str, str], *, allow_unreadable: bool
) -> tuple[Corpus, dict[str, Dataset]]:
    """
    What [`take_split`] takes under each name, without recordings that cannot be read, and the corpus with
    their counts. Errors: see [`take_split`] and [`~processing.readable.leave_out_unreadable`].
    """
    splits = {name: take_split(corpus, spec) for name, spec in specs.items()}
    splits, counts = leave_out_unreadable(splits, allow_unreadable=allow_unreadable)
    for name, spec in specs.items():
        _check_classes(corpus, spec, splits[name])
    return replace(corpus, unreadable={spec: counts[name] for name, spec in specs.items()}), splits


def _check_classes(corpus: Corpus, spec: str, rows: Dataset) -> None:
    counts = count_classes(list_trials(rows))
    if not all(counts.values()):
        found = ", ".join(f"{count:,} {key}" for key, count in counts.items())
        raise ValueError(
            f"{corpus.name}, split {spec}: bona fide and spoofed trials are needed, but there are {found}."
        )
