"""The model card of a run, made from what lies in its folder and nothing else: python -m hub_cards.card RUN
[--repo_id ORG/NAME]. Its prose is in card_template.md and what that includes; the numbers come from here."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from processing.files import write_text

from .checks import find_leaks
from .citations import find_citations
from .learning_curves import add_learning_curves
from .metadata import make_header
from .run_folder import RunFolder, read_run
from .tables import IN_THE_WILD
from .templates import render_template


CARD_NAME = "README.md"


def render_card(run: RunFolder, repo_id: str | None = None, revision: str | None = None) -> ModelCard:
    """
    The card of a model. `repo_id` and `revision` are where on the Hub it goes, for title and usage; without
    them, the folder's name stands there. ValueError: no valid repo_id, a config that lacks a field, a
    reference that is not known, a path of this machine, or a token.
    """
    if repo_id is not None:
        validate_repo_id(repo_id)
    title = repo_id.split("/")[-1] if repo_id else run.system
    bibtex, references = find_citations(run.stated.get("references", []))
    body = render_template(
        "card_template.md",
        where=f"A record in {run.folder}",
        remedy="train, convert or evaluate the model again",
        run=run,
        title=title,
        model_id=repo_id or run.folder.resolve().name,
        revision=f', revision="{revision}"' if revision else "",
        unused_tensors=name_unused(run.conversion),
        bibtex="\n\n".join(bibtex),
        references=references,
        **_gather_results(run),
    )
    card = ModelCard(f"---\n{make_header(run, title).to_yaml()}\n---\n\n{body}\n")
    if leaks := find_leaks("the card", str(card), run.folder.resolve()):
        raise ValueError("The card cannot be published:\n- " + "\n- ".join(leaks))
    return card


def _gather_results(run: RunFolder) -> dict:
    """What was measured of a model, and what was not."""
    # Dev and eval of the corpus of the training, In-the-Wild, and every other that was evaluated.
    wanted = [run.trials_of(role) for role in ("dev", "eval") if run.corpus is not None]
    wanted += [(IN_THE_WILD, "eval"), *(evaluation.trials for evaluation in run.evaluations)]
    trials = [(corpus, split, run.evaluation(corpus, split)) for corpus, split in dict.fromkeys(wanted)]
    measured = [evaluation for *_, evaluation in trials if evaluation]
    of_dev = {(corpus, of.get("splits", {}).get("dev", "dev")) for corpus, of in run.corpora.items()}
    of_dev.add(run.trials_of("dev"))
    headline = [found for found in measured if found.trials not in of_dev] or measured
    return {"trials": trials, "headline": headline, "evaluations": measured}


def name_unused(conversion: Mapping) -> list[str]:
    """Names of the tensors that were left out; of a module of which nothing is used, its name alone."""
    names = set()
    for name in conversion.get("unused", ()):
        module = name.rpartition(".")[0]
        is_used = not module or any(used.startswith(f"{module}.") for used in conversion.get("key_map", ()))
        names.add(name if is_used else module)
    return sorted(names)


def write_card(run: RunFolder, repo_id: str | None = None) -> Path:
    """Write the card of [`render_card`] into the run's folder, whole or not at all."""
    path = run.folder / CARD_NAME
    write_text(path, str(render_card(run, repo_id)))
    return path


def write_trained_card(folder: Path) -> None:
    """Write the learning curves and the card of a run that has just been trained. What prevents them is
    printed and not raised: the run is complete without."""
    try:
        run = read_run(folder)
        add_learning_curves(run)
        write_card(run)
    except Exception as error:  # whatever it is: hours of training are to be kept
        print(f"There is no card yet: {error}\nOnce this is solved: python -m hub_cards.card {folder}")


def main(argv: list[str]) -> None:
    """Write the card of the run that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m hub_cards.card", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a trained or converted model")
    parser.add_argument("--repo_id", help="where on the Hub it goes: ORG/NAME")
    args = parser.parse_args(argv)
    try:
        print(write_card(read_run(args.run), args.repo_id))
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
