"""Numbers and tables of cards in Markdown: every number is formatted here, and none is shown without what it
is of."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from processing.corpus_names import DEMO

from .run_folder import Evaluation


NOT_MEASURED = "not measured"
# Metrics of `results.json` by the names that eval.py prints.
METRICS = {
    "eer": "EER",
    "min_tdcf_2019": "min t-DCF (2019 form)",
    "min_tdcf_2021": "min t-DCF (2021 form)",
    "min_dcf": "minDCF (ASVspoof 5)",
    "act_dcf": "actDCF (ASVspoof 5)",
    "cllr": "Cllr (ASVspoof 5, bits)",
}
FEW_TRIALS = 1000  # of a class, below which a third decimal of a per cent is noise


@dataclass(frozen=True)
class KnownCorpus:
    """
    A corpus that systems and results name.

    Attributes:
        name: in `results.json`.
        hub_name: in a card's metadata.
        config: the part of it, where one name of the Hub has several.
    """

    name: str
    hub_name: str
    config: str | None = None


# By the name that --dataset takes and recipes have.
CORPORA = {
    "asvspoof2019-la": KnownCorpus("ASVspoof 2019 LA", "asvspoof2019", "LA"),
    "asvspoof2021-la": KnownCorpus("ASVspoof 2021 LA", "asvspoof2021", "LA"),
    "asvspoof2021-df": KnownCorpus("ASVspoof 2021 DF", "asvspoof2021", "DF"),
    "asvspoof5": KnownCorpus("ASVspoof 5", "asvspoof5"),
    "in-the-wild": KnownCorpus("In-the-Wild", "in-the-wild"),
}
# Trials of the official protocols of ASVspoof 2019 LA (bona fide and spoof): 2,580 + 22,800, 2,548 + 22,296,
# 7,355 + 63,882.
OFFICIAL_TRIALS = {CORPORA["asvspoof2019-la"].name: {"train": 25_380, "dev": 24_844, "eval": 71_237}}
IN_THE_WILD = CORPORA["in-the-wild"].name


def corpus_name(name: str) -> str:
    """How results call the corpus that a recipe names."""
    return CORPORA[name].name if name in CORPORA else name


def known_corpus(name: str) -> KnownCorpus | None:
    """The corpus that results call so, if it is one of those with a name."""
    return next((corpus for corpus in CORPORA.values() if corpus.name == name), None)


def official_trials(corpus: str, split: str) -> int | None:
    """Trials of the official protocol's split, of which `split` may be a slice; `None` where not known."""
    return OFFICIAL_TRIALS.get(corpus, {}).get(split.split("[")[0])


def display_name(corpus: str) -> str:
    """A corpus's name in a card: the demo corpus never stands there like a real one."""
    return "Demo corpus (synthetic, no speech)" if corpus == DEMO else corpus


def number(value: float) -> str:
    """A number of a config: 64,000, 0.3, 7,876.92, 1e-5."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.2f}"
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.6g}")


def per_cent(value: float, trials: int | None = None) -> str:
    """
    A rate as per cent.

    Args:
        value: a fraction.
        trials: of the smaller class, which say how many decimals mean something.
    """
    decimals = 2 if trials is not None and trials < FEW_TRIALS else 3
    return f"{100 * value:.{decimals}f} %"


def as_stated(value: float) -> str:
    """A rate that a source states, as per cent with its own digits."""
    return f"{100 * value:.4g} %"


def metric(results: Mapping, name: str) -> str:
    """A metric of results with its interval, or that it was not measured."""
    if results.get(name) is None:
        return NOT_MEASURED
    bounds = results.get("confidence_intervals", {}).get(name)
    return _with_interval(name, results[name], bounds, _smaller_class(results))


def size(num_bytes: int) -> str:
    """A file's size in bytes and decimal megabytes."""
    return f"{num_bytes:,} bytes ({num_bytes / 1e6:,.1f} MB)"


def gibibytes(num_bytes: int) -> str:
    """An amount of memory."""
    return f"{num_bytes / 2**30:.1f} GiB"


