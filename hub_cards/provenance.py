"""Where a model's weights come from, in words: trained here, trained on from others, or converted."""

from collections.abc import Iterable

from .metadata import changed_settings, has_published_weights, is_of_published_weights, training_corpus
from .run_folder import RunFolder
from .tables import code, display_name


def provenance(run: RunFolder) -> str:
    """What is known of the origin of the weights."""
    if run.conversion:
        return _conversion(run)
    if run.training is None:
        return "Its weights were not trained here."
    place = display_name(training_corpus(run) or "a corpus that is not recorded")
    text = f"Trained on: {place}, with the hyperparameters and on the machine given below."
    if run.training.get("started_from"):
        text += f" Training went on from {_start(run.training['started_from'])}."
    if run.recipe and run.recipe.reported:
        text += " These are not the weights that the reported numbers below are of."
    return text


def why_not_trained(run: RunFolder) -> str:
    """Why a card without a training has none."""
    if not run.conversion:
        return "the folder holds no `training.json`, so its weights were trained elsewhere."
    stated = "`recipe.yaml` holds what its source states of their training; nothing of that was run here."
    return f"its weights are converted ones.{f' {stated}' if run.recipe else ''}"


def sources(run: RunFolder) -> list[str]:
    """What the recipe says of who made the system and its weights, and where they are."""
    if run.recipe is None:
        return []
    sources = {
        "Source of the recipe": run.recipe.card.get("recipe_source", run.recipe.reported.get("source")),
        "Source code": run.recipe.card.get("source_code"),
    }
    if run.conversion:
        names = ("Authors", "Weights") if has_published_weights(run) else ("Authors of the system", "Theirs")
        authors, weights = run.recipe.card.get("authors"), run.recipe.card.get("weights")
        sources = {**dict(zip(names, (authors, weights), strict=True)), **sources}
    return [f"{name}: {source}" for name, source in sources.items() if source]


def _conversion(run: RunFolder) -> str:
    """Which file the weights were converted from, and by what."""
    record = run.conversion
    text = (
        f"Its weights were converted, not trained here: from {code(record['checkpoint'])} (SHA-256 "
        f"`{record['sha256']}`) by `{record['converter']}`."
    )
    if has_published_weights(run):
        text += " It is the file that the authors named below publish."
    elif is_of_published_weights(run):
        changed = ", ".join(map(code, changed_settings(run)))
        text += (
            " It is the file that the authors named below publish, but here with other settings than theirs "
            f"({changed}): what is said below of their results is not of this model."
        )
    elif run.recipe:
        text += (
            f" They fit the system {run.recipe.system}. Who trained them, on what and under which licence is "
            "not known from the file: what is said below of the system's authors and their results need not "
            "be of these weights."
        )
    if source := record.get("source"):
        text += f" Such files come from {source}."
    if unused := record.get("unused"):
        names = ", ".join(map(code, _by_modules(unused, record.get("key_map", ()))))
        text += f" Tensors in it that the network does not use were left out: {names}."
    return text


def _by_modules(unused: Iterable[str], used: Iterable[str]) -> list[str]:
    """Names of tensors; of those in a module of which nothing is used, the module's."""
    names = set()
    for name in unused:
        module = name.rpartition(".")[0]
        names.add(name if not module or any(u.startswith(f"{module}.") for u in used) else module)
    return sorted(names)


def _start(start: dict) -> str:
    text = f"the weights of {code(start['model'])}"
    if converted := start.get("converted_from"):
        return f"{text}, converted from {code(converted['checkpoint'])} (SHA-256 `{converted['sha256']}`)"
    if corpus := start.get("trained_on"):
        before = f" from {_start(start['started_from'])}" if start.get("started_from") else ""
        return f"{text}, trained on {display_name(corpus)}{before}"
    return f"{text}, whose own origin is not recorded"
