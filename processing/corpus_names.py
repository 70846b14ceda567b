"""The corpora that have a name: what results call them, where they are to be found, and how many trials their
official protocols list. Imports nothing that takes long."""

from dataclasses import dataclass, field
from pathlib import PurePath


DEMO = "demo"  # the built-in corpus, as --dataset and results call it
DEMO_NOTE = "Synthetic demo corpus without any human voice: its numbers mean nothing about real speech."


@dataclass(frozen=True)
class CorpusName:
    """
    Attributes:
        title: in results and in print.
        source: where to download it.
        hub_id: of the data set that its makers keep on the Hub; `None` where there is none.
        num_trials: of the official protocol, by split, as far as they are known.
    """

    title: str
    source: str
    hub_id: str | None = None
    num_trials: dict[str, int] = field(default_factory=dict)


_KEYS_2021 = "https://www.asvspoof.org/index2021.html ({}-keys-full.tar.gz) and {}"
# By the name that --dataset takes and recipes state.
CORPORA = {
    "asvspoof2019-la": CorpusName(
        "ASVspoof 2019 LA",
        "https://datashare.ed.ac.uk/handle/10283/3336 (LA.zip)",
        # Bona fide and spoof: 2,580 + 22,800, 2,548 + 22,296, 7,355 + 63,882.
        num_trials={"train": 25_380, "dev": 24_844, "eval": 71_237},
    ),
    "asvspoof2021-la": CorpusName(
        "ASVspoof 2021 LA",
        _KEYS_2021.format("LA", "https://zenodo.org/records/4837263 (ASVspoof2021_LA_eval.tar.gz)"),
    ),
    "asvspoof2021-df": CorpusName(
        "ASVspoof 2021 DF",
        _KEYS_2021.format("DF", "https://zenodo.org/records/4835108 (ASVspoof2021_DF_eval_part*.tar.gz)"),
    ),
    "asvspoof5": CorpusName(
        "ASVspoof 5",
        "https://zenodo.org/records/14498691 (ASVspoof5_protocols.tar.gz, flac_{T,D,E}_*.tar)",
        hub_id="jungjee/asvspoof5",
    ),
    "in-the-wild": CorpusName(
        "In-the-Wild", "https://deepfake-total.com/in_the_wild (release_in_the_wild.zip)"
    ),
}


def find_corpus(title: str) -> CorpusName | None:
    """The corpus that results call so, if it is one of those with a name."""
    return next((corpus for corpus in CORPORA.values() if corpus.title == title), None)


def shorten_name(corpus: str) -> str:
    """What stands before the names of a corpus's utterances where it is one of several: the name that
    --dataset takes, or the last one of a path."""
    names = (name for name, known in CORPORA.items() if known.title == corpus)
    return next(names, PurePath(corpus).name or corpus)


def find_official_trials(title: str, split: str) -> int | None:
    """Trials of the official protocol's split, of which `split` may be a slice; `None` where not known."""
    corpus = find_corpus(title)
    return corpus.num_trials.get(split.split("[")[0]) if corpus else None


def is_demo(corpus: str | None) -> bool:
    """Whether results that name this corpus are of the demo corpus, and mean nothing about real speech."""
    return corpus == DEMO


def describe_corpus(corpus: str) -> str:
    """A corpus's name in print: the demo corpus never stands there like a real one."""
    return "Demo corpus (synthetic, no speech)" if is_demo(corpus) else corpus
