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
from collections.abc import Mapping
from pathlib import Path

from hub_cards.recipe import Recipe

from .configuration_rawnet2 import RawNet2Config
from .conversion import (
    load_recipe_of,
    load_renamed,
    make_block_table,
    make_parser,
    new_model,
    read_checkpoint,
    read_sizes,
    write_converted,
)
from .modeling_rawnet2 import RawNet2ForAudioClassification


VARIANTS = ("icassp2021", "asvspoof2021")
AXES = {  # see `read_sizes`
    "sinc_filters": ("first_bn.weight", 1, 0),
    "block_channels": ("block{}.0.conv1.weight", 3, 0),
    "gru_hidden_size": ("gru.weight_hh_l0", 2, 1),
    "embedding_size": ("fc1_gru.weight", 2, 0),
}


def make_table(config: RawNet2Config) -> dict[str, str | None]:
    """Make the table that renames the tensors of the published code."""
    table = make_block_table(config, "block")
    table |= {
        "first_bn": "sinc_norm",
        "bn_before_gru": "norm",
        "fc1_gru": "embedding",
        "fc2_gru": "classifier",
    }
    for i in range(len(config.block_channels)):
        table[f"fc_attention{i}.0"] = f"blocks.{i}.scaling.linear"
    return table


def make_recipe(variant: str, sizes: Mapping, overrides: Mapping, checkpoint: Path) -> Recipe:
    """Make the recipe of a variant with the sizes that were found and the settings that were given; a
    `ValueError` if the sizes are those of another variant."""
    recipes = {name: load_recipe_of(f"rawnet2-{name}", RawNet2Config.model_type) for name in VARIANTS}
    recipe = recipes[variant]
    for name, other in recipes.items():
        if other is not recipe and other.model | sizes == other.model:
            listed = ", ".join(f"{size} {value}" for size, value in sizes.items())
            raise ValueError(
                f"{checkpoint} has exactly the sizes of --variant {name}, not of {variant}: {listed}. Name "
                f"--variant {name}; where the weights were trained with other settings, give those as well."
            )
    given = {f"model.{name}": "given to the converter on the command line" for name in overrides}
    return dataclasses.replace(
        recipe, model=recipe.model | sizes | overrides, inferred=recipe.inferred | given
    )


def convert(
    checkpoint: Path, output_dir: Path, variant: str, **overrides
) -> tuple[RawNet2ForAudioClassification, dict]:
    """Write a model's folder with the weights of a checkpoint: the model, and what `conversion.json` says.
    `overrides` are fields of the config that take precedence over the variant's."""
    tensors = read_checkpoint(checkpoint)
    sizes = read_sizes(tensors, AXES, f"{checkpoint} is no state dict of RawNet2")
    sizes["num_gru_layers"] = sum(name.startswith("gru.weight_hh_l") for name in tensors)
    recipe = make_recipe(variant, sizes, overrides, checkpoint)
    model = new_model(recipe)
    unused = load_renamed(model, tensors, make_table(model.config), where=checkpoint)
    origins = dict.fromkeys(recipe.model, f"variant {variant}")
    origins |= dict.fromkeys(sizes, "tensors") | dict.fromkeys(overrides, "command line")
    return model, write_converted(model, output_dir, recipe, checkpoint, "rawnet2", unused, settings=origins)


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
    try:
        model, record = convert(**vars(args))
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{args.output_dir}: RawNet2 with {model.num_parameters():,} parameters")
    for name, origin in record["settings"].items():
        print(f"  {name:<20}{getattr(model.config, name)!s:<34}{origin}")
    if record["unused"]:
        print(f"  not used: {', '.join(sorted({name.rpartition('.')[0] for name in record['unused']}))}")


if __name__ == "__main__":
    main()
