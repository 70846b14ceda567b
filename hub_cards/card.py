"""The model card of a run, made from what lies in its folder and nothing else: python -m hub_cards.card RUN
[--repo_id ORG/NAME]."""

import argparse
import re
import sys
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from processing.files import write_text
from processing.report import describe_caveats

from .architecture import architecture_rows, input_rows, input_seconds
from .checks import check_card
from .citations import find_citations
from .learning_curves import FOLDER as CURVES
from .learning_curves import add_learning_curves
from .limitations import notes_on, own_limitations
from .metadata import (
    base_model,
    card_data,
    has_published_weights,
    is_demo,
    is_of_published_weights,
    stated_license,
    threshold_trials,
    training_corpus,
)
from .provenance import provenance, sources, why_not_trained
from .run_folder import Evaluation, RunFolder, read_run
from .tables import (
    IN_THE_WILD,
    NOT_MEASURED,
    breakdowns,
    bullets,
    display_name,
    further_metrics_table,
    number,
    reported_table,
    results_table,
    size,
    table,
)
from .training_table import (
    data_rows,
    inferred_rows,
    is_gmm,
    log_likelihoods,
    machine_rows,
    training_rows,
)


TEMPLATE = Path(__file__).with_name("card_template.md")
CARD_NAME = "README.md"
# Pictures of an evaluation and what they show; others are there by their names.
PICTURES = {"det": "DET plot", "scores": "Score histogram"}


