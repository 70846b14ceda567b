"""Several corpora as one: rows under names that keep the corpora apart, and each corpus's own trials again,
for results of it alone."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset, Value, concatenate_datasets

from .corpus_names import describe_corpus, shorten_name
from .files import strip_folder
from .trials import Corpus, as_word, count_classes


NAMES = ("utterance_id", "speaker_id", "attack")  # columns in which a pool has the corpus before the name


@dataclass(frozen=True)
class Scope:
    """
    What results are of: trials of one corpus, or those of several together.

    Attributes:
        corpus: with its own name and counts.
        split: as it is called, or what slice of it.
        trials: under the names that the corpus itself gives them, in a pool under those of the pool.
        places: of the trials among all that are scored, (num_trials,).
        folder: of its results, below those of the pool; "" of the pool, and of a single corpus.
    """

    corpus: Corpus
    split: str
    trials: pd.DataFrame
    places: np.ndarray
    folder: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials by key; results need both."""
        return count_classes(self.trials)


def read_weight(text: str) -> tuple[str, int]:
    """A corpus and how many times its utterances are seen in an epoch: 2 in `name:2`, 1 where it does not
    say. A ValueError if that is not a whole number."""
    found = re.fullmatch(r"(.+):([\d.]+)", text)
    if found is None or Path(text).expanduser().exists():
        return text, 1
    if not found[2].isdigit() or int(found[2]) == 0:
        raise ValueError(
            f"--dataset {text}: {found[2]} is not how many times each utterance is seen in an epoch, 1, 2, … "
            "Where one corpus is to be seen less often, give the others more."
        )
    return found[1], int(found[2])


def pool_corpora(parts: Sequence[Corpus]) -> Corpus:
    """The corpora as one, folders by their last names. ValueError: two have the same name."""
    parts = [replace(part, name=strip_folder(part.name)) for part in parts]
    names = Counter(map(_make_prefix, parts))
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(
            f"Two of the corpora are called {twice[0].rstrip('/')}, and results could not tell them apart. "
            "Name each once, and rename one of two folders of the same name."
        )
    splits = dict.fromkeys(split for part in parts for split in part.splits)
    return Corpus(
        _join_names(parts),
        {split: pool_rows((p, p.splits[split]) for p in parts if split in p.splits) for split in splits},
        missing={split: sum(part.missing.get(split, 0) for part in parts) for split in splits},
        left_out={f"{why} ({p.name})": count for p in parts for why, count in p.left_out.items()},
        note=" ".join(f"{describe_corpus(part.name)}: {part.note}" for part in parts if part.note),
        breakdowns=("corpus",),
        parts=tuple(parts),
    )


def pool_rows(taken: Iterable[tuple[Corpus, Dataset]]) -> Dataset:
    """Rows of corpora one after the other, with a column `corpus`, in which names begin with theirs."""
    pooled = []
    for part, rows in taken:
        prefix = _make_prefix(part)
        for column in NAMES:
            names = pd.Series(rows.with_format(None)[column][:], dtype="str")
            rows = _replace_column(rows, column, names.where(names == "-", prefix + names))
        pooled.append(_replace_column(rows, "corpus", pd.Series(part.name, range(len(rows)), dtype="str")))
    return concatenate_datasets(pooled)


def repeat_rows(corpus: Corpus, rows: Dataset) -> Dataset:
    """
    The rows of an epoch: each as many times as its corpus weighs. From the second time on its number stands
    behind the utterance's name, so that what is drawn for an utterance, such as its crop, is another.
    """
    repeated = [rows]
    for part in corpus.parts or (corpus,):
        own = rows
        if part.weight > 1 and corpus.parts:
            own = rows.select(np.flatnonzero(np.asarray(rows["corpus"][:]) == part.name))
        for time in range(2, part.weight + 1):
            names = pd.Series(own["utterance_id"][:], dtype="str")
            repeated.append(_replace_column(own, "utterance_id", names + f"#{time}"))
    return concatenate_datasets(repeated) if len(repeated) > 1 else rows


def list_specs(corpus: Corpus, spec: str) -> list[tuple[Corpus, str]]:
    """
    What is taken of each corpus of a pool: the split or slice that is named, of all that have it, or of a
    list, `dev, train[90%:]`, the one at the corpus's place, `-` for nothing. ValueError: a list of another
    length.
    """
    specs = re.split(r"\s*,\s*", spec.strip())
    if not corpus.parts or len(specs) == 1:
        return [(part, spec) for part in corpus.parts if spec.split("[")[0] in part.splits]
    if len(specs) != len(corpus.parts):
        raise ValueError(
            f"{spec!r} names {len(specs)} splits, but there are {len(corpus.parts)} corpora, {corpus.name}: "
            "name one for all, or one for each, - for none of it."
        )
    return [pair for pair in zip(corpus.parts, specs, strict=True) if pair[1] != "-"]


def list_scopes(corpus: Corpus, spec: str, trials: pd.DataFrame) -> list[Scope]:
    """
    What the results of scored trials are of: the corpus; or a pool, with the name of the corpora that it has
    trials of, and behind it each of these alone.
    """
    everything = np.arange(len(trials))
    if not corpus.parts:
        return [Scope(corpus, spec, trials, everything)]
    scopes = []
    for part, own_spec in list_specs(corpus, spec):
        places = np.flatnonzero(trials["corpus"] == part.name)
        own, prefix = trials.iloc[places].reset_index(drop=True), _make_prefix(part)
        own = own.assign(**{column: own[column].str.removeprefix(prefix) for column in NAMES})
        scopes.append(Scope(part, own_spec, own, places, re.sub(r"[^\w-]+", "-", prefix).strip("-")))
    if len(scopes) == 1:
        return [replace(scopes[0], folder="")]
    counts = {
        name: {spec: sum(getattr(scope.corpus, name).get(scope.split, 0) for scope in scopes)}
        for name in ("missing", "unreadable")
    }
    pool = replace(corpus, name=_join_names([scope.corpus for scope in scopes]), **counts)
    return [Scope(pool, spec, trials, everything), *scopes]


def record_part(part: Corpus, scopes: Mapping[str, Sequence[Scope]]) -> dict:
    """What `training.json` says of one of several corpora, of the scopes of each role."""
    own = {role: scope for role, of in scopes.items() for scope in of if scope.corpus.name == part.name}
    return {
        "weight": part.weight,
        "splits": {role: scope.split for role, scope in own.items()},
        "counts": {role: scope.counts for role, scope in own.items()},
        "missing": part.missing,
        "unreadable": part.unreadable,
    }


def _make_prefix(part: Corpus) -> str:
    return f"{as_word(shorten_name(part.name))}/"


def _join_names(parts: Iterable[Corpus]) -> str:
    return " + ".join(part.name for part in parts)


def _replace_column(rows: Dataset, name: str, values: pd.Series) -> Dataset:
    if name in rows.column_names:
        rows = rows.remove_columns(name)
    return rows.add_column(name, pa.array(values, pa.string()), feature=Value("string"))
