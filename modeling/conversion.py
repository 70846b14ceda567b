"""What the converters of published checkpoints share: a checkpoint is read as tensors and nothing else, each
of its tensors finds exactly one place in the network, and what is written is a complete model's folder with
its card."""

import argparse
import dataclasses
import json
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory

import torch
import transformers
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForAudioClassification, PreTrainedModel
from transformers.utils import logging

from hub_cards.card import write_card
from hub_cards.recipe import RECIPE_NAME, Recipe, changed_settings
from hub_cards.run_folder import CONVERSION_NAME, read_run
from modeling import AntiSpoofingFeatureExtractor
from processing.files import hash_file, move_model
from processing.origin import describe_conversion


logger = logging.get_logger(__name__)
LISTED = 10  # names of tensors that an error lists of each kind of problem
# Keys under which training scripts keep the weights beside other things.
WRAPPERS = ("state_dict", "model_state_dict", "model")
PARALLEL_PREFIX = "module."  # of `nn.DataParallel`
SINC_BANK = "sinc.filters"  # computed from the config
COUNTER = ".num_batches_tracked"  # of a batch normalisation, which does not use it
UNUSED = None  # in a key map: the network has no use for the tensor


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """
    The tensors of a checkpoint by name, on the CPU: a state dict, alone or beside other things under one of
    `WRAPPERS`, saved by `torch.save` or as safetensors; the prefix of `nn.DataParallel` is taken off.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file that can't be read or is damaged, that holds more than tensors and plain values
            (nothing of it is run), two sets of weights, no state dict, or a tensor that is no weights: of
            integers (but scalar counters), sparse, or with NaN or infinity.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: --checkpoint names the weights to convert.")
    content = _weights_in(_load(path), path)
    if not isinstance(content, Mapping) or not content:
        found = "an empty one" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{path} must hold a state dict, tensors by name, but holds {found}.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{path} must hold a state dict, tensors by name, but its entry {name!r} is a "
                f"{type(value).__name__}."
            )
        if problem := _problem_of_tensor(value):
            raise ValueError(f"{path}: {name!r} {problem}.")
    prefix = PARALLEL_PREFIX if all(name.startswith(PARALLEL_PREFIX) for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _load(path: Path) -> object:
    """What a file holds. Of a zip, which `torch.save` writes, `torch.load` leaves the checksums unread."""
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if part := archive.testzip():
                    raise zipfile.BadZipFile(f"the checksum of {part} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        reason = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{path} can't be read as tensors: it is damaged, no checkpoint, or holds objects that only run "
            f"code can make{f' ({reason[1]})' if reason else ''}. Nothing of it was run. Where its origin is "
            "trusted, load it there where it was made and save its state dict alone."
        ) from None
    except Exception as error:  # a damaged file makes the readers raise almost anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{path} can't be read: it is damaged, or no file of torch.save or safetensors ({reason})."
        ) from None


def _weights_in(content: object, path: Path) -> object:
    """
    The weights in what a training script saved, under one of `WRAPPERS`, or within several; what is beside
    them is named in a warning.

    Raises:
        ValueError: two of them hold tensors.
    """
    while isinstance(content, Mapping):
        wrapped = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        of_tensors = [
            name
            for name in wrapped
            if any(isinstance(value, torch.Tensor) for value in content[name].values())
        ]
        if len(of_tensors) > 1:
            raise ValueError(
                f"{path} holds weights under {' and '.join(map(repr, of_tensors))}. Save those alone that "
                "are to be converted."
            )
        if not wrapped:
            break
        chosen = (of_tensors or wrapped)[0]
        if others := [str(name) for name in content if name != chosen]:
            logger.warning("%s: %s is read, and nothing else of it: %s", path, chosen, _listed(others))
        content = content[chosen]
    return content


def _problem_of_tensor(tensor: torch.Tensor) -> str | None:
    """What keeps a tensor from being weights, or a counter of batches, that float32 can hold."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return f"is no plain tensor ({tensor.layout}, {tensor.dtype}, {tensor.device})"
    is_counter = tensor.dtype in (torch.int32, torch.int64) and not tensor.ndim
    if not tensor.is_floating_point() and not is_counter:
        return f"has the type {tensor.dtype}; weights are floating-point numbers"
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        return "claims to be larger than what the file holds of it"
    if not tensor.float().isfinite().all():
        return "holds NaN, infinity or a number too large for float32"
    return None


