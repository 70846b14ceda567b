"""How a model was trained, as it was run: from the recipe, what the command line changed of it, and the
logs."""

from collections.abc import Mapping

from processing.files import strip_folder

from .run_folder import RunFolder
from .tables import NOT_MEASURED, duration, gibibytes, number, per_cent


DEFAULT = "default of transformers' Trainer"
# Arguments of training that have a row of their own; any other that was stated or overridden has one by name.
SHOWN = {
    "num_train_epochs": "Epochs asked for",
    "max_steps": "Steps asked for, instead of epochs",
    "per_device_train_batch_size": "Batch size",
    "gradient_accumulation_steps": "Batches per step",
    "optim": "Optimizer",
    "optimizer": "Optimizer",  # which takes the place of the former
    "learning_rate": "Learning rate",
    "lr_scheduler_type": "Schedule",
    "lr_scheduler_kwargs": "Schedule's parameters",
    "warmup_steps": "Warm-up steps",
    "weight_decay": "Weight decay",
    "max_grad_norm": "Gradient clipping (norm)",
    "early_stopping_patience": "Early stopping patience (evaluations)",
    "crop": "Crop in training",
    "seed": "Seed",
}
NEEDED = ("num_train_epochs", "per_device_train_batch_size", "optim", "learning_rate", "lr_scheduler_type")
OF_EM = {
    "num_train_epochs": "Iterations of EM asked for",
    "per_device_train_batch_size": "Utterances read at a time",
    "seed": "Seed",
}
IN_WORDS = {
    "crop": {"start": "start of the utterance", "random": "at a random place"},
    "optimizer": {"adam": "torch.optim.Adam, weight decay as an L2 term in the gradient of every parameter"},
    "max_grad_norm": {0: "none"},
}


def is_gmm(run: RunFolder) -> bool:
    """Whether the model is fitted by expectation-maximisation."""
    return run.config.get("model_type") == "lfcc-gmm"


def training_rows(run: RunFolder) -> list[tuple[str, str]]:
    """Hyperparameter and value of a trained run; what the command line overrode is marked."""
    rows = _em_rows(run) if is_gmm(run) else _gradient_rows(run)
    return [*rows, ("Processes", number(run.training.get("num_processes", 1)))]


def data_rows(run: RunFolder) -> list[list[str]]:
    """Each split that was used, the part of the corpus that it is, and its counts."""
    specs, missing = run.training.get("splits", {}), run.training.get("missing")
    rows = []
    for role, counts in run.training.get("counts", {}).items():
        spec = specs.get(role, role)
        absent = "not recorded" if missing is None else number(missing.get(spec.split("[")[0], 0))
        rows.append([role, f"`{spec}`", number(counts["bonafide"]), number(counts["spoof"]), absent])
    return rows


def machine_rows(run: RunFolder) -> list[tuple[str, str]]:
    """Hardware, time, memory and versions of the training."""
    record = run.training
    hardware = record.get("hardware", {})
    cores = f", {hardware['cores']} cores" if hardware.get("cores") else ""
    gpu = f"{hardware.get('num_gpus', 1)} × {hardware['gpu']}" if hardware.get("gpu") else "none"
    rows = [
        ("CPU", f"{hardware.get('cpu') or 'not recorded'}{cores}"),
        ("GPU", gpu),
        ("Time, evaluation included", _measured(record.get("seconds"), duration)),
        ("Peak memory of the main process", _measured(record.get("peak_memory_bytes"), gibibytes)),
    ]
    if hardware.get("gpu"):
        rows.append(("Peak GPU memory", _measured(record.get("peak_gpu_memory_bytes"), gibibytes)))
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    return [*rows, ("Versions", versions or "not recorded")]


def inferred_rows(run: RunFolder) -> list[tuple[str, str]]:
    """
    Values of the recipe that its source does not state, with the reason; not those that were changed, nor
    those of a training that was not run.
    """
    if run.recipe is None:
        return []
    record = run.training or {}
    changed = {*record.get("overridden", {}), *record.get("reduced_on_demo", {})}
    if "lr_scheduler_type" in changed:
        changed.add("lr_scheduler_kwargs")
    rows = []
    for name, reason in run.recipe.inferred.items():
        section, _, rest = name.partition(".")
        if section != "training" or (run.training is not None and rest.split(".")[0] not in changed):
            rows.append((f"`{name}`", str(reason)))
    return rows


