"""What the converters of published checkpoints share: a checkpoint is read as tensors and nothing else, its
tensors are renamed and loaded strictly, and what is written is a complete model's folder with its card."""

import argparse
import dataclasses
import json
import re
import zipfile
from collections.abc import Collection, Mapping
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
from hub_cards.recipe import RECIPE_NAME, Recipe, find_changed_settings
from hub_cards.run_folder import CONVERSION_NAME, read_run
from modeling import AntiSpoofingFeatureExtractor
from processing.files import hash_file, move_model
from processing.origin import describe_conversion

from .configuration_sinc import SincFrontEndConfig


logger = logging.get_logger(__name__)
# Keys under which training scripts keep the weights beside other things.
WRAPPERS = ("state_dict", "model_state_dict", "model")
PARALLEL_PREFIX = "module."  # of `nn.DataParallel`
SINC_BANK = "sinc.filters"  # computed from the config
COUNTER = ".num_batches_tracked"  # of a batch normalisation, which does not use it
UNUSED = None  # in a rename table: the network has no use for the tensor
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
    Read the tensors of a checkpoint by name, on the CPU: a state dict, alone or beside other things under
    one of `WRAPPERS`, saved by `torch.save` or as safetensors, without the prefix of `nn.DataParallel`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file that is damaged or holds more than tensors and plain values (nothing of it is run),
            no state dict, two of them, or a tensor that is no weights: of integers (but scalar counters),
            sparse, or with NaN or infinity.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: --checkpoint names the weights to convert.")
    content = _unwrap(_load(path), path)
    if not isinstance(content, Mapping) or not content:
        found = "an empty one" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{path} must hold a state dict, tensors by name, but holds {found}.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{path} must hold a state dict, tensors by name, but its entry {name!r} is a "
                f"{type(value).__name__}."
            )
        is_counter = value.dtype in (torch.int32, torch.int64) and not value.ndim
        if value.layout != torch.strided or not (value.is_floating_point() or is_counter):
            raise ValueError(
                f"{path}: {name!r} is no plain tensor of floating-point numbers, but {value.layout} of "
                f"{value.dtype}."
            )
        if value.is_meta or value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ValueError(f"{path}: {name!r} claims to be larger than what the file holds of it.")
        if not value.float().isfinite().all():
            raise ValueError(f"{path}: {name!r} holds NaN, infinity or a number too large for float32.")
    prefix = PARALLEL_PREFIX if all(name.startswith(PARALLEL_PREFIX) for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _load(path: Path) -> object:
    """Read a file. Of a zip, which `torch.save` writes, `torch.load` leaves the checksums unread."""
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


def _unwrap(content: object, path: Path) -> object:
    """Find the weights, which may lie under several of `WRAPPERS`, in what a training script saved."""
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
            logger.warning("%s: %s is read, and nothing else of it: %s", path, chosen, ", ".join(others))
        content = content[chosen]
    return content


def rename(name: str, table: Mapping[str, str | None]) -> str | None:
    """
    Rename a tensor by a table of names or prefixes, of which the longest counts; a prefix ends at a dot. A
    name that the table does not have stays as it is.

    Returns:
        The name in the network, or `UNUSED`.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in table:
            return UNUSED if table[prefix] is UNUSED else table[prefix] + name.removeprefix(prefix)
    return name


def make_block_table(config: SincFrontEndConfig, prefix: str) -> dict[str, str | None]:
    """Make the rename table of all residual blocks, whose number and `.0` come after `prefix` there."""
    table = {}
    for i in range(len(config.block_channels)):
        table |= {f"{prefix}{i}.0.{theirs}": f"blocks.{i}.{ours}" for theirs, ours in RESIDUAL_BLOCK.items()}
        if i > 0 and not config.pre_activation:  # there whether it is used or not
            table[f"{prefix}{i}.0.bn1"] = UNUSED
    return table


def load_renamed(
    model: PreTrainedModel,
    tensors: Mapping[str, torch.Tensor],
    table: Mapping[str, str | None],
    *,
    where: str,
) -> list[str]:
    """
    Load a checkpoint's tensors into a network, in its own dtype. The fixed sinc bank stays that of the
    config, and counters of batches that the checkpoint lacks stay those of a new network.

    Args:
        model: the network.
        tensors: of the checkpoint, by their names there.
        table: see [`rename`].
        where: the checkpoint, for the error.

    Returns:
        Names of the tensors that the network has no use for.

    Raises:
        ValueError: two tensors have one place; or tensors are missing, unknown or of another shape, all of
            which are named.
    """
    own = model.state_dict()
    state = {name: tensor for name, tensor in own.items() if name == SINC_BANK}
    sources = dict.fromkeys(state, "the config")
    unused = []
    for name, tensor in tensors.items():
        place = rename(name, table)
        if place is UNUSED:
            unused.append(name)
        elif place in state:
            raise ValueError(f"{where}: both {sources[place]} and {name} give the network's {place}.")
        else:
            state[place], sources[place] = tensor, name
    counters = {name: tensor for name, tensor in own.items() if name.endswith(COUNTER)}
    try:
        model.load_state_dict(counters | state)
    except RuntimeError as error:
        theirs = [
            f"\n\t{ours} is called {name} in the checkpoint."
            for name, ours in table.items()
            if ours not in (UNUSED, name) and re.search(rf"(?<![\w.]){re.escape(ours)}(?!\w)", str(error))
        ]
        raise ValueError(f"{where} does not fit the network. {error}{''.join(theirs)}") from None
    return unused


def new_model(recipe: Recipe) -> PreTrainedModel:
    """
    Make the network of a recipe, in eval mode.

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
        changed = [] if recipe is None else find_changed_settings(recipe, record["sha256"])
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
    Describe where the weights come from, for `conversion.json`.

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


def make_parser(description: str, checkpoint: str) -> argparse.ArgumentParser:
    """Make a parser of the arguments that all converters have; `checkpoint` says what file this one takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help=checkpoint)
    parser.add_argument(
        "--output_dir", type=Path, required=True, metavar="DIR", help="a new or empty folder for the model"
    )
    return parser