def place_tensors(
    tensors: Mapping[str, torch.Tensor],
    network: Mapping[str, torch.Tensor],
    key_map: Mapping[str, str | None],
    *,
    where: str,
) -> dict[str, torch.Tensor]:
    """
    The tensors of a checkpoint by their places in a network: each has one, and each place is filled once.

    Args:
        tensors: of the checkpoint, by their names there.
        network: state dict with the shapes of all places that are to be filled.
        key_map: place of each tensor by its name in the checkpoint; `UNUSED` for those without one.
        where: the checkpoint, for the error.

    Raises:
        ValueError: all that does not fit: tensors that are not in the checkpoint, have no or the same place,
            or another shape, and places that stay empty.
    """
    places = {name: key_map[name] for name in tensors if key_map.get(name, UNUSED) is not UNUSED}
    counts = Counter(place for place in key_map.values() if place is not UNUSED)
    shapes = {place: tuple(network[place].shape) for place in counts if place in network}
    problems = {
        "not in the checkpoint": [name for name in key_map if name not in tensors],
        "without a place in the network": [name for name in tensors if name not in key_map],
        "given to a place that the network does not have": [
            f"{name} (to {place})" for name, place in key_map.items() if place and place not in network
        ],
        "given to a place that another tensor has": [
            f"{name} (to {place})" for name, place in key_map.items() if place and counts[place] > 1
        ],
        "of another shape than their place": [
            f"{name} {tuple(tensors[name].shape)} (to {place} {shapes[place]})"
            for name, place in places.items()
            if place in shapes and tuple(tensors[name].shape) != shapes[place]
        ],
        "places of the network that stay empty": [place for place in network if place not in counts],
    }
    if any(problems.values()):
        lines = [f"{what} ({len(names):,}): {_listed(names)}" for what, names in problems.items() if names]
        raise ValueError(f"{where} does not fit the network.\n  " + "\n  ".join(lines))
    return {place: tensors[name] for name, place in places.items()}


def names_of_places(modules: Mapping[str, str], places: Iterable[str]) -> dict[str, str]:
    """
    The key map, see [`place_tensors`], of modules that are called otherwise in a checkpoint but have the same
    tensors.

    Args:
        modules: name here of each module, or tensor, by its name in the checkpoint.
        places: names of the network's tensors, of which those outside of all modules are left out.
    """
    key_map = {}
    for place in places:
        for theirs, ours in modules.items():
            if place == ours or place.startswith(f"{ours}."):
                key_map[theirs + place.removeprefix(ours)] = place
    return key_map


def load_tensors(
    model: PreTrainedModel, placed: Mapping[str, torch.Tensor], *, fixed: Collection[str] = ()
) -> None:
    """
    Load placed tensors into a network, in its own dtype. `fixed` names what the network computes itself.

    Raises:
        ValueError: a place that stays empty, or is not there.
    """
    report = model.load_state_dict(dict(placed), strict=False)
    if report.unexpected_keys or set(report.missing_keys) != set(fixed):
        raise ValueError(
            f"The network has no place for {report.unexpected_keys}, lacks {report.missing_keys}."
        )


