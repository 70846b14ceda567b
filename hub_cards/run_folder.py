"""A trained or converted model's folder as the files in it tell: what its card and its publication are made
from."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from processing.corpus_names import CORPORA, find_official_trials, is_demo
from processing.files import find_weights, hash_files, read_json
from processing.origin import find_origin

from .recipe import MACHINE_ARGUMENTS, RECIPE_NAME, Recipe, load_recipe


if TYPE_CHECKING:
    import pandas as pd

CONVERSION_NAME = "conversion.json"  # beside weights that were converted and not trained here
NEEDED = ("corpus", "split", "num_trials", "num_bonafide", "num_spoof", "eer")  # in results.json
OF_TRAINING = ("dev", "eval")  # folders of `results` that train.py writes
# Hyperparameters that are said even where the recipe leaves them to the Trainer.
SAID = ("num_train_epochs", "per_device_train_batch_size", "optim", "learning_rate", "lr_scheduler_type")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the model on a corpus."""

    folder: Path  # with `results.json`, `scores.txt` and plots
    results: dict  # the content of `results.json`

    @property
    def trials(self) -> tuple[str, str]:
        """Corpus and split."""
        return self.results["corpus"], self.results["split"]

    @property
    def num_official(self) -> int | None:
        """Trials of the official protocol, where only a part of them was scored."""
        official = find_official_trials(*self.trials)
        return None if official == self.results["num_trials"] else official

    @property
    def files(self) -> list[Path]:
        """Those with the numbers."""
        paths = (self.folder / name for name in ("results.json", "scores.txt", "llrs.txt"))
        return [path for path in paths if path.is_file()]

    @property
    def plots(self) -> list[Path]:
        """The DET plot and the histogram of scores come first."""
        first = ("det", "scores")
        return sorted(self.folder.glob("*.png"), key=lambda path: (path.stem not in first, path.name))

    @cached_property
    def scores(self) -> "pd.DataFrame":
        """utterance_id, attack, key and score of each line of `scores.txt`. FileNotFoundError, ValueError: it
        does not exist, or the results are not of it."""
        import pandas as pd  # takes half a second

        path, names = self.folder / "scores.txt", ["utterance_id", "attack", "key", "score"]
        scores = pd.read_csv(path, sep=" ", names=names, dtype=str, na_filter=False)
        found = scores["key"].value_counts().to_dict()
        expected = {key: self.results[f"num_{key}"] for key in ("bonafide", "spoof")}
        if found != expected:
            raise ValueError(
                f"{path} has {found} lines of `utterance_id attack key score`, but results.json beside it "
                f"has {expected} trials: evaluate the model again by eval.py --overwrite."
            )
        return scores.assign(score=pd.to_numeric(scores["score"], errors="coerce"))


