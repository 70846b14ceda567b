"""A trained or converted model's folder as the files in it tell: what its card and its publication are made
from."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from safetensors import safe_open

from processing.corpus_names import CORPORA, find_official_trials, is_demo
from processing.files import find_weights, hash_files, read_json
from processing.origin import find_origin

from .recipe import RECIPE_NAME, Recipe, find_changed_settings, find_recipe, list_systems, load_recipe


CONVERSION_NAME = "conversion.json"  # beside weights that were converted and not trained here
NEEDED = ("corpus", "split", "num_trials", "num_bonafide", "num_spoof", "eer")  # in results.json
OF_TRAINING = ("dev", "eval")  # folders of `results` that train.py writes


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
    def plots(self) -> list[Path]:
        return sorted(self.folder.glob("*.png"))


@dataclass
class RunFolder:
    """What is known of a model by its folder. What was not measured is not there: `None`, or no entry."""

    folder: Path
    config: dict  # the content of `config.json`
    feature_extractor: dict  # of `preprocessor_config.json`
    recipe: Recipe | None  # of `recipe.yaml`: how the model was trained
    training: dict | None  # of `training.json`: what training took and what it was of
    trainer_state: dict | None  # of `trainer_state.json`, the Trainer's log
    conversion: dict | None  # of `conversion.json`: what the weights were converted from
    evaluations: list[Evaluation] = field(default_factory=list)  # one for each corpus and split

    @cached_property
    def weight_files(self) -> list[Path]:
        """The files that hold the weights. FileNotFoundError: one of them is missing."""
        return find_weights(self.folder)

    @property
    def num_bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(path.stat().st_size for path in self.weight_files)

    @cached_property
    def num_values(self) -> int:
        """Numbers in the weights, fixed buffers included, counted in the headers of the files."""
        total = 0
        for path in self.weight_files:
            with safe_open(path, framework="numpy") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
        return total

    @property
    def num_parameters(self) -> int | None:
        """Parameters as training or the converter counted them, without fixed buffers."""
        return (self.training or self.conversion or {}).get("num_parameters")

    @property
    def chosen_evaluation(self) -> dict | None:
        """The log's entry of the evaluation whose state was kept; `None` where that is the last state.
        ValueError: the log has no such entry."""
        step = (self.trainer_state or {}).get("best_global_step")
        if step is None or (self.training or {}).get("chosen_by", "eer") is None:
            return None
        for entry in self.trainer_state.get("log_history", []):
            if entry.get("step") == step and "eval_eer" in entry:
                return entry
        path = self.folder / "trainer_state.json"
        raise ValueError(f"{path}: best_global_step is {step}, but log_history has no evaluation there.")

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
        if self.training and self.training.get("corpus"):
            return self.training["corpus"]
        # Records of older runs lack it, but train.py evaluated them on the same corpus.
        dev = next((found for found in self.evaluations if found.folder.name == "dev"), None)
        if self.training is not None and dev:
            return dev.results["corpus"]
        if self.recipe and (self.training is not None or self.conversion is not None):
            known = CORPORA.get(self.recipe.corpus)
            return known.title if known else self.recipe.corpus
        return None

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
        return ((self.training or {}).get("base_model") or {}).get("name")

    @cached_property
    def origin(self) -> dict:
        """Where the weights come from; see [`processing.origin`]."""
        changed = []
        if self.conversion and self.recipe:
            changed = find_changed_settings(self.recipe, self.conversion["sha256"])
        return find_origin(self.conversion, self.training, self.stated, changed)

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

    def split(self, role: str) -> str:
        """The part of the corpus that training used as `train`, `dev` or `eval`."""
        return (self.training or {}).get("splits", {}).get(role, role)

    def input_setting(self, name: str) -> int | None:
        """`sampling_rate` or `num_samples`, as the feature extractor or else the config states it.
        ValueError: neither does."""
        for content in (self.feature_extractor, self.config):
            if name in content:
                return content[name]
        raise ValueError(f"Neither preprocessor_config.json nor config.json states {name}.")

    def find_threshold(self) -> tuple[str | None, str] | None:
        """Corpus and split whose EER threshold is the decision threshold, as far as the folder tells."""
        threshold, dev = self.config.get("decision_threshold"), (self.corpus, self.split("dev"))
        thresholds = {found.trials: found.results.get("eer_threshold") for found in self.evaluations}
        if self.training is not None and thresholds.get(dev) in (None, threshold):  # train.py sets it so
            return dev
        return next((trials for trials, found in thresholds.items() if found == threshold), None)

    def evaluation(self, corpus: str, split: str) -> Evaluation | None:
        """The evaluation on a corpus's split, by the names in `results.json`."""
        return next((found for found in self.evaluations if found.trials == (corpus, split)), None)


def read_run(folder: Path) -> RunFolder:
    """
    Raises:
        FileNotFoundError: no folder of a complete model.
        ValueError: a damaged file, or an evaluation of other weights; the message names it.
    """
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
        recipe=_read_recipe(folder / RECIPE_NAME),
        training=read_json(folder / "training.json"),
        trainer_state=read_json(folder / "trainer_state.json"),
        conversion=read_json(folder / CONVERSION_NAME),
    )
    run.evaluations = _read_evaluations(run)
    return run


def _read_recipe(path: Path) -> Recipe | None:
    """The recipe of a run; where it says nothing for the card, as older ones, what its system's YAML says."""
    if not path.is_file():
        return None
    recipe = load_recipe(path)
    if not recipe.card and recipe.system in list_systems():
        recipe.card = load_recipe(find_recipe(recipe.system)[0]).card
    return recipe


def _read_evaluations(run: RunFolder) -> list[Evaluation]:
    """The evaluations of a model, one for each corpus and split: of two, the one with min t-DCF, then that of
    eval.py rather than that of train.py."""
    digests = hash_files(run.weight_files)
    found: dict[tuple[str, str], Evaluation] = {}
    for path in sorted(run.folder.glob("results/*/results.json")):
        results = read_json(path)
        if lacking := [name for name in NEEDED if results.get(name) is None]:
            raise ValueError(f"{path} has no {lacking[0]}: evaluate the model anew by eval.py --overwrite.")
        if results.get("weights_sha256") != digests:
            raise ValueError(
                f"{path} is of other weights than those in {run.folder}: evaluate the model anew by eval.py "
                "--overwrite, or delete that folder."
            )
        evaluation = Evaluation(path.parent, results)
        other = found.get(evaluation.trials)
        if other is None or _rank(evaluation) >= _rank(other):
            found[evaluation.trials] = evaluation
    return list(found.values())


def _rank(evaluation: Evaluation) -> tuple[bool, bool]:
    return evaluation.results.get("min_tdcf_2019") is not None, evaluation.folder.name not in OF_TRAINING
