"""The YAML header of a card: what the Hub's search and its table of results read."""

import re

from huggingface_hub import EvalResult, ModelCardData

from metrics.names import METRICS
from processing.corpus_names import CORPORA, describe_corpus, find_corpus

from .run_folder import Evaluation, RunFolder
from .tables import format_any


TAGS = ["audio-classification", "anti-spoofing", "asvspoof", "deepfake-detection"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
MEASURED_FIRST = ("eer", "t-dcf")  # those that the header's `metrics` names


def make_header(run: RunFolder, model_name: str) -> ModelCardData:
    """The header of a run's card. Metrics are those that were measured; what a source reports is not among
    them."""
    whole = [found for found in run.evaluations if "[" not in found.results["split"]]  # no slices
    results = [result for evaluation in whole for result in _make_eval_results(evaluation)]
    measured = {result.metric_type for result in results}
    corpora = () if run.conversion and not run.is_published_model else run.corpora
    trained_on = [hub_id for corpus in corpora if (hub_id := _find_hub_id(corpus))]
    return ModelCardData(
        license=run.license,
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=TAGS,
        datasets=trained_on or None,
        metrics=[name for name in MEASURED_FIRST if name in measured] or None,
        base_model=run.base_model if run.base_model and HUB_ID.fullmatch(run.base_model) else None,
        model_name=model_name,
        eval_results=results or None,
    )


def _find_hub_id(corpus: str | None) -> str | None:
    """The corpus's id on the Hub; `None` of the demo corpus, a local folder, or one that is not there."""
    if corpus is None:
        return None
    if known := find_corpus(corpus):
        return known.hub_id
    return corpus if HUB_ID.fullmatch(corpus) else None


def _find_dataset_type(corpus: str) -> str:
    """What the Hub groups results by: an id there, or the name that --dataset takes."""
    names = (name for name, known in CORPORA.items() if known.title == corpus)
    return _find_hub_id(corpus) or next(names, corpus)


def _make_eval_results(evaluation: Evaluation) -> list[EvalResult]:
    results = evaluation.results
    corpus, split = evaluation.trials
    name = describe_corpus(corpus)
    if official := evaluation.num_official:  # a part of a corpus is not called the corpus
        name += f" ({format_any(results['num_trials'])} of {format_any(official)} trials)"
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Speech anti-spoofing",
            dataset_type=_find_dataset_type(corpus),
            dataset_name=name,
            dataset_split=split,
            dataset_args={key: results[key] for key in ("num_trials", "num_bonafide", "num_spoof")},
            metric_type=metric.hub_type,
            # Per cent, which leaderboards expect of an error rate.
            metric_value=round(results[key] * (100 if metric.is_rate else 1), 6),
            metric_name=f"{metric.title} (%)" if metric.is_rate else metric.title,
        )
        for key, metric in METRICS.items()
        if results.get(key) is not None
    ]
