"""Convert weights of the comparative study, a `best.pt` of its RawNet2 or wav2vec 2.0
(huggingface.co/caa-speech-detection-asvspoof2019), into a model of this project.

    python -m modeling.convert_study_checkpoint --system wav2vec2-v2-unfrozen --checkpoint best.pt \\
        --key_map names.yaml --output_dir models/wav2vec2-study

The originals could not be tried: they were not at hand, and what their modules are called is not known. The
converter is tested on renamed copies of this project's networks. So hold what it writes against the error
rates that the study reports: nothing shows that two tensors of one shape were swapped.

The tensors of a wav2vec 2.0 encoder are found by their names in transformers, under any prefix and with
either spelling of weight norm; what has the name that this project gives it is found as well. All others are
in the key map, a YAML of two names a line, theirs and ours. A name is that of a tensor, or of a module and
so of all tensors in it; of several that fit, the longest counts:

    head.0: backend.projector
    head.3: classifier
    criterion.weight: "-"     # no part of the network

Each tensor must have exactly one place and each place one tensor; "-" is for what has no effect on the
logits. What the key map lacks is listed with its shape: begin without one. Two kinds of places may stay
empty: `sinc.filters`, a fixed bank that is computed from the config (theirs, if the key map has it, is
compared with it); and `num_batches_tracked` of batch norms, which inference does not use and which is 0 then.
An encoder's `masked_spec_embed` is not used.

All settings are those of --system, the order of the labels among them. What it does not state of the encoder
is as in transformers' Wav2Vec2Config(), which is wav2vec 2.0 base but for its dropout.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedModel

from processing.near_names import suggest

from .conversion import (
    SINC_BANK,
    UNUSED,
    choose_recipe,
    load_renamed,
    make_parser,
    new_model,
    read_checkpoint,
    rename,
    respell,
    run_converter,
    write_converted,
)


MODEL_TYPES = ("rawnet2", "wav2vec2-antispoofing")
NO_PLACE = "-"  # in a key map
BANK_TOLERANCE = 1e-4  # of the largest tap
ENCODER = "encoder."
MASK = "masked_spec_embed"  # of the encoder


def read_key_map(path: Path, tensors: Iterable[str]) -> dict[str, str | None]:
    """Read a rename table, see [`~modeling.conversion.rename`], of these tensors from a YAML."""
    try:
        table = yaml.load(path.read_text("utf-8-sig"), yaml.BaseLoader) or {}  # all its values are text
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(ours, str) and ours for ours in table.values()):
        raise ValueError(f"{path} must hold two names a line, `theirs: ours`.")
    for theirs in table:
        if not any(f"{name}.".startswith(f"{theirs}.") for name in tensors):
            raise ValueError(f"{path}: {theirs} is not in the checkpoint{suggest(theirs, tensors)}.")
    return {theirs: UNUSED if ours == NO_PLACE else ours for theirs, ours in table.items()}


def recognize_encoder(names: Iterable[str], places: Iterable[str]) -> dict[str, str | None]:
    """Make the rename table of the encoder, under the prefix that most of the checkpoint's names have before
    its own."""
    own = [place.removeprefix(ENCODER) for place in places if place.startswith(ENCODER)]
    prefixes = Counter(
        name.removesuffix(part)
        for name in map(respell, names)
        for part in own
        if f".{name}".endswith(f".{part}")
    )
    if not prefixes:
        return {}
    prefix = prefixes.most_common(1)[0][0]
    modules = {part.split(".")[0] for part in own}
    return {prefix + MASK: UNUSED, **{prefix + module: ENCODER + module for module in modules}}


def convert(
    checkpoint: Path, output_dir: Path, system: str, key_map: Path | None = None
) -> tuple[PreTrainedModel, dict]:
    """Write a model's folder with the weights of a checkpoint: the model, and its conversion.json."""
    recipe = choose_recipe(system, checkpoint, *MODEL_TYPES)
    tensors, model = read_checkpoint(checkpoint), new_model(recipe)
    table = read_key_map(key_map, tensors) if key_map else {}
    others = [name for name in tensors if not any(f"{name}.".startswith(f"{theirs}.") for theirs in table)]
    table = recognize_encoder(others, model.state_dict()) | table
    places = {name: rename(name, table) for name in tensors}
    for name in [name for name, place in places.items() if place == SINC_BANK]:
        check_bank(tensors.pop(name), model.state_dict()[SINC_BANK], f"{checkpoint}: {name}", system)
    places = load_renamed(model, tensors, places, where=checkpoint)
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


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "the study's best.pt", has_system=False)
    systems = "rawnet2, rawnet2-plateau, wav2vec2, wav2vec2-v2-unfrozen, or a YAML file"
    parser.add_argument("--system", required=True, help=systems)
    parser.add_argument("--key_map", type=Path, metavar="FILE", help="their and our names, see above")
    run_converter(convert, parser, arguments)


if __name__ == "__main__":
    main()
