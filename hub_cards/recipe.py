"""A system's YAML: what its model card states, which is also the recipe that it is trained by."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from huggingface_hub.errors import StrictDataclassError

from processing.near_names import check_keys, suggest


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


FOLDER = Path(__file__).parent
RECIPE_NAME = "recipe.yaml"  # beside the weights of a trained model
# Arguments of training that say how and where, not what: neither in the recipe of a trained model, which may
# be trained on elsewhere, nor among the hyperparameters of its card.
MACHINE_ARGUMENTS = {
    "use_cpu",
    "disable_tqdm",
    "report_to",
    "dataloader_num_workers",
    "attn_implementation",
    "cache_frozen_trunk",
}


@dataclass
class Recipe:
    """
    One system as its YAML states it.

    Attributes:
        system: its name.
        description: what it is, in a sentence or two, for its card.
        corpus: the corpus that it is trained on, by name.
        model: `model_type` and fields of the model's config.
        training: arguments of `train.py` by their own names, as defaults.
        feature_extractor: arguments of the feature extractor that are not in the model's config.
        demo_training: what of `training` is reduced on the demo corpus.
        inferred: which of the values the source does not state, with the reason.
        reported: results that the source reports, by corpus and split; their `source`, and `by` whom.
        card: what else its card says: `license`, `references` (names in `references.bib`, or text),
            `notes`, `limitations` and training data (`corpus`) that the source states, `baseline`,
            `recipe_source`, `source_code`; for converted weights the system's `authors`, where these publish
            their `weights`, the SHA-256 of that file (`checkpoint_sha256`), and the `license_notice` that
            their licence asks for.
    """

    system: str
    description: str
    corpus: str
    model: dict
    training: dict
    feature_extractor: dict = field(default_factory=dict)
    demo_training: dict = field(default_factory=dict)
    inferred: dict = field(default_factory=dict)
    reported: dict = field(default_factory=dict)
    card: dict = field(default_factory=dict)

    def check_training(self, valid: Iterable[str], where: str) -> None:
        """ValueError: an argument in `training` or `demo_training` is unknown."""
        check_keys(self.training, valid, f"{where}, training")
        check_keys(self.demo_training, valid, f"{where}, demo_training")

    def list_inferred(self, changed: Iterable[str]) -> dict[str, str]:
        """`inferred` without the arguments of training that were changed."""
        changed = set(changed)
        if "lr_scheduler_type" in changed:
            changed.add("lr_scheduler_kwargs")
        if "num_trainable_layers" in changed:
            changed.update(name for name in self.model if name.startswith("train_"))
        return {name: why for name, why in self.inferred.items() if changed.isdisjoint(name.split(".")[1:2])}

    def drop_replaced(self, optim: str | None, lr_scheduler_type: str | None) -> None:
        """Drop from `training` what belongs to an optimizer or a schedule that the command line replaces."""
        if optim is not None:
            self.training.pop("optimizer", None)
        if lr_scheduler_type not in (None, self.training.get("lr_scheduler_type")):
            self.training.pop("lr_scheduler_kwargs", None)

    def train_layers(self, number: str) -> None:
        """State in `model` how many of the topmost blocks are trained; below a number, nothing is."""
        if number.isdecimal():
            self.model |= {name: False for name in self.model if name.startswith("train_")}
        self.model["num_trainable_layers"] = int(number) if number.isdecimal() else number

    def defaults(self, *, demo: bool) -> dict:
        """Defaults of train.py's arguments, for the demo corpus reduced by `demo_training`. They are text, so
        that argparse checks and converts them like values of the command line."""
        settings = {"output_dir": f"runs/{self.system}", **self.training}
        if demo:
            settings |= {"output_dir": f"runs/{self.system}-demo", **self.demo_training}
        return {k: v if v is None or isinstance(v, (dict, list)) else str(v) for k, v in settings.items()}

    def build_config(
        self, train_counts: Mapping[str, int] | None = None, *, weights: Path | None = None, **changes
    ) -> "PreTrainedConfig":
        """
        The config of the model, of a type that `import modeling` has registered. `changes` take precedence
        over the recipe; `train_counts` are those of [`~Recipe.weigh_classes`]. With the folder of a trained
        model, `weights`, it is that model's, with what the recipe says of its training: loss, class weights
        and what is trained. ValueError: a value that the config refuses; see also [`~Recipe.check_model`].
        """
        from transformers import AutoConfig

        config_class = self.check_model()
        settings = {name: value for name, value in self.model.items() if name != "model_type"}
        settings |= {"class_weights": self.weigh_classes(train_counts), **changes}
        try:
            if weights is None:
                return config_class(**settings)
            of_training = {"loss": config_class.loss, "decision_threshold": None, "calibration": None}
            fields_of_training = config_class.training_fields
            of_training |= {name: settings[name] for name in fields_of_training if name in settings}
            return AutoConfig.from_pretrained(weights, **of_training)
        except StrictDataclassError as error:
            raise ValueError(f"{self.system}: {str(error).split('Error: ', 1)[-1]}") from error

    def weigh_classes(self, train_counts: Mapping[str, int] | None = None) -> dict[str, float] | None:
        """
        Weight of each class in the loss, by label name. `balanced` weighs a class inversely to its share of
        `train_counts`, the training split's utterances by label; without a training split that is no weights.
        """
        weights = self.model.get("class_weights")
        if weights != "balanced":
            return weights
        total = sum((train_counts or {}).values())
        return {name: total / (2 * count) for name, count in (train_counts or {}).items()} or None

    def check_model(self) -> type:
        """
        The class of the model's config. ValueError: an architecture that is not known, or in `model` and
        `feature_extractor` a key that neither it, its encoder's config nor the feature extractor takes.
        """
        from transformers import CONFIG_MAPPING

        from processing.feature_extraction_antispoofing import AntiSpoofingFeatureExtractor

        model_type = self.model.get("model_type")
        config_class = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None
        if not hasattr(config_class, "class_weights"):  # which all countermeasures have
            models = (load_recipe(FOLDER / f"{name}.yaml").model for name in list_systems())
            known = ", ".join(sorted({model["model_type"] for model in models}))
            raise ValueError(f"{self.system}: model_type {model_type!r} is not one of {known}.")
        valid = ["model_type", *(f.name for f in fields(config_class))]
        check_keys(self.model, valid, f"{self.system}, model")
        if "encoder_config" in config_class.sub_configs:
            encoder = self.model.get("encoder_config")
            encoder_type = encoder.get("model_type") if isinstance(encoder, dict) else None
            if encoder_type not in config_class.encoder_types:
                raise ValueError(
                    f"{self.system}, encoder_config: its model_type must be stated, one of "
                    f"{', '.join(config_class.encoder_types)}."
                )
            valid = ["model_type", *(f.name for f in fields(CONFIG_MAPPING[encoder_type]))]
            check_keys(encoder, valid, f"{self.system}, encoder_config")
        valid = inspect.signature(AntiSpoofingFeatureExtractor.__init__).parameters.keys()
        valid -= {"self", "kwargs", "num_samples"}
        check_keys(self.feature_extractor, valid, f"{self.system}, feature_extractor")
        return config_class


def list_systems() -> list[str]:
    """Names of the systems that have a YAML here."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_recipe(model: str) -> tuple[Path, Path | None]:
    """The YAML of a system of this folder, or a YAML file; or the recipe in a trained model's folder, and
    that folder. FileNotFoundError: none of them; the message gives the nearest name."""
    path, systems = Path(model).expanduser(), list_systems()
    if model in systems:
        return FOLDER / f"{model}.yaml", None
    if path.is_dir():
        if not (path / RECIPE_NAME).is_file():
            raise FileNotFoundError(
                f"{path} holds no {RECIPE_NAME}, so how to train it is not known. Put a copy of a YAML of "
                f"{FOLDER} there."
            )
        return path / RECIPE_NAME, path
    if path.is_file():
        return path, None
    raise FileNotFoundError(
        f"{model} is neither a system ({', '.join(systems)}){suggest(model, systems)}, nor a YAML file, nor "
        "the folder of a trained model."
    )


def load_recipe(path: Path) -> Recipe:
    """ValueError: no mapping, an unknown or a missing key; the message names the file and the key."""
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError(f"{path} has YAML aliases (*name), which are not read: write the values out.")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is not a recipe: a mapping with the keys system, corpus, model, training is expected."
        )
    check_keys(content, [f.name for f in fields(Recipe)], str(path))
    for section in fields(Recipe):
        if "dict" in str(section.type) and not isinstance(content.get(section.name, {}), dict):
            raise ValueError(f"{path}: {section.name} must be a mapping of keys to values.")
    try:
        recipe = Recipe(**content)
        if re.search(r"[/\\\n]|^\.", recipe.system):  # it names folders and files
            raise ValueError(f"{path}: the system is called {recipe.system!r}. Choose a name without a path.")
        return recipe
    except TypeError as error:
        raise ValueError(f"{path} is incomplete: {str(error).split('__init__() ')[-1]}.") from error


def find_published(checkpoint_sha256: str) -> Recipe | None:
    """The recipe of the system whose published weights are the file of this SHA-256, if there is one."""
    recipes = (load_recipe(FOLDER / f"{name}.yaml") for name in list_systems())
    return next(
        (found for found in recipes if found.card.get("checkpoint_sha256") == checkpoint_sha256), None
    )


def find_changed_settings(recipe: Recipe, published: Recipe | None) -> list[str]:
    """Name the settings that differ from those of the system whose authors publish the checkpoint; none where
    nobody is known to publish it."""
    if published is None:
        return []
    theirs = {**published.model, **published.feature_extractor}
    ours = {**recipe.model, **recipe.feature_extractor}
    # The weights of the classes are of training alone.
    names = sorted((theirs.keys() | ours.keys()) - {"class_weights"})
    return [name for name in names if ours.get(name) != theirs.get(name)]
