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
in the key map, a file with two names a line, theirs and ours, with or without a colon. A name is that of a
tensor, or of a module and so of all tensors in it; of several that fit, the longest counts:

    head.0: backend.projector
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
from transformers import PreTrainedModel

from processing.near_names import suggest

from .conversion import (
    COUNTER,
    SINC_BANK,
    UNUSED,
    choose_recipe,
    load_renamed,
    new_model,
    read_checkpoint,
    rename,
    respell,
    write_converted,
)


MODEL_TYPES = ("rawnet2", "wav2vec2-antispoofing")
NO_PLACE = "-"  # in a key map
BANK_TOLERANCE = 1e-4  # of the largest tap
ENCODER = "encoder."
MASK = "masked_spec_embed"  # of the encoder


def read_key_map(path: Path) -> dict[str, str | None]:
    """Read a rename table, see [`~modeling.conversion.rename`], from lines `theirs: ours`, YAML, or
    `theirs ours`; a comma or an arrow between the names is allowed, too."""
    table = {}
    for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), start=1):
        names = re.sub(r"->|[,\"']|:(?=\s|$)", " ", line.split("#")[0]).split()
        if not names:
            continue
        if len(names) != 2:
            raise ValueError(f"{path}:{number}: expected two names, `theirs: ours`, found {len(names)}.")
        theirs, ours = names
        if theirs in table:
            raise ValueError(f"{path}:{number}: {theirs} has a line already.")
        table[theirs] = UNUSED if ours == NO_PLACE else ours
    return table


def recognize_encoder(names: Iterable[str], places: Iterable[str], where: Path) -> dict[str, str | None]:
    """Make the rename table of the encoder whose own names most of the checkpoint's names end in; a
    `ValueError` if all of its names are there under several prefixes."""
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


def find_places(
    tensors: Mapping[str, torch.Tensor], model: PreTrainedModel, key_map: Path | None, where: Path
) -> dict[str, str | None]:
    """Rename each tensor of a checkpoint, also where the network has no such place; a `ValueError` if the key
    map has names that are not in the checkpoint."""
    table = {} if key_map is None else read_key_map(key_map)
    others, unknown = set(tensors), []
    for theirs in table:
        found = {name for name in tensors if f"{name}.".startswith(f"{theirs}.")}
        others -= found
        if not found:
            unknown.append(f"{key_map}: {theirs} is not in the checkpoint{suggest(theirs, tensors)}.")
    if unknown:
        raise ValueError("\n".join(unknown))
    table = recognize_encoder(sorted(others), model.state_dict(), where) | table
    return {name: rename(name, table) for name in tensors}


def convert(
    checkpoint: Path, output_dir: Path, system: str, key_map: Path | None = None
) -> tuple[PreTrainedModel, dict]:
    """Write a model's folder with the weights of a checkpoint: the model, and what `conversion.json` says. If
    tensors do not fit, the `ValueError` lists those without a place, and empty places."""
    recipe = choose_recipe(system, checkpoint, *MODEL_TYPES)
    tensors, model = read_checkpoint(checkpoint), new_model(recipe)
    places = find_places(tensors, model, key_map, checkpoint)
    if (bank := model.state_dict().get(SINC_BANK)) is not None:
        for name in [name for name, place in places.items() if place == SINC_BANK]:
            check_bank(tensors.pop(name), bank, f"{checkpoint}: {name}", system)
    try:
        places = load_renamed(model, tensors, places, where=checkpoint)
    except ValueError as error:
        unmatched = list_names(tensors, places, model, whole=False)
        raise ValueError(f"{error}\nThe key map must have what is left:\n{unmatched}") from None
    return model, write_converted(model, output_dir, recipe, checkpoint, "study", places)


def check_bank(theirs: torch.Tensor, ours: torch.Tensor, where: str, system: str) -> None:
    """Raise a `ValueError` if the checkpoint's bank is not that of the config."""
    theirs = theirs[:, None] if theirs.ndim == 2 else theirs  # (filters, 1, taps)
    if theirs.shape != ours.shape or (theirs - ours).abs().max() > BANK_TOLERANCE * ours.abs().max():
        raise ValueError(
            f"{where} {tuple(theirs.shape)} is not the sinc bank of {system}, {tuple(ours.shape)}: its "
            "settings are others. Copy the YAML, change sinc_max_frequency (or sinc_scale, or "
            "sinc_min_frequency) under `model:`, and name the file by --system."
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
    shown = {name: place if place in own else "?" for name, place in places.items()}
    shown |= {name: NO_PLACE for name, place in places.items() if place is UNUSED}
    sources = {place: "none needed" for place in own if place == SINC_BANK or place.endswith(COUNTER)}
    sources |= {place: name for name, place in places.items()}
    theirs = [f"  {name} {tuple(tensor.shape)} -> {shown[name]}" for name, tensor in tensors.items()]
    ours = [f"  {name} {tuple(tensor.shape)} <- {sources.get(name, '?')}" for name, tensor in own.items()]
    unplaced, empty = ([line for line in lines if line.endswith("?")] for lines in (theirs, ours))
    head = f"Tensors of the checkpoint: {len(theirs):,}, without a place {len(unplaced):,}"
    middle = f"Places of the network: {len(ours):,}, that need a tensor {len(empty):,}"
    return "\n".join([head, *(theirs if whole else unplaced), middle, *(ours if whole else empty)])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="the study's best.pt")
    systems = "rawnet2, rawnet2-plateau, wav2vec2, wav2vec2-v2-unfrozen, or a YAML file"
    parser.add_argument("--system", required=True, help=systems)
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
            model = new_model(choose_recipe(args.system, args.checkpoint, *MODEL_TYPES))
            tensors = read_checkpoint(args.checkpoint)
            places = find_places(tensors, model, args.key_map, args.checkpoint)
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
