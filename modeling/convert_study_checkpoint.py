"""Convert weights of the comparative study, a `best.pt` of its RawNet2 or wav2vec 2.0
(huggingface.co/caa-speech-detection-asvspoof2019), into a model of this project.

    python -m modeling.convert_study_checkpoint --system wav2vec2-v2-unfrozen --checkpoint best.pt --list
    python -m modeling.convert_study_checkpoint --system wav2vec2-v2-unfrozen --checkpoint best.pt \\
        --key_map names.yaml --output_dir models/wav2vec2-study

The originals could not be tried: they were not at hand, and what their modules are called is not known. The
converter is tested on renamed copies of this project's networks. So hold what it writes against the error
rates that the study reports: nothing shows that two tensors of one shape were swapped.

The tensors of a wav2vec 2.0 encoder are found by their names in transformers, under any prefix and with
either spelling of weight norm; what has the name that this project gives it is found as well. All others are
in the key map, a YAML file of their names and ours. A name is that of a tensor, or of a module and so of all
tensors in it; of several that fit, the longest counts:

    head.0: projector
    head.3: classifier
    criterion.weight: "-"     # no part of the network

Each tensor must have exactly one place and each place one tensor; "-" is for what has no effect on the
logits. Two kinds of places may stay empty: `sinc.filters`, a fixed bank that is computed from the config
(theirs, if the key map has it, is compared with it); and `num_batches_tracked` of batch norms, which
inference does not use and which is 0 then. An encoder's `masked_spec_embed` is not used.

All settings are those of --system, the order of the labels among them. What it does not state of the encoder
is as in transformers' Wav2Vec2Config(), which is wav2vec 2.0 base but for its dropout.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedModel

from hub_cards.recipe import Recipe, find_recipe, load_recipe, suggest

from .conversion import (
    COUNTER,
    SINC_BANK,
    UNUSED,
    check_output_dir,
    describe_checkpoint,
    load_renamed,
    new_model,
    read_checkpoint,
    rename,
    write_converted,
)


SYSTEMS = ("rawnet2", "rawnet2-plateau", "wav2vec2", "wav2vec2-v2-unfrozen")
MODEL_TYPES = ("rawnet2", "wav2vec2-antispoofing")
NO_PLACE = "-"  # in a key map
BANK_TOLERANCE = 1e-4  # of the largest tap
ENCODER = "encoder."
MASK = "masked_spec_embed"  # of the encoder
# Of torch's weight norm, as it was called before it became a parametrization.
WEIGHT_NORM = {"g": "parametrizations.weight.original0", "v": "parametrizations.weight.original1"}


def read_key_map(path: Path) -> dict[str, str | None]:
    """
    Read the rename table, see [`~modeling.conversion.rename`], that a YAML file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no mapping of names to names, or a name that is there twice.
    """
    try:  # composed only, since a loader would take the last of two equal names, and `1` for a number
        node = yaml.compose(path.read_text("utf-8-sig", errors="replace"), yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(None, None)]
    if not all(isinstance(name, yaml.ScalarNode) and name.value for pair in pairs for name in pair):
        raise ValueError(
            f'{path} must have lines `theirs: ours` of two names, as `head.0: projector`, or `theirs: "-"`.'
        )
    counts = Counter(theirs.value for theirs, _ in pairs)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"{path}: {', '.join(twice)} is there more than once.")
    return {theirs.value: UNUSED if ours.value == NO_PLACE else ours.value for theirs, ours in pairs}


def recognize_encoder(names: Iterable[str], places: Iterable[str], where: str) -> dict[str, str | None]:
    """
    Make the rename table of the encoder whose own names most of the names end in.

    Args:
        names: of the checkpoint's tensors, but those of the key map.
        places: of the network.
        where: the checkpoint, for the error.

    Raises:
        ValueError: all of an encoder's names are there under several prefixes.
    """
    own = [place.removeprefix(ENCODER) for place in places if place.startswith(ENCODER)]
    counts = Counter(
        name.removesuffix(part)
        for name in map(respell, names)
        for part in own
        if f".{name}".endswith(f".{part}")
    )
    complete = [prefix for prefix, count in counts.items() if count == len(own)]
    if len(complete) > 1:
        raise ValueError(
            f"{where} has whole encoders under {' and '.join(map(repr, complete))}. Leave out what has no "
            f'effect on the logits by a line of the key map, as `{max(complete).rstrip(".")}: "{NO_PLACE}"`.'
        )
    if not counts:
        return {}
    prefix = counts.most_common(1)[0][0]
    modules = {part.split(".")[0] for part in own}
    return {prefix + MASK: UNUSED, **{prefix + module: ENCODER + module for module in modules}}


def respell(name: str) -> str:
    """Give weight norm's parametrization its name where a name has the older spelling."""
    return re.sub(r"\bweight_([gv])$", lambda found: WEIGHT_NORM[found[1]], name)