def render_card(run: RunFolder, repo_id: str | None = None, revision: str | None = None) -> ModelCard:
    """
    The card of a model.

    Args:
        run: its folder, as read.
        repo_id: where on the Hub it goes, for title and usage; without it, the folder's name stands there.
        revision: branch there; `None` is the main one.

    Raises:
        ValueError: no valid repo_id, a config that lacks a field, a reference that is not known, or a card
            that is not fit to be published; see [`~hub_cards.checks.check_card`].
    """
    if repo_id is not None:
        validate_repo_id(repo_id)
    folder = run.folder.resolve()
    model_id = repo_id or folder.name
    title = repo_id.split("/")[-1] if repo_id else run.system
    data = card_data(run, title)
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        demo=is_demo(run),
        model_id=model_id,
        revision=f', revision="{revision}"' if revision else "",
        threshold=run.config.get("decision_threshold"),
        **_about(run),
        **_training(run),
        **_results(run),
        **_stated(run),
    )
    card = ModelCard(re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n")
    if card.data.to_dict() != data.to_dict():
        raise ValueError(f"The header of the card reads back as {card.data.to_dict()}, not {data.to_dict()}.")
    if str(folder) in str(card):
        raise ValueError(f"The card would name the folder of this machine, {folder}.")
    files = {path.relative_to(run.folder).as_posix() for path in _pictures_and_results(run)}
    check_card(card, files)
    return card


def _about(run: RunFolder) -> dict:
    """What the model is, where it comes from, what it takes and gives."""
    recipe, base = run.recipe, base_model(run)
    components = architecture_rows(run.config)
    if base:
        components.insert(
            0, ("Base model", "none: random initial weights" if base == "none" else f"`{base}`")
        )
    components += [*input_rows(run.config, run.feature_extractor), *_size_rows(run)]
    labels = ", ".join(f"{index} `{label}`" for index, label in sorted(run.config["id2label"].items()))
    output = [
        ("Label order (of the logits)", labels),
        ("Score", "logit of bona fide minus logit of spoof: higher is more bona fide"),
        ("Decision threshold", _threshold(run)),
    ]
    return {
        "description": recipe.description if recipe else f"A {run.config.get('model_type')} countermeasure.",
        "version": f"`{run.system}`",
        "license": _license(run),
        "license_notice": _license_notice(run),
        "provenance": provenance(run),
        "sources": bullets(sources(run)),
        "architecture": table(["Component", "Value"], components),
        "output": table(["Output", "Value"], output),
    }


def _license(run: RunFolder) -> str:
    stated = run.recipe and run.recipe.card.get("license")
    if stated and not stated_license(run):
        return f"not known; the authors of the system publish theirs under {stated}"
    return stated or "not stated by the source of this system"


def _license_notice(run: RunFolder) -> str | None:
    """The notice that the licence of published weights asks for, also where training went on from them."""
    return run.recipe.card.get("license_notice") if is_of_published_weights(run) else None


def _size_rows(run: RunFolder) -> list[tuple[str, str]]:
    trained = (run.training or {}).get("num_trainable_parameters")
    if run.num_parameters is None:
        parameters = f"{number(run.num_values)} numbers in the weights, fixed buffers included"
    else:
        parameters = f"{number(run.num_parameters)}"
        if trained and trained != run.num_parameters:
            parameters += f", {number(trained)} of them trained"
    dtype = f", {run.config['dtype']}" if run.config.get("dtype") else ""
    return [("Parameters", parameters), ("Checkpoint size", f"{size(run.num_bytes)}{dtype}")]


def _threshold(run: RunFolder) -> str:
    threshold = run.config.get("decision_threshold")
    if threshold is None:
        return "not measured: the config states none"
    text = f"{threshold:.4f} (`config.decision_threshold`); above it, a recording is called bona fide"
    trials = threshold_trials(run)
    if trials is None:
        return f"{text}. It is what the config states."
    corpus, split = trials
    corpus, evaluation = display_name(corpus or "corpus not recorded"), run.evaluation(corpus, split)
    count = f" ({number(evaluation.results['num_trials'])} trials)" if evaluation else ""
    return f"{text}. It is the EER threshold on {corpus}, split `{split}`{count}, of {scored_part(run)}."


def scored_part(run: RunFolder) -> str:
    """What of each recording the score is of."""
    seconds = input_seconds(run.config, run.feature_extractor)
    return "whole recordings" if seconds is None else f"the first {seconds:g} s of each recording"


def _training(run: RunFolder) -> dict:
    """How it was trained; nothing where that is not recorded."""
    rows = inferred_rows(run)
    about = {
        "learning_curves": _learning_curves(run),
        "inferred": table(["Value", "Why"], rows) if rows else None,
    }
    if run.training is None:
        return {**about, "not_trained": why_not_trained(run)}
    corpus = training_corpus(run)
    return {
        **about,
        "training": table(["Hyperparameter", "Value"], training_rows(run)),
        "data_note": f"Data: {display_name(corpus or 'corpus not recorded')}. No data augmentation.",
        "data": table(["Used as", "Split", "Bona fide", "Spoof", "Audio missing"], data_rows(run)),
        "machine": table(["Machine", "Value"], machine_rows(run)),
    }


def _learning_curves(run: RunFolder) -> str:
    own = run.folder / CURVES / f"{run.system}.png"
    pictures = sorted(run.folder.glob(f"{CURVES}/*.png"), key=lambda path: (path != own, path.name))
    if pictures:
        return "\n\n".join(
            _picture(run, path, f"Learning curves: {path.stem.replace('_', ' ')}") for path in pictures
        )
    if run.conversion:
        return "None: the weights were converted from a checkpoint, which holds no log of its training."
    if run.trainer_state is None:
        return "Not measured: this model was not trained here."
    if is_gmm(run):
        histories = log_likelihoods(run)
        if not histories:
            return "Not measured."
        iterations = range(max(map(len, histories.values())))
        rows = [
            [str(i + 1), *(f"{h[i]:.4f}" if i < len(h) else "–" for h in histories.values())]
            for i in iterations
        ]
        header = ["Iteration", *(f"Log-likelihood per frame, {label}" for label in histories)]
        return f"{table(header, rows)}\n\nDev EER by iteration: not measured."
    return "Not measured: no curves were drawn of this run."


def _results(run: RunFolder) -> dict:
    """What was measured of it, and what was not."""
    trials = _trials(run)
    measured = [evaluation for *_, evaluation in trials if evaluation]
    methods = {}
    for evaluation in measured:
        if found := evaluation.results.get("confidence_intervals"):
            methods.setdefault(f"{100 * found['level']:g} % intervals: {found['method']}", []).append(
                _title(evaluation)
            )
    note = f"Measured with these weights on {scored_part(run)}." if measured else "Not measured."
    if methods:
        note += " In brackets, confidence intervals."
    notes = [f"{method} ({', '.join(of)})." for method, of in methods.items()]
    if without := [_title(e) for e in measured if not e.results.get("confidence_intervals")]:
        notes.append(f"No intervals: a class has too few trials ({'; '.join(without)}).")
    if any(_has_no_error(evaluation) for evaluation in measured):
        notes.append(
            "Where no trial is an error, the bootstrap's interval is [0, 0] as well: that does not mean that "
            "errors are impossible."
        )
    return {
        "results_note": note,
        "results": results_table(trials),
        "further_results": further_metrics_table(measured) if measured else "",
        "result_notes": bullets(notes),
        "evaluations": [_evaluation(run, evaluation) for evaluation in measured],
    }


def _has_no_error(evaluation: Evaluation) -> bool:
    """Whether a group of trials has an EER of 0 with an interval; of all, `describe_caveats` says it."""
    results = evaluation.results
    groups = [group for name, value in results.items() if name.startswith("per_") for group in value.values()]
    return any(group.get("eer") == 0 and group.get("eer_interval") for group in groups)


def _trials(run: RunFolder) -> list[tuple[str, str, Evaluation | None]]:
    """Dev and eval of the corpus of the training, In-the-Wild, and every other corpus that was evaluated."""
    corpus = training_corpus(run)
    wanted = []
    if corpus is not None:
        splits = (run.training or {}).get("splits", {})
        wanted = [(corpus, splits.get(role, role)) for role in ("dev", "eval")]
    wanted.append((IN_THE_WILD, "eval"))
    wanted += [evaluation.trials for evaluation in run.evaluations if evaluation.trials not in wanted]
    return [(corpus, split, run.evaluation(corpus, split)) for corpus, split in wanted]


def _evaluation(run: RunFolder, evaluation: Evaluation) -> dict:
    results = evaluation.results
    about = [
        f"{number(results['num_bonafide'])} bona fide and {number(results['num_spoof'])} spoofed trials"
        + (f", {number(results['num_missing'])} without audio left out" if results.get("num_missing") else "")
        + "."
    ]
    links = [(name, evaluation.folder / name) for name in ("results.json", "scores.txt")]
    links = [f"[{name}]({_link(run, path)})" for name, path in links if path.is_file()]
    about.append(f"All numbers and scores: {', '.join(links)}.")
    pictures = [
        _picture(run, path, f"{PICTURES.get(path.stem, _words(path.stem))}, {_title(evaluation)}")
        for path in sorted(evaluation.plots, key=lambda path: (path.stem not in PICTURES, path.name))
    ]
    missing = [text for stem, text in PICTURES.items() if not (evaluation.folder / f"{stem}.png").is_file()]
    if missing:
        pictures.append(f"Not drawn: {', '.join(missing)}.")
    return {
        "title": _title(evaluation),
        "about": " ".join([*about, *_problems(results)]),
        "pictures": "\n\n".join(pictures),
        "breakdowns": breakdowns(evaluation),
    }


def _problems(results: dict) -> list[str]:
    """What must be known of results, as eval.py says it."""
    older = {"constant_scores": False, "looks_inverted": False, "num_tied_across_classes": 0}
    problems = describe_caveats({**older, **results})
    if results.get("min_tdcf_2019") is None and "tdcf_left_out" not in results:
        problems.append(f"The t-DCF was {NOT_MEASURED}.")
    return problems


def _stated(run: RunFolder) -> dict:
    """What the recipe's source states, labelled as such, notes, limitations and citations."""
    card = run.recipe.card if run.recipe else {}
    reported = run.recipe.reported if run.recipe else {}
    reported_rows = reported_table(reported)
    entries = {
        "Source": reported.get("source"),
        "Epochs until it stopped": reported.get("epochs"),
        "Parameters": reported.get("parameters"),
        "Checkpoint size": reported.get("checkpoint_size"),
        "Training data": card.get("corpus"),
        "Baseline to beat": card.get("baseline"),
    }
    bibtex, references = find_citations(card.get("references", []))
    stated_by = "What the study states of its own weights (its numbers are not this model's)"
    if has_published_weights(run):
        stated_by = "What their source states of these weights"
    return {
        "stated_by": stated_by,
        "reported": reported_rows,
        "reported_by": reported.get("by", "the study for its own weights"),
        "reported_notes": bullets(f"{name}: {value}" for name, value in entries.items() if value),
        "notes": bullets([*notes_on(run), *card.get("notes", [])]),
        "limitations": bullets(own_limitations(run)),
        "stated_limitations": bullets(card.get("limitations", [])),
        "bibtex": "\n\n".join(bibtex),
        "references": bullets(references) if bibtex or references else "None is stated.",
    }


def _pictures_and_results(run: RunFolder) -> list[Path]:
    """Files that a card may link to."""
    found = [*run.folder.glob(f"{CURVES}/*.png")]
    for evaluation in run.evaluations:
        found += [*evaluation.plots, evaluation.folder / "results.json", evaluation.folder / "scores.txt"]
    return [path for path in found if path.is_file()]


def _picture(run: RunFolder, path: Path, text: str) -> str:
    return f"![{text}]({_link(run, path)})"


def _link(run: RunFolder, path: Path) -> str:
    return quote(path.relative_to(run.folder).as_posix())


def _title(evaluation: Evaluation) -> str:
    corpus, split = evaluation.trials
    return f"{display_name(corpus)}, {split}"


def _words(stem: str) -> str:
    return stem.replace("_", " ").capitalize()


def write_card(run: RunFolder, repo_id: str | None = None) -> Path:
    """
    Render the card and write it into the run's folder, whole or not at all.

    Raises:
        ValueError: see [`render_card`].
    """
    path = run.folder / CARD_NAME
    write_text(path, str(render_card(run, repo_id)))
    return path


def write_trained_card(folder: Path) -> None:
    """Write the learning curves and the card of a run that has just been trained. What prevents them is said
    and not raised: the run is complete without."""
    try:
        run = read_run(folder)
        add_learning_curves(run)
        write_card(run)
    except (OSError, ValueError) as error:
        print(f"There is no card yet: {error}\nWhen that is mended: python -m hub_cards.card {folder}")


def main(argv: list[str] | None = None) -> None:
    """Write the card of the run that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m hub_cards.card", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a trained or converted model")
    parser.add_argument("--repo_id", help="where on the Hub it goes: ORG/NAME")
    arguments = parser.parse_args(argv)
    try:
        print(write_card(read_run(arguments.run), arguments.repo_id))
    except (ValueError, OSError) as error:
        sys.exit(f"python -m hub_cards.card: error: {error}")


if __name__ == "__main__":
    main()