def load_published(
    model: PreTrainedModel,
    recipe: Recipe,
    tensors: Mapping[str, torch.Tensor],
    modules: Mapping[str, str],
    *,
    where: str,
) -> list[str]:
    """
    Load weights of the published code of AASIST or RawNet2, whose blocks hold a batch normalisation before
    their first convolution whether they use it or not.

    Args:
        model: of the recipe.
        recipe: with the settings of this model.
        tensors: of the checkpoint.
        modules: see [`names_of_places`].
        where: the checkpoint, for the error.

    Returns:
        Names of the tensors that the network does not use.

    Raises:
        ValueError: see [`place_tensors`].
    """
    with_all = new_model(dataclasses.replace(recipe, model={**recipe.model, "pre_activation": True}))
    network = {name: tensor for name, tensor in with_all.state_dict().items() if name != SINC_BANK}
    key_map = names_of_places(modules, network)
    # Where the checkpoint lacks them, those of a new network.
    counters = {name: network[place] for name, place in key_map.items() if name.endswith(COUNTER)}
    placed = place_tensors({**counters, **tensors}, network, key_map, where=where)
    used = model.state_dict().keys()
    load_tensors(model, {place: t for place, t in placed.items() if place in used}, fixed=[SINC_BANK])
    return [name for name, place in key_map.items() if place not in used and name in tensors]


def new_model(recipe: Recipe) -> PreTrainedModel:
    """
    The network of a recipe, in eval mode.

    Raises:
        ValueError: settings that are not valid.
    """
    return AutoModelForAudioClassification.from_config(recipe.build_config()).eval()


def write_converted(model: PreTrainedModel, output_dir: Path, recipe: Recipe | None, record: Mapping) -> None:
    """
    Write a converted model's folder, which appears when it is complete: config, weights, code, feature
    extractor, `recipe.yaml`, `conversion.json` and the card. In a folder that exists, config.json comes last.

    Args:
        model: with its weights.
        output_dir: a new or empty folder.
        recipe: of its system, with the settings of this model; `None` where no system has them.
        record: of [`describe_checkpoint`], and what else is to be known of the conversion.

    Raises:
        FileExistsError: there is something in the output folder.
    """
    check_output_dir(output_dir)
    output_dir = output_dir.expanduser().resolve()
    place = output_dir if output_dir.is_dir() else output_dir.parent  # of one file system with the output
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place, prefix=".converting-") as temporary:
        folder = Path(temporary) / output_dir.name  # a card names its folder
        model.save_pretrained(folder)
        settings = {} if recipe is None else recipe.feature_extractor
        AntiSpoofingFeatureExtractor(
            num_samples=model.config.num_samples, sampling_rate=model.config.sampling_rate, **settings
        ).save_pretrained(folder)
        if recipe is not None:
            text = yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, allow_unicode=True)
            (folder / RECIPE_NAME).write_text(text, encoding="utf-8")
        card = {} if recipe is None else recipe.card
        changed = [] if recipe is None else changed_settings(recipe, record["sha256"])
        record = {
            **record,
            "origin": describe_conversion(record, card, changed),
            "num_parameters": model.num_parameters(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        (folder / CONVERSION_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        write_card(read_run(folder))
        move_model(folder, output_dir)


def check_output_dir(output_dir: Path) -> None:
    """
    Raises:
        FileExistsError: it is no folder, or there is something in it.
    """
    output_dir = output_dir.expanduser()
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"{output_dir} is not an empty folder. Name another --output_dir.")


def describe_checkpoint(path: Path, converter: str, unused: Collection[str] = ()) -> dict:
    """
    What `conversion.json` says of where the weights come from.

    Args:
        path: of the checkpoint, of which only the name is kept.
        converter: the module that converts it.
        unused: names of its tensors that the network has no use for.
    """
    return {
        "checkpoint": path.name,
        "sha256": hash_file(path),
        "converter": converter,
        "unused": sorted(unused),
    }


def converter_parser(description: str, checkpoint: str) -> argparse.ArgumentParser:
    """The arguments that every converter has; `checkpoint` says what file it takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help=checkpoint)
    parser.add_argument(
        "--output_dir", type=Path, required=True, metavar="DIR", help="a new or empty folder for the model"
    )
    return parser


def _listed(names: Collection[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest
