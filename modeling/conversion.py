"""What the converters of published checkpoints share: a checkpoint is read as tensors and nothing else, its
tensors are renamed and loaded strictly, and what is written is a complete model's folder with its card."""

import argparse
import dataclasses
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForAudioClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from hub_cards.card import name_unused, write_card
from hub_cards.recipe import (
    RECIPE_NAME,
    Recipe,
    find_changed_settings,
    find_published,
    find_recipe,
    list_systems,
    load_recipe,
)
from hub_cards.run_folder import CONVERSION_NAME, read_run
from modeling import AntiSpoofingFeatureExtractor
from processing.files import hash_file, move_model, write_json
from processing.origin import describe_conversion
from processing.results import describe_environment


logger = logging.get_logger(__name__)
# Keys under which training scripts keep the weights beside other things.
WRAPPERS = ("state_dict", "model_state_dict", "model")
PARALLEL_PREFIX = "module."  # of `nn.DataParallel`
SINC_BANK = "sinc.filters"  # computed from the config
RUNNING_STATISTICS = (".running_mean", ".running_var")  # of a batch normalisation
UNUSED = None  # in a rename table: the network has no use for the tensor
# Of torch's weight norm, as it was called before it became a parametrization.
WEIGHT_NORM = {"g": "parametrizations.weight.original0", "v": "parametrizations.weight.original1"}
# Of a residual block in the published code of AASIST and RawNet2: name of each module here by its name there.
RESIDUAL_BLOCK = {
    "bn1": "norm1",
    "conv1": "conv1",
    "bn2": "norm2",
    "conv2": "conv2",
    "conv_downsample": "shortcut",
}


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """
    Read the tensors of a checkpoint by name, on the CPU: a state dict, alone or under `WRAPPERS`, saved by
    `torch.save` or as safetensors, without the prefix of `nn.DataParallel`. Nothing of the file is run.

    Raises:
        ValueError: a damaged file, one that holds other objects, no state dict or two, or what is no weights.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: --checkpoint names the weights to convert.")
    content = _unwrap(_load(path), path)
    if not isinstance(content, Mapping) or not content:
        found = "an empty one" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{path} must hold a state dict, tensors by name, but holds {found}.")
    for name, value in content.items():
        if fault := _find_fault(name, value):
            raise ValueError(f"{path} must hold a state dict, tensors by name, but {name!r} {fault}.")
    prefix = PARALLEL_PREFIX if all(name.startswith(PARALLEL_PREFIX) for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _load(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):  # as `torch.save` writes it; `torch.load` leaves its checksums unread
            with zipfile.ZipFile(path) as archive:
                if part := archive.testzip():
                    raise zipfile.BadZipFile(f"the checksum of {part} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the readers raise almost anything
        # After its first sentence, torch advises to run what it refuses.
        asks_for = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            asks_for[1] if asks_for else f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]
        )
        raise ValueError(
            f"{path} cannot be read as tensors: it is empty, damaged, no checkpoint, or holds objects that "
            f"only run code can make ({reason}). Nothing of it was run. Where its origin is trusted, load it "
            "there where it was made and save its state dict alone."
        ) from None


def _unwrap(content: object, path: Path) -> object:
    """Find the weights, which may lie under several of `WRAPPERS`, in what a training script saved."""
    while isinstance(content, Mapping):
        inner = {name: content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)}
        weights = [n for n in inner if any(isinstance(v, torch.Tensor) for v in inner[n].values())]
        if len(weights) > 1:
            found = " and ".join(map(repr, weights))
            raise ValueError(f"{path} holds weights under {found}. Save only those to convert.")
        if not inner:
            break
        chosen = next(iter(weights or inner))
        if others := [str(name) for name in content if name != chosen]:
            logger.warning("%s: %s is read, and nothing else of it: %s", path, chosen, ", ".join(others))
        content = inner[chosen]
    return content


def _find_fault(name: object, value: object) -> str | None:
    """Say what makes an entry of a state dict no weights."""
    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}"
    if not (value.is_floating_point() or value.ndim == 0):  # a counter of batches
        return f"is no tensor of floating-point numbers, but of {value.dtype}"
    if not value.float().isfinite().all():
        return "holds NaN, infinity or a number too large for float32"
    return None


def rename(name: str, table: Mapping[str, str | None]) -> str | None:
    """
    Rename a tensor by a table of names or prefixes, of which the longest counts; a prefix ends at a dot. A
    name that the table does not have stays as it is; one that the network has no use for is `UNUSED`. Weight
    norm has its name of today.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in table:
            return UNUSED if table[prefix] is UNUSED else respell(table[prefix] + name.removeprefix(prefix))
    return respell(name)


def respell(name: str) -> str:
    """Give weight norm's parametrization its name where a name has the older spelling."""
    return re.sub(r"\bweight_([gv])$", lambda found: WEIGHT_NORM[found[1]], name)


def make_block_table(prefix: str, num_blocks: int, *, pre_activation: bool) -> dict[str, str | None]:
    """Make the rename table of all residual blocks, whose number and `.0` come after `prefix` there."""
    table = {}
    for i in range(num_blocks):
        table |= {f"{prefix}{i}.0.{theirs}": f"blocks.{i}.{ours}" for theirs, ours in RESIDUAL_BLOCK.items()}
        if i > 0 and not pre_activation:  # there whether it is used or not
            table[f"{prefix}{i}.0.bn1"] = UNUSED
    return table


def load_renamed(
    model: PreTrainedModel,
    tensors: Mapping[str, torch.Tensor],
    table: Mapping[str, str | None],
    *,
    where: str | Path,
) -> dict[str, str | None]:
    """
    Load a checkpoint's tensors into a network, in its own dtype, renamed by a table, see [`rename`], and give
    the place of each, `UNUSED` where it has none. Buffers but running statistics are not needed: the fixed
    sinc bank stays that of the config, and counters of batches that the checkpoint lacks stay 0. A
    `ValueError` names two tensors that have one place, or all that are missing, unknown or misshapen.
    """
    own = model.state_dict()
    sources = {SINC_BANK: "the config"} if SINC_BANK in own else {}
    places = {name: rename(name, table) for name in tensors}
    misfits = []
    for name, place in places.items():
        if place is UNUSED:
            continue
        if place in sources:
            raise ValueError(f"{where}: both {sources[place]} and {name} give the network's {place}.")
        sources[place] = name
        if place not in own:
            misfits.append(f"{name} {tuple(tensors[name].shape)}: the network has no {place}")
        elif tensors[name].shape != own[place].shape:
            shapes = tuple(tensors[name].shape), tuple(own[place].shape)
            misfits.append(f"{name} {shapes[0]}: the network's {place} is {shapes[1]}")
    buffers = {name for name, _ in model.named_buffers() if not name.endswith(RUNNING_STATISTICS)}
    for place in (place for place in own if place not in buffers.union(sources)):
        theirs = (name for name, ours in table.items() if ours and f"{place}.".startswith(f"{ours}."))
        called = "".join(f", where it is of {name}" for name in theirs)
        misfits.append(f"{place} {tuple(own[place].shape)}: not in the checkpoint{called}")
    if misfits:
        raise ValueError("\n  ".join([f"{where} does not fit the network:", *misfits]))
    model.load_state_dict({**own, **{place: tensors[name] for name, place in places.items() if place}})
    return places


def choose_recipe(system: str | None, checkpoint: Path, *model_types: str) -> Recipe:
    """
    Load the recipe of a system, by its name or the path of a YAML; without one, of the system whose published
    file the checkpoint is. ValueError: it is none's, or the architecture is none of `model_types`.
    """
    recipe = load_recipe(find_recipe(system)[0]) if system else find_published(hash_file(checkpoint))
    if recipe is None:
        recipes = [load_recipe(find_recipe(name)[0]) for name in list_systems()]
        systems = [recipe.system for recipe in recipes if recipe.model["model_type"] in model_types]
        raise ValueError(
            f"{checkpoint} is no file that is known by its SHA-256. Say by --system what it was trained as: "
            f"{', '.join(systems)}, or a copy of one of their YAMLs with the settings changed."
        )
    if (found := recipe.model.get("model_type")) not in model_types:
        raise ValueError(f"{recipe.system} is a {found}, not {' or '.join(model_types)}.")
    return recipe


@dataclass(frozen=True)
class StateDictConverter:
    """
    Converts state dicts of published code into models of one architecture.

    Attributes:
        name: X of the module `convert_X_checkpoint`.
        model_type: of the architecture.
        make_table: makes the rename table of a config; see [`rename`].
    """

    name: str
    model_type: str
    make_table: Callable[[PreTrainedConfig], Mapping[str, str | None]]

    def convert(
        self, checkpoint: Path, output_dir: Path, system: str | None = None
    ) -> tuple[PreTrainedModel, dict]:
        """Write a model's folder with the weights of a checkpoint: the model, and what `conversion.json`
        says. All settings are those of `system`; see [`choose_recipe`]."""
        recipe = choose_recipe(system, checkpoint, self.model_type)
        model, tensors = new_model(recipe), read_checkpoint(checkpoint)
        where = f"{checkpoint}, as {recipe.system},"
        places = load_renamed(model, tensors, self.make_table(model.config), where=where)
        return model, write_converted(model, output_dir, recipe, checkpoint, self.name, places)

    def run(self, description: str, arguments: list[str] | None) -> None:
        """Convert with the arguments of the command line or those given."""
        run_converter(self.convert, make_parser(description), arguments)


def new_model(recipe: Recipe) -> PreTrainedModel:
    """Make the network of a recipe, in eval mode. ValueError: its last layer is not linear."""
    config = recipe.build_config()
    if config.loss in config.losses_of_cosines:  # of which the tensors have the same names and shapes
        raise ValueError(
            f"{recipe.system}: the loss {config.loss} takes a last layer of cosines, but the checkpoint has "
            "a linear one. Leave loss out; the converted model can be trained on with another."
        )
    return AutoModelForAudioClassification.from_config(config).eval()


def write_converted(
    model: PreTrainedModel,
    output_dir: Path,
    recipe: Recipe | None,
    checkpoint: Path,
    converter: str,
    places: Mapping[str, str | None],
    **more,
) -> dict:
    """
    Write a converted model's folder, which appears when it is complete: config, weights, code, feature
    extractor, `recipe.yaml`, `conversion.json`, whose content is returned, and the card. In a folder that
    exists, config.json comes last.

    Args:
        recipe: of the system, with the settings of this model; `None` where no system has them.
        converter: X of the module `convert_X_checkpoint`.
        places: of the checkpoint's tensors in the network, as [`load_renamed`] gives them.
        more: what else `conversion.json` is to say.
    """
    output_dir = output_dir.expanduser().resolve()
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"{output_dir} is not an empty folder. Name another --output_dir.")
    source = {"checkpoint": checkpoint.name, "sha256": hash_file(checkpoint)}
    card, extractor, changed = {}, {}, []
    if recipe is not None:
        card, extractor = recipe.card, recipe.feature_extractor
        published = find_published(source["sha256"])
        changed = find_changed_settings(recipe, published)
        if published and card.get("checkpoint_sha256") != source["sha256"]:
            raise ValueError(
                f"{checkpoint} is the published file of {published.system}, not of {recipe.system}. Leave "
                f"--system out, or name a changed copy of hub_cards/{published.system}.yaml by it."
            )
    record = {
        **source,
        "system": recipe and recipe.system,
        "converter": f"modeling.convert_{converter}_checkpoint",
        "unused": sorted(name for name, place in places.items() if place is UNUSED),
        "key_map": {name: place for name, place in places.items() if place is not UNUSED},
        **more,
        "origin": describe_conversion(source, card, changed),
        "num_parameters": model.num_parameters(),
        "versions": describe_environment()["versions"],
    }
    place = output_dir if output_dir.is_dir() else output_dir.parent  # of one file system with the output
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place, prefix=".converting-") as temporary:
        folder = Path(temporary) / output_dir.name  # a card names its folder
        model.save_pretrained(folder)
        AntiSpoofingFeatureExtractor(
            num_samples=model.config.num_samples, sampling_rate=model.config.sampling_rate, **extractor
        ).save_pretrained(folder)
        if recipe is not None:
            text = yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, allow_unicode=True)
            (folder / RECIPE_NAME).write_text(text, encoding="utf-8")
        write_json(folder / CONVERSION_NAME, record)
        write_card(read_run(folder))
        move_model(folder, output_dir)
    return record


def make_parser(
    description: str,
    checkpoint: str = "the weights, a state dict that `torch.save` wrote",
    *,
    has_system: bool = True,
) -> argparse.ArgumentParser:
    """Make a parser of what converters take; `checkpoint` says what file this one takes. What the command
    line does not give is not among the parsed arguments."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help=checkpoint)
    parser.add_argument(
        "--output_dir", type=Path, required=True, metavar="DIR", help="a new or empty folder for the model"
    )
    if has_system:
        parser.add_argument("--system", help="what they were trained as, a system or a YAML file")
    return parser


def run_converter(
    convert: Callable[..., tuple[PreTrainedModel, dict]],
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
) -> None:
    """Run a converter with the arguments of the command line or those given, and say what was made."""
    args = parser.parse_args(arguments)
    try:
        model, record = convert(**vars(args))
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    system = record["system"] or model.config.model_type
    print(f"{args.output_dir}: {system} with {model.num_parameters():,} parameters")
    if record["origin"]["published"]:
        print(f"{args.checkpoint} is the file that the authors publish (compared by SHA-256).")
    else:
        print(f"Who trained {args.checkpoint} is not known: no system states its SHA-256.")
    if unused := name_unused(record):
        print(f"Not used: {', '.join(unused)}")