def log_likelihoods(run: RunFolder) -> dict[str, list[float]]:
    """Log-likelihood per frame by iteration of EM, of each class in words."""
    histories: dict[str, list[float]] = {}
    for entry in (run.trainer_state or {}).get("log_history", []):
        for name, value in entry.items():
            if name.startswith("log_likelihood_"):
                label = name.removeprefix("log_likelihood_").replace("bonafide", "bona fide")
                histories.setdefault(label, []).append(value)
    return histories


def _arguments(run: RunFolder) -> dict[str, str]:
    """Every argument of training as it was run, in words, by name."""
    record = run.training
    overridden, reduced = record.get("overridden", {}), record.get("reduced_on_demo", {})
    recipe = run.recipe.training if run.recipe else {}
    seed = {"seed": record["seed"]} if "seed" in record else {}
    texts = {}
    for name, value in {**recipe, **seed, **reduced, **overridden}.items():
        words = IN_WORDS.get(name)
        texts[name] = _value(words.get(value, value) if words else value)
        if name in overridden:
            texts[name] += " (from the command line)"
        elif name in reduced:
            texts[name] += f" (reduced on the demo corpus; the recipe has {_value(recipe.get(name))})"
    return texts


def _gradient_rows(run: RunFolder) -> list[tuple[str, str]]:
    arguments = _arguments(run)
    replaced = "optim" if "optimizer" in arguments else "optimizer"
    rows = [
        (title, arguments.get(name, DEFAULT))
        for name, title in SHOWN.items()
        if name != replaced and (name in arguments or name in NEEDED)
    ]
    after = 2 if "max_steps" in arguments else 1
    rows[after:after] = _course(run)
    weights = run.training.get("class_weights")
    if weights:
        text = ", ".join(f"{name} {number(weights[name])}" for name in _labels(run) if name in weights)
    else:
        text = "none: both classes weigh the same"
    rows.append(("Class weights", text))
    base = (run.training.get("base_model") or {}).get("name")
    rest = {name: text for name, text in arguments.items() if name not in {*SHOWN, "base_model"}}
    if base:
        mark = " (from the command line)" if "base_model" in run.training.get("overridden", {}) else ""
        name = "none, random initial weights" if base == "none" else f"`{base}`"
        rows.insert(0, ("Started from", f"{name}{mark}"))
    return [*rows, *((f"`{name}`", text) for name, text in rest.items())]


def _labels(run: RunFolder) -> list[str]:
    """Names of the labels in the order of the logits."""
    return [label for _, label in sorted(run.config["id2label"].items())]


def _course(run: RunFolder) -> list[tuple[str, str]]:
    """How far training went, and which state was kept."""
    state = run.trainer_state
    if state is None:
        return [("Epochs done", "not recorded: there is no trainer_state.json")]
    done, steps, planned = state.get("epoch"), state.get("global_step"), state.get("max_steps")
    text = f"{number(round(done, 2))} ({number(steps)} steps), "
    text += f"stopped early ({number(planned)} steps planned)" if steps < planned else "not stopped early"
    evaluations = [entry for entry in state.get("log_history", []) if "eval_loss" in entry]
    best = next((e for e in evaluations if e.get("step") == run.chosen_step), None)
    by = run.training.get("chosen_by", "eer")
    if best is None:
        chosen = "the last state: none was chosen on dev"
    else:
        chosen = f"epoch {number(round(best['epoch'], 2))} (step {number(best['step'])})"
        if "eval_eer" in best:
            trials = min(best.get(f"eval_num_{name}", 1) for name in ("bonafide", "spoof"))
            kept = f"dev EER {per_cent(best['eval_eer'], trials)}"
            why = "the lowest" if by in ("eer", "eval_eer") else f"chosen by `{by}`"
            chosen += f": {kept}, {why} of {number(len(evaluations))} evaluations in training"
    return [("Epochs done", text), ("Chosen state", chosen)]


def _em_rows(run: RunFolder) -> list[tuple[str, str]]:
    arguments = _arguments(run)
    rows = [(title, arguments[name]) for name, title in OF_EM.items() if name in arguments]
    for label, history in log_likelihoods(run).items():
        text = f"{history[0]:.3f} → {history[-1]:.3f} nats in {number(len(history))} iterations"
        rows.append((f"Log-likelihood per frame, {label}", text))
    rest = [(f"`{name}`", text) for name, text in arguments.items() if name not in OF_EM]
    return [("Method", "expectation-maximisation, no gradient; the last iteration is kept"), *rows, *rest]


def _value(value) -> str:
    """A value without a folder of the machine: of a path, its last name."""
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "not stated"}[value]
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value)
    return strip_folder(str(value))


def _measured(value, form) -> str:
    return NOT_MEASURED if value is None else form(value)