def match(
    checkpoint: Path, system: str, key_map: Path | None
) -> tuple[Recipe, PreTrainedModel, dict[str, torch.Tensor], dict[str, str | None]]:
    """
    Read a checkpoint and rename its tensors.

    Returns:
        The recipe of the system, its network, the checkpoint's tensors by their names there, and what each of
        these is renamed to, also where the network has no such place.

    Raises:
        FileNotFoundError: there is no checkpoint, system or key map.
        ValueError: a system of another kind, a name of the key map that is not in the checkpoint, or what
            [`~modeling.conversion.read_checkpoint`], [`read_key_map`] and [`recognize_encoder`] raise.
    """
    recipe = load_recipe(find_recipe(system)[0])
    if recipe.model.get("model_type") not in MODEL_TYPES:
        raise ValueError(f"{system} is none of the architectures {' and '.join(MODEL_TYPES)}.")
    table = {} if key_map is None else read_key_map(key_map)
    tensors = read_checkpoint(checkpoint)
    model = new_model(recipe)
    named = {theirs: [n for n in tensors if f"{n}.".startswith(f"{theirs}.")] for theirs in table}
    if unknown := [theirs for theirs, found in named.items() if not found]:
        raise ValueError(
            "\n".join(
                f"{key_map}: {name} is not in the checkpoint{suggest(name, tensors)}." for name in unknown
            )
        )
    others = tensors.keys() - set().union(*named.values())
    table = recognize_encoder(sorted(others), model.state_dict(), str(checkpoint)) | table
    places = {name: rename(name, table) for name in tensors}
    return recipe, model, tensors, {name: place and respell(place) for name, place in places.items()}


def convert(
    checkpoint: Path, output_dir: Path, system: str, key_map: Path | None = None
) -> tuple[PreTrainedModel, dict]:
    """
    Write the folder of a model with the weights of a checkpoint.

    Args:
        checkpoint: the study's state dict.
        output_dir: a new or empty folder.
        system: name of a system or path of a YAML.
        key_map: file with their and our names of what is not recognised.

    Returns:
        The model, and what [`~modeling.conversion.describe_checkpoint`] says.

    Raises:
        FileNotFoundError, ValueError: see [`match`], [`check_bank`] and
            [`~modeling.conversion.load_renamed`]; all tensors without a place, and places without a tensor,
            are listed.
        FileExistsError: there is something in the output folder.
    """
    check_output_dir(output_dir)
    recipe, model, tensors, places = match(checkpoint, system, key_map)
    bank = next((name for name, place in places.items() if place == SINC_BANK), None)
    if bank is not None:
        check_bank(tensors[bank], model.state_dict()[SINC_BANK], f"{checkpoint}: {bank}", system)
    weights = {name: tensor for name, tensor in tensors.items() if name != bank}
    try:
        unused = load_renamed(model, weights, places, where=str(checkpoint))
    except ValueError as error:
        unmatched = list_names(tensors, places, model, whole=False)
        raise ValueError(f"{error}\nThe key map must have what is left:\n{unmatched}") from None
    record = describe_checkpoint(checkpoint, "modeling.convert_study_checkpoint", unused)
    record["key_map"] = {name: place for name, place in places.items() if place is not UNUSED}
    write_converted(model, output_dir, recipe, record)
    return model, record


def check_bank(theirs: torch.Tensor, ours: torch.Tensor, where: str, system: str) -> None:
    """
    Raises:
        ValueError: another bank than that of the config.
    """
    theirs = theirs[:, None] if theirs.ndim == 2 else theirs  # (filters, 1, taps)
    if theirs.shape != ours.shape:
        raise ValueError(f"{where} {tuple(theirs.shape)} is not the bank of {system}, {tuple(ours.shape)}.")
    difference = (theirs.double() - ours.double()).abs().max().item() / ours.abs().max().item()
    if difference > BANK_TOLERANCE:
        raise ValueError(
            f"{where}, the checkpoint's sinc bank, differs from that of {system} by {difference:.2g} of the "
            "largest tap: its settings are others. Copy the YAML, change sinc_max_frequency (or sinc_scale, "
            "or sinc_min_frequency) under `model:`, and name the file by --system."
        )


def list_names(
    tensors: Mapping[str, torch.Tensor],
    places: Mapping[str, str | None],
    model: PreTrainedModel,
    *,
    whole: bool,
) -> str:
    """List the tensors of checkpoint and network by name and shape, each with its counterpart, ? where it
    lacks one: all of them, or only those that lack one."""
    own = model.state_dict()
    names = {place: name for name, place in places.items()}
    names = {n: "none needed" for n in own if n == SINC_BANK or n.endswith(COUNTER)} | names
    shown = {name: place if place in own else "?" for name, place in places.items()}
    shown |= {name: NO_PLACE for name, place in places.items() if place is UNUSED}
    theirs = [f"  {name} {tuple(tensor.shape)} -> {shown[name]}" for name, tensor in tensors.items()]
    ours = [f"  {name} {tuple(tensor.shape)} <- {names.get(name, '?')}" for name, tensor in own.items()]
    unplaced, empty = ([line for line in lines if line.endswith("?")] for lines in (theirs, ours))
    return "\n".join(
        [
            f"Tensors of the checkpoint: {len(theirs):,}, without a place {len(unplaced):,}",
            *(theirs if whole else unplaced),
            f"Places of the network: {len(ours):,}, that need a tensor {len(empty):,}",
            *(ours if whole else empty),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="the study's best.pt")
    parser.add_argument("--system", required=True, help=f"{', '.join(SYSTEMS)}, or a YAML file")
    parser.add_argument("--key_map", type=Path, metavar="FILE", help="YAML of their and our names, see above")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output_dir", type=Path, metavar="DIR", help="a new or empty folder for the model")
    what.add_argument(
        "--list",
        action="store_true",
        help="write nothing, but list the checkpoint's tensors and the network's places by name and shape, "
        "with what is recognised or in the key map so far; ? marks what it lacks",
    )
    args = parser.parse_args(arguments)
    try:
        if args.list:
            _, model, tensors, places = match(args.checkpoint, args.system, args.key_map)
            print(list_names(tensors, places, model, whole=True))
            return
        model, record = convert(args.checkpoint, args.output_dir, args.system, args.key_map)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{args.output_dir}: {args.system} with {model.num_parameters():,} parameters")
    if record["unused"]:
        print(f"Not used: {', '.join(record['unused'])}")


if __name__ == "__main__":
    main()
