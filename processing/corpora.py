"""Name, folder or Hub id to corpus, and the splits that training and evaluation use."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from datasets import Dataset, ReadInstruction

from . import demo
from .arguments import CorpusArguments, SplitArguments
from .audio_folder import load_folder, load_hub
from .columns import GUESSES
from .corpus_names import DEMO, DEMO_NOTE
from .files import strip_folder
from .folder_tree import ARCHIVE_EXTENSIONS, FolderTree, open_tree
from .layouts import LAYOUTS
from .pooling import list_specs, pool_corpora, pool_rows, read_weight
from .readable import leave_out_unreadable
from .streamed_rows import is_streamed, load_streamed
from .trials import FEATURES, Corpus, count_classes, list_trials, read_label_map


def load_corpus(
    arguments: CorpusArguments,
    *,
    unlabelled: str | None = None,
    needs_label_map: bool = True,
    streaming: bool = False,
) -> Corpus:
    """
    Load the corpus that the arguments name: an official one, the demo, a folder or a data set of the Hub; of
    several, all of them as one (see [`pool_corpora`]).
    `unlabelled` is the label of what has none in a folder; `needs_label_map` is false where a model needs it;
    `streaming` leaves the audio of training where it is (see [`load_streamed`]).

    Raises:
        FileNotFoundError: a folder, protocols or audio files that are not there.
        ValueError: a layout or label that is not understood, or a folder that holds several named corpora.
    """
    names = arguments.dataset or [None]
    if "" in (*names, arguments.data_dir):
        raise ValueError(
            "--dataset or --data_dir is empty. Name a corpus or folder, or leave the option out."
        )
    if len(names) > 1 and arguments.data_dir is not None:
        raise ValueError(
            "--data_dir is the folder of one corpus: of several, give --dataset the folder of each, whose "
            "layout tells the corpus."
        )
    load_data_set, corpora = load_streamed if streaming else load_hub, []
    for text in names:
        name, weight = (None, 1) if text is None else read_weight(text)
        corpus = _load_one(name, arguments, unlabelled, needs_label_map, load_data_set)
        corpora.append(_add_breakdowns(replace(corpus, weight=weight), arguments.breakdown or []))
    if streaming and not (len(corpora) == 1 and any(map(is_streamed, corpora[0].splits.values()))):
        raise ValueError(
            "--streaming reads the split train of one data set of Parquet files. Name that by --dataset, a "
            "Hub id or a folder, or leave --streaming out."
        )
    return corpora[0] if len(corpora) == 1 else pool_corpora(corpora)


def _load_one(
    name: str | None,
    arguments: CorpusArguments,
    unlabelled: str | None,
    needs_label_map: bool,
    load_data_set: Callable[..., Corpus],
) -> Corpus:
    """The corpus of this name, or that of --data_dir."""
    data_dir = arguments.data_dir and Path(arguments.data_dir).expanduser()
    if name == DEMO or (name is None and data_dir is None):
        if data_dir:
            raise ValueError("The demo corpus is made by this package: leave --data_dir out.")
        corpus = LAYOUTS["asvspoof2019-la"].load(demo.demo_corpus())
        return Corpus(DEMO, corpus.splits, corpus.missing, note=DEMO_NOTE)
    if name in LAYOUTS and data_dir is None:
        corpus = LAYOUTS[name].name
        raise ValueError(
            f"--dataset {name} needs --data_dir, the folder of {corpus.title}; of several corpora, give that "
            f"folder in place of the name. Download it from {corpus.source}."
        )
    if name not in (None, *LAYOUTS) and data_dir is not None:
        raise ValueError(
            f"--dataset {name} is not one of the named corpora {', '.join([*LAYOUTS, DEMO])}; a folder or a "
            "Hub id is given by --dataset alone."
        )
    columns = {role: getattr(arguments, f"{role}_column") for role in GUESSES}
    columns |= {f"breakdown {name}": name for name in arguments.breakdown or () if name not in FEATURES}
    keys = read_label_map(arguments.label_map)
    folder = data_dir or Path(name).expanduser()
    if not folder.is_dir() and not (folder.is_file() and folder.name.lower().endswith(ARCHIVE_EXTENSIONS)):
        is_path = folder.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1
        if data_dir is not None or is_path or folder.exists():
            raise FileNotFoundError(f"There is no folder {folder}.")
        return load_data_set(name, columns, keys, arguments.dataset_config)
    tree = open_tree(folder)
    found = [name] if name in LAYOUTS else _recognize_layouts(tree)
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds several corpora: {', '.join(found)}. Give the folder of one, or say which one "
            f"is meant with --dataset NAME, e.g. --dataset {found[0]} --data_dir {folder}."
        )
    if found:
        layout = LAYOUTS[found[0]]
        unused = [f"{role}_column" for role in GUESSES if columns[role] is not None]
        unused += ["label_map"] * (needs_label_map and arguments.label_map is not None)
        if unused and len(arguments.dataset or ()) < 2:  # of several, another may need it
            raise ValueError(
                f"--{unused[0]} has no effect on {layout.name.title}: its protocols say it. Leave it out."
            )
        return layout.load(tree, allow_missing=arguments.allow_missing)
    is_data_set = any(name.endswith((".parquet", ".arrow")) for name in tree.list_others())
    if is_data_set and not tree.recordings:
        root = str(tree.root.resolve())
        corpus = load_data_set(root, columns, keys, arguments.dataset_config)
        return replace(corpus, name=strip_folder(str(folder))) if corpus.name == root else corpus
    try:
        corpus = load_folder(
            tree, columns, keys, allow_missing=arguments.allow_missing, unlabelled=unlabelled
        )
        return replace(corpus, name=strip_folder(str(folder)))  # not where an archive was unpacked
    except ValueError as error:
        for layout in LAYOUTS.values():
            if layout.is_near(tree):
                absence = layout.describe_absence(tree)
                raise FileNotFoundError(f"{absence} Nor are its recordings labelled: {error}") from error
        raise


def _add_breakdowns(corpus: Corpus, names: list[str]) -> Corpus:
    """The corpus, of which results are broken down by these columns, too. ValueError: it lacks one."""
    for split, rows in corpus.splits.items():
        own = [column for column in rows.column_names if column not in ("utterance_id", "audio", "label")]
        for name in names:
            if name not in own:
                raise ValueError(
                    f"--breakdown {name}: {corpus.name} {split} has no such column, only {', '.join(own)}."
                )
    return replace(
        corpus, breakdowns=tuple(dict.fromkeys(n for n in (*corpus.breakdowns, *names) if n != "attack"))
    )


def _recognize_layouts(tree: FolderTree) -> list[str]:
    """Names of the corpora in a folder. Protocols of several may lie beside the audio of one: it is that."""
    found = [name for name, layout in LAYOUTS.items() if layout.find_protocols(tree)]
    return [name for name in found if LAYOUTS[name].has_audio(tree)] or found


def split_specs(split_args: SplitArguments, corpus: Corpus) -> dict[str, str]:
    """Our three splits and what they are called in the corpus; "eval" only where the corpus has it."""
    specs = {"train": split_args.train_split, "dev": split_args.dev_split, "eval": split_args.eval_split}
    if split_args.eval_split == "eval" and "eval" not in corpus.splits:
        del specs["eval"]
    return specs


def take_split(corpus: Corpus, spec: str) -> Dataset:
    """
    Rows of a split, or of a slice of one in `datasets` notation: "dev", "train[:90%]"; of several corpora as
    [`list_specs`] says.

    Raises:
        ValueError: the corpus has no such split, or the slice is empty or holds one class only.
    """
    taken = [(part, _take_rows(part, own)) for part, own in list_specs(corpus, spec)]
    rows = pool_rows(taken) if taken else _take_rows(corpus, spec)
    _check_classes(corpus, spec, rows)
    return rows


def _take_rows(corpus: Corpus, spec: str) -> Dataset:
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
        has_both = all(count_classes(list_trials(rows)).values())
        rows = rows.select([*range(len(rows))][instruction.from_ : instruction.to])
        if has_both:  # in a pool, a slice that lost a class would not be noticed
            _check_classes(corpus, spec, rows)
    return rows


def take_readable_splits(
    corpus: Corpus, specs: Mapping[str, str], *, allow_unreadable: bool
) -> tuple[Corpus, dict[str, Dataset]]:
    """
    What [`take_split`] takes under each name, without recordings that cannot be read, and the corpus with
    their counts. Errors: see [`take_split`] and [`~processing.readable.leave_out_unreadable`].
    """
    taken = {name: take_split(corpus, spec) for name, spec in specs.items()}
    splits, counts = leave_out_unreadable(taken, allow_unreadable=allow_unreadable)
    unreadable, of_parts = {}, {part.name: {} for part in corpus.parts}
    for name, spec in specs.items():
        _check_classes(corpus, spec, splits[name])
        unreadable[spec] = counts[name]
        for part, own in list_specs(corpus, spec):
            before, after = (list(rows[name]["corpus"]).count(part.name) for rows in (taken, splits))
            of_parts[part.name][own] = before - after
    parts = tuple(replace(part, unreadable=of_parts[part.name]) for part in corpus.parts)
    return replace(corpus, unreadable=unreadable, parts=parts), splits


def _check_classes(corpus: Corpus, spec: str, rows: Dataset) -> None:
    counts = count_classes(list_trials(rows))
    if not all(counts.values()):
        found = ", ".join(f"{count:,} {key}" for key, count in counts.items())
        raise ValueError(
            f"{corpus.name}, split {spec}: bona fide and spoofed trials are needed, but there are {found}."
        )
