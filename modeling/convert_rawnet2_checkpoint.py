"""Convert weights of a published PyTorch RawNet2, a state dict of the ICASSP 2021 code (Tak et al.;
github.com/eurecom-asp/rawnet2-antispoofing) or of the ASVspoof 2021 baseline
(github.com/asvspoof-challenge/2021, LA/Baseline-RawNet2), into a `RawNet2ForAudioClassification`.

    python -m modeling.convert_rawnet2_checkpoint --checkpoint pre_trained_DF_RawNet2.pth \\
        --variant asvspoof2021 --output_dir models/rawnet2-asvspoof2021

Sizes are read off the tensors. What is not in them is that of --variant, hub_cards/rawnet2-<variant>.yaml,
and of the options below; each setting is printed with its origin. The weights do not show a wrong one: it
only gives other scores.

The ICASSP 2021 paper takes about 4 s, here 64,000 samples, but its published code crops to 64,600:
--num_samples 64600 gives what that code computes. The paper's best filters are spaced linearly, which is
what icassp2021 means, but its published code has the mel scale switched on. For weights trained with it give
--sinc_scale mel --sinc_max_frequency 7669.162553314274. Its inverse-mel bank is not reproduced.
"""

import argparse
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from hub_cards.recipe import Recipe, find_recipe, load_recipe

from .configuration_rawnet2 import RawNet2Config
from .conversion import (
    check_output_dir,
    describe_checkpoint,
    load_renamed,
    make_block_table,
    make_parser,
    new_model,
    read_checkpoint,
    write_converted,
)
from .modeling_rawnet2 import RawNet2ForAudioClassification


VARIANTS = ("icassp2021", "asvspoof2021")
OVERRIDABLE = ("sinc_filter_length", "sinc_scale", "sinc_max_frequency", "num_samples", "pre_activation")
# Name of each module here by its name there.
NETWORK = {
    "first_bn": "sinc_norm",
    "bn_before_gru": "norm",
    "gru": "gru",
    "fc1_gru": "embedding",
    "fc2_gru": "classifier",
}


def make_table(config: RawNet2Config) -> dict[str, str | None]:
    """Make the rename table, see [`~modeling.conversion.rename`], from the names of the published code."""
    table = NETWORK | make_block_table(config, "block")
    for i in range(len(config.block_channels)):
        table[f"fc_attention{i}.0"] = f"blocks.{i}.scaling.linear"
    return table


def read_sizes(tensors: Mapping[str, torch.Tensor], where: str) -> dict:
    """
    Read off the tensors what of the config is in them.

    Raises:
        ValueError: tensors that say so are missing or have another number of dimensions; all are named.
    """
    num_blocks, num_layers = (
        len({match[1] for name in tensors if (match := re.match(pattern, name))})
        for pattern in (r"block(\d+)\.", r"gru\.\w+_l(\d+)$")
    )
    convolutions = [f"block{i}.0.conv1.weight" for i in range(num_blocks or 1)]
    dimensions = {"first_bn.weight": 1, "gru.weight_hh_l0": 2, "fc1_gru.weight": 2}
    dimensions |= dict.fromkeys(convolutions, 3)
    wrong = [n for n, count in dimensions.items() if n not in tensors or tensors[n].ndim != count]
    if wrong:
        raise ValueError(
            f"{where} is no state dict of RawNet2: missing, or of another number of dimensions, are "
            f"{', '.join(wrong)}."
        )
    return {
        "sinc_filters": tensors["first_bn.weight"].shape[0],
        "block_channels": [tensors[name].shape[0] for name in convolutions],
        "gru_hidden_size": tensors["gru.weight_hh_l0"].shape[1],
        "num_gru_layers": num_layers,
        "embedding_size": tensors["fc1_gru.weight"].shape[0],
    }


def load_variant(variant: str) -> Recipe:
    return load_recipe(find_recipe(f"rawnet2-{variant}")[0])