@dataclass
class RunFolder:
    """What is known of a model by its folder. What was not measured is not there: no entry, or `None`."""

    folder: Path
    config: dict  # the content of `config.json`
    feature_extractor: dict  # of `preprocessor_config.json`
    recipe: Recipe | None  # of `recipe.yaml`: how the model was trained
    training: dict  # of `training.json`: what was trained, and what it took; empty, as those below, without
    trainer_state: dict  # of `trainer_state.json`, the Trainer's log
    conversion: dict  # of `conversion.json`: what the weights were converted from
    evaluations: list[Evaluation] = field(default_factory=list)  # one for each corpus and split

    @cached_property
    def weight_files(self) -> list[Path]:
        """The files that hold the weights. FileNotFoundError: one of them is missing."""
        return find_weights(self.folder)

    @property
    def num_bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(path.stat().st_size for path in self.weight_files)

    @property
    def num_parameters(self) -> int | None:
        """Parameters as training or the converter counted them, without fixed buffers."""
        return (self.training or self.conversion).get("num_parameters")

    @property
    def is_average(self) -> bool:
        """Whether the weights are the average of several checkpoints."""
        return self.training.get("averaging", {}).get("is_kept", False)

    @property
    def chosen_evaluation(self) -> dict | None:
        """The log's entry of the evaluation whose state was kept; `None` where that is the last state, or the
        average of several."""
        step = self.trainer_state.get("best_global_step")
        if step is None or self.training.get("chosen_by", "eer") is None or self.is_average:
            return None
        log = self.trainer_state.get("log_history", [])
        return next((entry for entry in log if entry.get("step") == step and "eval_eer" in entry), None)

    @property
    def stated(self) -> dict:
        """What the recipe states for the card alone: licence, references, limitations …"""
        return self.recipe.card if self.recipe else {}

    @property
    def reported(self) -> dict:
        """What the source of the recipe reports of its own weights."""
        return self.recipe.reported if self.recipe else {}

    @property
    def corpus(self) -> str | None:
        """The corpus that the model was trained on, as results call it; of converted weights, what the recipe
        states. `None` where that is not recorded."""
        if self.training:
            return self.training.get("corpus")
        if self.recipe and self.conversion:
            known = CORPORA.get(self.recipe.corpus)
            return known.title if known else self.recipe.corpus
        return None

    @property
    def corpora(self) -> dict[str, dict]:
        """What is recorded of each corpus that the model was trained on, by its name."""
        return self.training.get("corpora") or ({self.corpus: self.training} if self.corpus else {})

    @property
    def is_demo(self) -> bool:
        """Whether the model was trained on the demo corpus, whose numbers mean nothing."""
        return is_demo(self.corpus)

    @property
    def is_gmm(self) -> bool:
        """Whether the model is fitted by expectation-maximisation."""
        return self.config.get("model_type") == "lfcc-gmm"

    @property
    def base_model(self) -> str | None:
        """The name of the base model that training started from, where it had one."""
        return (self.training.get("base_model") or {}).get("name")

    @property
    def overridden(self) -> dict:
        """Arguments of training that the command line gave instead of the recipe's."""
        return self.training.get("overridden", {})

    @property
    def reduced(self) -> dict:
        """Arguments of training that were reduced on the demo corpus."""
        return self.training.get("reduced_on_demo", {})

    @property
    def arguments(self) -> dict:
        """Arguments of training by name, as it was run."""
        recipe = self.recipe.training if self.recipe else {}
        seed = {"seed": self.training["seed"]} if "seed" in self.training else {}
        return {**recipe, **seed, **self.reduced, **self.overridden}

    @property
    def hyperparameters(self) -> dict:
        """The arguments of training but those of the machine, and the Trainer's where they must be said."""
        defaults = {} if self.is_gmm else dict.fromkeys(SAID, "default of transformers' Trainer")
        arguments = defaults | self.arguments
        left_out = MACHINE_ARGUMENTS | {"base_model"} | ({"optim"} if arguments.get("optimizer") else set())
        return {name: value for name, value in arguments.items() if name not in left_out}

    @property
    def machine_arguments(self) -> dict:
        """The arguments of training that say how and where it ran."""
        return {name: value for name, value in self.arguments.items() if name in MACHINE_ARGUMENTS}

    @property
    def inferred_values(self) -> dict[str, str]:
        """Values of the recipe that its source does not state, with the reason; not those that were changed,
        nor those of a training that was not run."""
        inferred = self.recipe.list_inferred({*self.overridden, *self.reduced}) if self.recipe else {}
        return {
            name: why for name, why in inferred.items() if self.training or not name.startswith("training")
        }

    @property
    def log_likelihoods(self) -> dict[str, list[float]]:
        """Log-likelihood per frame by iteration of EM, of each class in words."""
        histories: dict[str, list[float]] = {}
        for entry in self.trainer_state.get("log_history", []):
            for name, value in entry.items():
                if name.startswith("log_likelihood_"):
                    label = name.removeprefix("log_likelihood_").replace("bonafide", "bona fide")
                    histories.setdefault(label, []).append(value)
        return histories

    @cached_property
    def origin(self) -> dict:
        """Where the weights come from; see [`processing.origin`]."""
        return find_origin(self.conversion or self.training)

    @property
    def is_published_model(self) -> bool:
        """Whether this is, converted, the model whose weights the authors of the system publish."""
        origin = self.origin
        return origin["kind"] == "converted" and origin["published"] and not origin["changed_settings"]

    @property
    def license(self) -> str | None:
        """The licence that the recipe states; none of weights that may go back to somebody else's."""
        return self.stated.get("license") if self.origin["license_from_recipe"] else None

    @property
    def system(self) -> str:
        return self.recipe.system if self.recipe else self.folder.resolve().name

    @property
    def learning_curves(self) -> list[Path]:
        """Their pictures, that of the run alone first."""
        found = self.folder.glob("learning_curves/*.png")
        return sorted(found, key=lambda path: (path.stem != self.system, path.name))

    def link(self, path: Path) -> str:
        """A file of the folder as a link in its card."""
        return quote(path.relative_to(self.folder).as_posix())

    def trials_of(self, role: str) -> tuple[str | None, str]:
        """Corpus and split that training used as `train`, `dev` or `eval`, by the names in `results.json`: of
        several corpora, those that have it."""
        having = {name: of["splits"] for name, of in self.training.get("corpora", {}).items()}
        having = {name: splits[role] for name, splits in having.items() if role in splits}
        if len(having) == 1:
            return next(iter(having.items()))
        return " + ".join(having) or self.corpus, self.training.get("splits", {}).get(role, role)

    def find_threshold(self) -> tuple[str | None, str] | None:
        """Corpus and split whose EER threshold is the decision threshold, as far as the folder tells."""
        threshold, dev = self.config.get("decision_threshold"), self.trials_of("dev")
        for found in sorted(self.evaluations, key=lambda found: found.trials != dev):
            start, end = (found.results.get(f"eer_threshold{which}", math.nan) for which in ("", "_end"))
            if threshold == (start + end) / 2:
                return found.trials
        # train.py shifts the scores so that it is 0, but for their rounding.
        return dev if self.training and threshold == 0 else None

    def evaluation(self, corpus: str, split: str) -> Evaluation | None:
        """The evaluation on a corpus's split, by the names in `results.json`."""
        return next((found for found in self.evaluations if found.trials == (corpus, split)), None)


