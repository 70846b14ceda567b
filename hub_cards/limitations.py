"""What a model's own record says against it: notes on its numbers, and limitations."""

from processing.corpus_names import DEMO

from .architecture import input_seconds
from .metadata import has_published_weights, is_demo, threshold_trials, training_corpus
from .run_folder import RunFolder
from .tables import CORPORA, IN_THE_WILD, number, official_trials


# Whose dev split has the attacks of its train split.
SHARES_ATTACKS = {CORPORA["asvspoof2019-la"].name, DEMO}


def notes_on(run: RunFolder) -> list[str]:
    """Notes on the numbers of a run, whatever its system."""
    notes = []
    corpus = training_corpus(run)
    dev = (run.training or {}).get("splits", {}).get("dev", "dev")
    if corpus is not None and run.evaluation(corpus, dev):
        what = "The model and its threshold were" if run.chosen_step is not None else "The threshold was"
        if run.training is None:
            what = "Dev was at hand when the model was developed, and it may have been"
        text = f"{what} chosen on dev, so its dev numbers flatter it."
        if corpus in SHARES_ATTACKS:
            shared = "Dev has the attacks of train, so a dev EER near zero says little about other attacks."
            text = f"{shared} {text}"
        notes.append(text)
    for evaluation in run.evaluations:
        name, split = evaluation.trials
        official, measured = official_trials(name, split), evaluation.results["num_trials"]
        if official is not None and measured != official:
            notes.append(
                f"{name} {split}: {number(measured)} of the {number(official)} trials of the official "
                "protocol were scored. The numbers are not comparable with published ones."
            )
    return notes


def own_limitations(run: RunFolder) -> list[str]:
    """What limits a model, as far as its own files tell."""
    limits = []
    corpus = training_corpus(run)
    if is_demo(run):
        limits.append("Trained on synthetic sounds without any human voice: useless for real recordings.")
    elif run.training is None and corpus is not None:
        stated = run.recipe.card.get("corpus", corpus)
        where = f"Trained by its authors, not here ({stated})"
        if not has_published_weights(run):
            where = f"Not trained here: the system is trained on {corpus}, these weights perhaps on another"
        limits.append(f"{where}: other attacks, codecs, languages and microphones may be judged wrongly.")
    elif corpus is not None:
        counts = run.training.get("counts", {}).get("train")
        total = sum(counts.values()) if counts else None
        official = official_trials(corpus, "train")
        part = f" ({number(total)} utterances)" if total else ""
        if total and official and total != official:
            part = f", and on {number(total)} of the {number(official)} utterances of its train split"
        how = f"Trained on {corpus} only{part}, without data augmentation"
        if run.training.get("started_from"):
            how = f"Trained further on {corpus}{part}, after what the weights it started from were trained on"
        limits.append(f"{how}: other attacks, codecs, languages and microphones may be judged wrongly.")
    limits += _not_measured(run, corpus)
    if run.config.get("decision_threshold") is not None:
        trials = threshold_trials(run)
        where = "the recordings that it was set on"
        if trials is not None:
            where = f"the {trials[1]} split of {_in_words(trials[0]) or 'its own corpus'}"
        limits.append(
            f"The decision threshold is that of {where}; on recordings of another kind it can be far off."
        )
    if seconds := input_seconds(run.config, run.feature_extractor):
        limits.append(f"It hears the first {seconds:g} s of a recording only.")
    return limits


def _in_words(corpus: str | None) -> str | None:
    return "the demo corpus" if corpus == DEMO else corpus


def _not_measured(run: RunFolder, corpus: str | None) -> list[str]:
    limits = []
    eval_split = (run.training or {}).get("splits", {}).get("eval", "eval")
    evaluation = corpus and run.evaluation(corpus, eval_split)
    if corpus and not evaluation:
        limits.append(f"Not evaluated on the eval split of {_in_words(corpus)}: not measured.")
    elif evaluation:
        results = evaluation.results
        limits.append(
            f"Evaluated on {number(results['num_bonafide'])} bona fide and {number(results['num_spoof'])} "
            f"spoofed trials of the eval split of {_in_words(corpus)}."
        )
    if not run.evaluation(IN_THE_WILD, "eval"):
        limits.append("Its error on recordings from the wild (In-the-Wild) was not measured.")
    return limits
