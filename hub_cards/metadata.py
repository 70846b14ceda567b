"""The YAML header of a card: what the Hub's search and its table of results read."""

import re
from functools import cache

from huggingface_hub import EvalResult, ModelCardData

from processing.corpus_names import DEMO

from .recipe import Recipe, find_recipe, load_recipe, systems
from .run_folder import Evaluation, RunFolder
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
OF_TRAINING = {"class_weights"}  # settings of the model that its scores do not depend on
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
    """The checkpoint that the weights, or those that training went on from, were converted from, however many
    trainings ago."""
    return run.conversion or (_first_start(run) or {}).get("converted_from")


def _first_start(run: RunFolder) -> dict | None:
    """What is recorded of the model that a row of trainings, each on the weights of the one before, began
    with; `None` where training began with new weights."""
    start = (run.training or {}).get("started_from")
    while start and "started_from" in start:
        start = start["started_from"]
    return start


def is_of_published_weights(run: RunFolder) -> bool:
    """Whether that checkpoint is, by its checksum, the very file that the authors of the system publish."""
    published = run.recipe and run.recipe.card.get("checkpoint_sha256")
    return bool(published) and (converted_from(run) or {}).get("sha256") == published


@cache
def _published() -> dict[str, Recipe]:
    """Systems whose authors publish weights, by the SHA-256 of the file."""
    recipes = [load_recipe(find_recipe(name)[0]) for name in systems()]
    return {r.card["checkpoint_sha256"]: r for r in recipes if "checkpoint_sha256" in r.card}


def changed_settings(run: RunFolder) -> list[str]:
    """Names of the settings that differ from those of the system whose weights were converted."""
    recipe = _published().get((converted_from(run) or {}).get("sha256"))
    if recipe is None:
        return []
    theirs = {**recipe.model, **recipe.feature_extractor}
    ours = {**run.recipe.model, **run.recipe.feature_extractor}
    names = sorted((theirs.keys() | ours.keys()) - OF_TRAINING)
    return [name for name in names if ours.get(name) != theirs.get(name)]


def has_published_weights(run: RunFolder) -> bool:
    """Whether this is, converted, the model whose weights the authors of the system publish."""
    return bool(run.conversion) and is_of_published_weights(run) and not changed_settings(run)


def stated_license(run: RunFolder) -> str | None:
    """The licence that the recipe states; none of weights that may go back to somebody else's."""
    if run.recipe is None:
        return None
    start = _first_start(run)
    if converted_from(run):
        is_known = is_of_published_weights(run)
    else:
        is_known = start is None or "trained_on" in start
    return run.recipe.card.get("license") if is_known else None


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
    return training_corpus(run) == DEMO


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
