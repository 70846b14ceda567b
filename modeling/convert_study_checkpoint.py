"""Convert weights of the comparative study, a `best.pt` of its RawNet2 or wav2vec 2.0
(huggingface.co/caa-speech-detection-asvspoof2019), into a model of this project.

    python -m modeling.convert_study_checkpoint --system wav2vec2-v2-unfrozen --checkpoint best.pt --list
    python -m modeling.convert_study_checkpoint --system wav2vec2-v2-unfrozen --checkpoint best.pt \\
        --key_map names.txt --output_dir models/wav2vec2-study

The originals could not be tried: they were not at hand, and what their modules are called is not known. The
converter is tested on renamed copies of this project's networks. So hold what it writes against the error
rates that the study reports: nothing shows that two tensors of one shape were swapped.

The tensors of a wav2vec 2.0 encoder are found by their names in transformers, under any prefix and with
either spelling of weight norm. All others are in the key map, a text file with two names a line, theirs and
ours. A name is that of a tensor, or of a module and so of all tensors in it:

    # theirs            ours
    head.0              projector
    head.3              classifier
    criterion.weight    -             # no part of the network

Each tensor must have exactly one place and each place one tensor; `-` is for what has no effect on the
logits, and `->` between the names is passed over. Three kinds of places may stay empty: `sinc.filters`, a
fixed bank that is computed from the config (theirs, if the key map has it, is compared with it);
`encoder.masked_spec_embed`, which is not used; and `num_batches_tracked` of batch norms, which inference does
not use and which is 0 then.

All settings are those of --system, the order of the labels among them. What it does not state of the encoder
is as in transformers' Wav2Vec2Config(), which is wav2vec 2.0 base but for its dropout.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from hub_cards.recipe import Recipe, find_recipe, load_recipe, nearest

from .conversion import (
    COUNTER,
    SINC_BANK,
    UNUSED,
    check_output_dir,
    describe_checkpoint,
    load_tensors,
    new_model,
    place_tensors,
    read_checkpoint,
    write_converted,
)


SYSTEMS = ("rawnet2", "rawnet2-plateau", "wav2vec2", "wav2vec2-v2-unfrozen")
MODEL_TYPES = ("rawnet2", "wav2vec2-antispoofing")
NO_PLACE = "-"  # in a key map
BANK_TOLERANCE = 1e-4  # of the largest tap
ENCODER = "encoder."
MASK = ENCODER + "masked_spec_embed"
# Of torch's weight norm, as it was called before it became a parametrization.
WEIGHT_NORM = {"g": "parametrizations.weight.original0", "v": "parametrizations.weight.original1"}


@dataclass
class Match:
    """A checkpoint beside the network that it is for."""

    recipe: Recipe
    model: PreTrainedModel  # not yet with the checkpoint's weights
    tensors: dict[str, torch.Tensor]  # of the checkpoint, by their names there
    places: dict[str, torch.Tensor]  # of the network, by name; with `MASK` where there is an encoder
    claims: dict[str, str | None]  # place by name of each tensor that is recognised or in the key map

    @property
    def unplaced(self) -> list[str]:
        return [name for name in self.tensors if name not in self.claims]

    @property
    def empty(self) -> list[str]:
        """Places that have no tensor and need one."""
        filled = set(self.claims.values())
        return [place for place in self.places if place not in filled and not may_stay_empty(place)]


def may_stay_empty(place: str) -> bool:
    return place in (SINC_BANK, MASK) or place.endswith(COUNTER)


def read_key_map(path: Path) -> dict[str, tuple[int, str]]:
    """
    Number of the line and our name, by their name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line without two names, or a name that had a line before.
    """
    key_map = {}
    for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), start=1):
        names = [name for name in line.split("#")[0].replace(",", " ").split() if name != "->"]
        if not names:
            continue
        if len(names) != 2:
            raise ValueError(f"{path}:{number}: two names are expected, theirs and ours, not {len(names)}.")
        theirs, ours = names
        if theirs in key_map:
            raise ValueError(f"{path}:{number}: {theirs} has a line already, {key_map[theirs][0]}.")
        key_map[theirs] = number, ours
    return key_map


def claims_of_key_map(
    key_map: Mapping[str, tuple[int, str]], names: Iterable[str], places: Iterable[str], path: Path
) -> dict[str, str | None]:
    """
    Place of each tensor that the key map names, by its name in the checkpoint.

    Args:
        key_map: of [`read_key_map`].
        names: of the checkpoint's tensors.
        places: of the network.
        path: of the key map, for the error.

    Raises:
        ValueError: all lines with a name that is not in the checkpoint or not in the network, and tensors
            that two lines name.
    """
    parts = [place.split(".") for place in places]
    ours_known = {NO_PLACE, *(".".join(part[:i]) for part in parts for i in range(1, len(part) + 1))}
    claims, line_of, problems = {}, {}, []
    for theirs, (number, ours) in key_map.items():
        found = [theirs] if theirs in names else [name for name in names if name.startswith(f"{theirs}.")]
        if not found:
            problems.append(f"{path}:{number}: {theirs} is not in the checkpoint{nearest(theirs, names)}.")
        if ours not in ours_known:
            problems.append(f"{path}:{number}: {ours} is not in the network{nearest(ours, ours_known)}.")
        for name in found:
            if name in claims:
                problems.append(f"{path}:{number}: {name} is in line {line_of[name]} already.")
            place = respelled(ours + name.removeprefix(theirs))
            claims[name], line_of[name] = UNUSED if ours == NO_PLACE else place, number
    if problems:
        raise ValueError("\n".join(problems))
    return claims


def recognised(names: Iterable[str], places: Iterable[str], where: str) -> dict[str, str]:
    """
    Place of each tensor that has an encoder's own name after the prefix under which most of them are.

    Args:
        names: of the checkpoint's tensors, but those of the key map.
        places: of the network.
        where: the checkpoint, for the error.

    Raises:
        ValueError: all of the names are there under several prefixes.
    """
    places = {place for place in places if place.startswith(ENCODER)}
    under = defaultdict(dict)
    for name in names:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        for start in starts:
            if (place := ENCODER + respelled(name[start:])) in places:
                under[name[:start]][name] = place
    complete = [prefix for prefix, claims in under.items() if {*claims.values(), MASK} >= places]
    if len(complete) > 1:
        raise ValueError(
            f"{where} has whole encoders under {' and '.join(map(repr, complete))}. Leave out what has no "
            f"effect on the logits by a line of the key map, as '{max(complete).rstrip('.')} {NO_PLACE}'."
        )
    return max(under.values(), key=len, default={})


def respelled(name: str) -> str:
    """With weight norm's parametrization where it has the older spelling."""
    return re.sub(r"\bweight_([gv])$", lambda found: WEIGHT_NORM[found[1]], name)


def matched(checkpoint: Path, system: str, key_map: Path | None) -> Match:
    """
    Raises:
        FileNotFoundError: there is no checkpoint, system or key map.
        ValueError: what is not a state dict, a system of another kind, or what [`read_key_map`],
            [`claims_of_key_map`] and [`recognised`] raise.
    """
    recipe = load_recipe(find_recipe(system)[0])
    if recipe.model.get("model_type") not in MODEL_TYPES:
        raise ValueError(f"{system} is none of the architectures {' and '.join(MODEL_TYPES)}.")
    names = {} if key_map is None else read_key_map(key_map)
    tensors = read_checkpoint(checkpoint)
    model = new_model(recipe)
    places = dict(model.state_dict())
    if encoder := getattr(model.config, "encoder_config", None):
        places.setdefault(MASK, torch.empty(encoder.hidden_size))
    claims = claims_of_key_map(names, tensors, places, key_map)
    claims |= recognised([name for name in tensors if name not in claims], places, str(checkpoint))
    bank = next((name for name, place in claims.items() if place == SINC_BANK), None)
    if bank and tensors[bank].ndim == 2:
        tensors[bank] = tensors[bank][:, None]  # (filters, 1, taps)
    return Match(recipe, model, tensors, places, claims)


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
        FileNotFoundError, ValueError: see [`matched`], [`~modeling.conversion.place_tensors`] and
            [`check_bank`]; all tensors without a place, and places without a tensor, are listed.
        FileExistsError: there is something in the output folder.
    """
    check_output_dir(output_dir)
    found = matched(checkpoint, system, key_map)
    problems = []
    try:
        placed = place_tensors(
            {name: found.tensors[name] for name in found.claims},
            {place: found.places[place] for place in found.claims.values() if place in found.places},
            found.claims,
            where=str(checkpoint),
        )
    except ValueError as error:
        problems.append(str(error))
    if found.unplaced or found.empty:
        problems.append(f"{checkpoint} is not matched with {system} yet: --key_map must have the rest.")
        problems.append(listing(found, whole=False))
    if problems:
        raise ValueError("\n".join(problems))
    placed.pop(MASK, None)
    if SINC_BANK in placed:
        check_bank(placed.pop(SINC_BANK), found.places[SINC_BANK], system)
    own = {name: tensor for name, tensor in found.model.state_dict().items() if may_stay_empty(name)}
    load_tensors(found.model, own | placed)
    unused = [name for name, place in found.claims.items() if place in (UNUSED, MASK)]
    record = describe_checkpoint(checkpoint, "modeling.convert_study_checkpoint", unused)
    record["key_map"] = {name: place for name, place in found.claims.items() if name not in unused}
    write_converted(found.model, output_dir, found.recipe, record)
    return found.model, record


def check_bank(theirs: torch.Tensor, ours: torch.Tensor, system: str) -> None:
    """
    Raises:
        ValueError: another bank than that of the config.
    """
    difference = (theirs.double() - ours.double()).abs().max().item() / ours.abs().max().item()
    if difference > BANK_TOLERANCE:
        raise ValueError(
            f"The checkpoint's sinc bank differs from that of {system} by {difference:.2g} of the largest "
            "tap: its settings are others. Copy the YAML, change sinc_max_frequency (or sinc_scale, or "
            "sinc_min_frequency) under `model:`, and name the file by --system."
        )


def listing(found: Match, *, whole: bool) -> str:
    """Names and shapes of tensors and places, each with its counterpart: of all, or of those without one."""
    lines = [f"Tensors of the checkpoint: {len(found.tensors):,}, without a place {len(found.unplaced):,}"]
    for name in found.tensors if whole else found.unplaced:
        place = found.claims.get(name, "?")
        place = NO_PLACE if place in (UNUSED, MASK) else place
        lines.append(f"  {name} {tuple(found.tensors[name].shape)} -> {place}")
    names = {place: name for name, place in found.claims.items() if place != MASK}
    lines.append(f"Places of the network: {len(found.places):,}, that need a tensor {len(found.empty):,}")
    for place in found.places if whole else found.empty:
        name = names.get(place, "none needed" if may_stay_empty(place) else "?")
        lines.append(f"  {place} {tuple(found.places[place].shape)} <- {name}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="the study's best.pt")
    parser.add_argument("--system", required=True, help=f"{', '.join(SYSTEMS)}, or a YAML file")
    parser.add_argument("--key_map", type=Path, metavar="FILE", help="their and our names, see above")
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
            print(listing(matched(args.checkpoint, args.system, args.key_map), whole=True))
            return
        model, record = convert(args.checkpoint, args.output_dir, args.system, args.key_map)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{args.output_dir}: {args.system} with {model.num_parameters():,} parameters")
    if record["unused"]:
        print(f"Not used: {', '.join(record['unused'])}")


if __name__ == "__main__":
    main()