def duration(seconds: float) -> str:
    """Seconds, and hours and minutes where there are some."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:g} s"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{whole:,} s ({f'{hours} h ' if hours else ''}{minutes} min)"


def code(text: str) -> str:
    """A name from elsewhere as code in Markdown, whatever is in it."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    A Markdown table.

    Raises:
        ValueError: an empty cell: what is not known must be said.
    """
    lines = [list(header), ["---"] * len(header)]
    for row in rows:
        cells = [str(cell).replace("|", "\\|").replace("\n", " ").strip() for cell in row]
        if len(cells) != len(header) or not all(cells):
            raise ValueError(f"A row of the table {' | '.join(header)} has an empty cell: {cells}.")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {' '.join(str(line).split())}" for line in lines)


def results_table(trials: Iterable[tuple[str, str, Evaluation | None]]) -> str:
    """The main metrics of evaluations: each a corpus, a split, and what was measured of it, if anything."""
    names = ("eer", "min_tdcf_2019", "min_tdcf_2021")
    rows = []
    for corpus, split, evaluation in trials:
        results = evaluation.results if evaluation else {}
        counts = [f"{results[name]:,}" if results else "–" for name in ("num_bonafide", "num_spoof")]
        rows.append([display_name(corpus), split, *(metric(results, name) for name in names), *counts])
    header = ["Corpus", "Split", *(METRICS[name] for name in names), "Bona fide trials", "Spoof trials"]
    return table(header, rows)


def further_metrics_table(evaluations: Iterable[Evaluation]) -> str:
    """The metrics of ASVspoof 5 track 1 of each evaluation."""
    names = ("min_dcf", "act_dcf", "cllr")
    rows = [
        [display_name(e.trials[0]), e.trials[1], *(metric(e.results, name) for name in names)]
        for e in evaluations
        if any(e.results.get(name) is not None for name in names)
    ]
    if not rows:
        return f"{', '.join(METRICS[name] for name in names)}: {NOT_MEASURED}."
    return table(["Corpus", "Split", *(METRICS[name] for name in names)], rows)


def breakdowns(evaluation: Evaluation) -> dict[str, str]:
    """Tables of the EER by attack, codec … of an evaluation, by what they go by."""
    found = {}
    for key, groups in evaluation.results.items():
        name = key.removeprefix("per_").replace("_", " ")
        if not key.startswith("per_") or not groups or set(groups) <= {"-", "unknown"}:
            continue
        rows = [[group, *_group(values)] for group, values in groups.items()]
        found[name] = table([name.capitalize(), "EER", "Bona fide trials", "Spoof trials"], rows)
    return found


def reported_table(reported: Mapping) -> str | None:
    """
    What a source reports for its own weights, or `None` where that is no result.

    Args:
        reported: of a recipe: by corpus and split `eer` and a t-DCF by its form, beside other entries.
    """
    rows = []
    for corpus, splits in reported.items():
        if not isinstance(splits, Mapping):
            continue
        for split, values in splits.items():
            eer = as_stated(values["eer"]) if "eer" in values else "not reported"
            rows.append([corpus_name(corpus), split, eer, _reported_tdcf(values)])
    return table(["Corpus", "Split", "EER", "min t-DCF"], rows) if rows else None


def _reported_tdcf(values: Mapping) -> str:
    forms = {name.removeprefix("min_tdcf_"): v for name, v in values.items() if name.startswith("min_tdcf_")}
    texts = [
        f"{value:g} ({'form unstated' if form == 'form_unstated' else f'{form} form'})"
        for form, value in forms.items()
    ]
    return ", ".join(texts) or "not reported"


def _group(values: Mapping) -> list[str]:
    eer = "one class only"
    if values.get("eer") is not None:
        eer = _with_interval("eer", values["eer"], values.get("eer_interval"), _smaller_class(values))
    return [eer, f"{values['num_bonafide']:,}", f"{values['num_spoof']:,}"]


def _with_interval(name: str, value: float, bounds: Sequence[float] | None, trials: int) -> str:
    def text(number: float) -> str:
        return per_cent(number, trials) if name == "eer" else f"{number:.4f}"

    if bounds is None:
        return text(value)
    return f"{text(value)} [{', '.join(text(bound).removesuffix(' %') for bound in bounds)}]"


def _smaller_class(counts: Mapping) -> int:
    return min(counts["num_bonafide"], counts["num_spoof"])
