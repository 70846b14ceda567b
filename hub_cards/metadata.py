"""The YAML header of a card: what the Hub's search and its table of results read."""

import re

from huggingface_hub import EvalResult, ModelCardData

from .run_folder import DEMO_CORPUS, Evaluation, RunFolder
from .tables import METRICS, corpus_name, display_name, known_corpus, number, official_trials


TAGS = ["audio-classification", "anti-spoofing", "asvspoof", "deepfake-detection"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Types of metrics in the header by their name in results.json.
METRIC_TYPES = {
    "eer": "eer",
    "min_tdcf_2019": "t-dcf",
    "min_tdcf_2021": "t-dcf",
    "min_dcf": "min-dcf",
    "act_dcf": "act-dcf",
    "cllr": "cllr",
}
MEASURED_FIRST = ("eer", "t-dcf")  # those that the header's `metrics` names


def training_corpus(run: RunFolder) -> str | None:
    """The corpus that the model was trained on, as results call it; of converted weights, what their source
    states. `None` where that is not recorded."""
    if run.training is None:
        return corpus_name(run.recipe.corpus) if run.conversion and run.recipe else None
    if corpus := run.training.get("corpus"):
        return corpus
    # Records of older runs lack it, but train.py evaluated them on the same corpus.
    dev = next((e for e in run.evaluations if e.folder.name == "dev"), None)
    if dev:
        return dev.trials[0]
    return corpus_name(run.recipe.corpus) if run.recipe else None


def converted_from(run: RunFolder) -> dict | None:
    """The checkpoint that the weights, or those that training went on from, were converted from."""
    return run.conversion or (run.training or {}).get("started_from", {}).get("converted_from")


def is_of_published_weights(run: RunFolder) -> bool:
    """Whether that checkpoint is, by its checksum, the very file that the authors of the system publish."""
    published = run.recipe and run.recipe.card.get("checkpoint_sha256")
    return bool(published) and (converted_from(run) or {}).get("sha256") == published


def has_published_weights(run: RunFolder) -> bool:
    """Whether these are, converted, the weights that the authors of the system publish."""
    return bool(run.conversion) and is_of_published_weights(run)


def stated_license(run: RunFolder) -> str | None:
    """The licence that the recipe states; none of converted weights that may be somebody else's."""
    if run.recipe is None or (converted_from(run) and not is_of_published_weights(run)):
        return None
    return run.recipe.card.get("license")


def threshold_trials(run: RunFolder) -> tuple[str, str] | None:
    """Corpus and split whose EER threshold is the decision threshold, as far as the folder tells."""
    threshold = run.config.get("decision_threshold")
    dev = (training_corpus(run), (run.training or {}).get("splits", {}).get("dev", "dev"))
    thresholds = {
        evaluation.trials: evaluation.results.get("eer_threshold") for evaluation in run.evaluations
    }
    if run.training is not None and thresholds.get(dev) in (None, threshold):  # train.py sets it so
        return dev
    return next((trials for trials, found in thresholds.items() if found == threshold), None)


def is_demo(run: RunFolder) -> bool:
    """Whether the model was trained on the demo corpus."""
    return training_corpus(run) == DEMO_CORPUS


def base_model(run: RunFolder) -> str | None:
    """The name of the base model that training started from, where it had one."""
    return ((run.training or {}).get("base_model") or {}).get("name")


def card_data(run: RunFolder, model_name: str) -> ModelCardData:
    """The header of a run's card. Metrics are those that were measured; what a source reports is not among
    them."""
    corpus, base = training_corpus(run), base_model(run)
    whole = [evaluation for evaluation in run.evaluations if "[" not in evaluation.trials[1]]  # no slices
    results = [result for evaluation in whole for result in _eval_results(evaluation)]
    measured = {result.metric_type for result in results}
    return ModelCardData(
        license=stated_license(run),
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=TAGS,
        datasets=None if run.conversion and not has_published_weights(run) else _datasets(corpus),
        metrics=[name for name in MEASURED_FIRST if name in measured] or None,
        base_model=base if base and HUB_ID.fullmatch(base) else None,
        model_name=model_name,
        eval_results=results or None,
    )


def _datasets(corpus: str | None) -> list[str] | None:
    """Names on the Hub: of a corpus that is known, or an id; not of the demo corpus or a local folder."""
    if corpus is None:
        return None
    if known := known_corpus(corpus):
        return [known.hub_name]
    return [corpus] if HUB_ID.fullmatch(corpus) else None


def _eval_results(evaluation: Evaluation) -> list[EvalResult]:
    results = evaluation.results
    corpus, split = evaluation.trials
    known, official = known_corpus(corpus), official_trials(corpus, split)
    name = display_name(corpus)
    if official not in (None, results["num_trials"]):
        name += f" ({number(results['num_trials'])} of {number(official)} trials)"
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Speech anti-spoofing",
            dataset_type=known.hub_name if known else corpus,
            dataset_name=name,
            dataset_config=known.config if known else None,
            dataset_split=split,
            dataset_args={key: results[key] for key in ("num_trials", "num_bonafide", "num_spoof")},
            metric_type=METRIC_TYPES[metric],
            # Per cent, which leaderboards expect of an error rate.
            metric_value=round(100 * results[metric] if metric == "eer" else results[metric], 6),
            metric_name=f"{title} (%)" if metric == "eer" else title,
        )
        for metric, title in METRICS.items()
        if results.get(metric) is not None
    ]