def make_recipe(variant: str, sizes: Mapping, overrides: Mapping, where: str) -> Recipe:
    """
    Make the recipe of a variant with the sizes that were found and the settings that were given.

    Raises:
        ValueError: the sizes are those of another variant.
    """
    for other in VARIANTS:
        theirs = load_variant(other).model
        if other != variant and all(theirs[name] == value for name, value in sizes.items()):
            raise ValueError(
                f"{where} has exactly the sizes of --variant {other}, not of {variant}: "
                f"{', '.join(f'{name} {value}' for name, value in sizes.items())}. Name --variant {other}; "
                "where the weights were trained with other settings, give those as well."
            )
    recipe = load_variant(variant)
    given = {f"model.{name}": "given to the converter on the command line" for name in overrides}
    return dataclasses.replace(
        recipe, model={**recipe.model, **sizes, **overrides}, inferred={**recipe.inferred, **given}
    )


def convert(
    checkpoint: Path, output_dir: Path, variant: str, overrides: Mapping | None = None
) -> tuple[RawNet2ForAudioClassification, dict]:
    """
    Write the folder of a model with the weights of a checkpoint.

    Args:
        checkpoint: state dict with the names of the published code.
        output_dir: a new or empty folder.
        variant: one of `VARIANTS`, which decides what is not in the tensors.
        overrides: values of `OVERRIDABLE` that take precedence over the variant's.

    Returns:
        The model, and what `conversion.json` says of where it comes from: `settings` has the origin of each.

    Raises:
        FileNotFoundError: there is no checkpoint.
        FileExistsError: there is something in the output folder.
        ValueError: no state dict of RawNet2, sizes of another variant, settings that are not valid, or what
            does not fit; see [`~modeling.conversion.load_renamed`].
    """
    check_output_dir(output_dir)
    overrides = overrides or {}
    tensors = read_checkpoint(checkpoint)
    sizes = read_sizes(tensors, str(checkpoint))
    recipe = make_recipe(variant, sizes, overrides, str(checkpoint))
    model = new_model(recipe)
    unused = load_renamed(model, tensors, make_table(model.config), where=str(checkpoint))
    origins = dict.fromkeys(recipe.model, f"variant {variant}")
    origins |= {**dict.fromkeys(sizes, "tensors"), **dict.fromkeys(overrides, "command line")}
    record = describe_checkpoint(checkpoint, "modeling.convert_rawnet2_checkpoint", unused)
    record = {**record, "settings": origins}
    write_converted(model, output_dir, recipe, record)
    return model, record


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "the published weights, a .pth file")
    parser.add_argument(
        "--variant", required=True, choices=VARIANTS, help="the code that the weights were trained with"
    )
    parser.add_argument("--sinc_filter_length", type=int, help="taps of each filter")
    parser.add_argument("--sinc_scale", help="spacing of the filters: linear, mel or inverse_mel")
    parser.add_argument("--sinc_max_frequency", type=float, help="highest band edge in Hz")
    parser.add_argument(
        "--num_samples", type=int, help="length of the input; the published code of both crops to 64600"
    )
    parser.add_argument(
        "--pre_activation",
        action=argparse.BooleanOptionalAction,
        help="whether blocks normalise and activate their input before they convolve it",
    )
    args = parser.parse_args(arguments)
    overrides = {name: getattr(args, name) for name in OVERRIDABLE if getattr(args, name) is not None}
    try:
        model, record = convert(args.checkpoint, args.output_dir, args.variant, overrides)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{args.output_dir}: RawNet2 with {model.num_parameters():,} parameters")
    for name, origin in record["settings"].items():
        print(f"  {name:<20}{getattr(model.config, name)!s:<34}{origin}")
    if record["unused"]:
        print(f"  not used: {', '.join(sorted({name.rpartition('.')[0] for name in record['unused']}))}")


if __name__ == "__main__":
    main()