def read_run(folder: Path) -> RunFolder:
    """FileNotFoundError: no folder of a complete model. ValueError: a damaged file, or an evaluation of other
    weights; the message names it."""
    folder = Path(folder).expanduser()
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}: it is not the folder of a finished training or of a converted "
                "model."
            )
    run = RunFolder(
        folder,
        config=read_json(folder / "config.json"),
        feature_extractor=read_json(folder / "preprocessor_config.json"),
        recipe=load_recipe(recipe) if (recipe := folder / RECIPE_NAME).is_file() else None,
        training=read_json(folder / "training.json") or {},
        trainer_state=read_json(folder / "trainer_state.json") or {},
        conversion=read_json(folder / CONVERSION_NAME) or {},
    )
    run.evaluations = _read_evaluations(run)
    return run


def _read_evaluations(run: RunFolder) -> list[Evaluation]:
    """The evaluations of a model, one for each corpus and split: of two, the one with min t-DCF, then that of
    eval.py on this corpus alone."""
    digests = hash_files(run.weight_files)
    found = []
    for path in sorted(run.folder.glob("results/**/results.json")):
        results = read_json(path)
        if lacking := [name for name in NEEDED if results.get(name) is None]:
            raise ValueError(f"{path} has no {lacking[0]}: evaluate the model anew by eval.py --overwrite.")
        if results.get("weights_sha256") != digests:
            raise ValueError(
                f"{path} is of other weights than those in {run.folder}: evaluate the model anew by eval.py "
                "--overwrite, or delete that folder."
            )
        found.append(Evaluation(path.parent, results))
    last_wins = {evaluation.trials: evaluation for evaluation in sorted(found, key=_rank)}
    return sorted(last_wins.values(), key=lambda evaluation: evaluation.folder)


def _rank(evaluation: Evaluation) -> tuple[bool, bool]:
    is_alone = evaluation.folder.parent.name == "results" and evaluation.folder.name not in OF_TRAINING
    return evaluation.results.get("min_tdcf_2019") is not None, is_alone
