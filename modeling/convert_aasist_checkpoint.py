"""Convert weights of AASIST or AASIST-L, a state dict as their authors publish it (Jung et al., ICASSP 2022;
github.com/clovaai/aasist), into a `AasistForAudioClassification`.

    python -m modeling.convert_aasist_checkpoint --checkpoint AASIST.pth --output_dir models/aasist

Sizes are read off the tensors. What is not in them, pooling ratios and temperatures among it, is that of
--system: without it, of the one of both that has these sizes.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from hub_cards.recipe import Recipe, find_recipe, load_recipe

from .configuration_aasist import AasistConfig
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
from .modeling_aasist import AasistForAudioClassification


SYSTEMS = ("aasist", "aasist-l")
# Name of each module, or tensor of its own, here by its name there, of both kinds of attention.
ATTENTION = {
    "att_proj": "attention",
    "att_weight": "energy",
    "proj_with_att": "attended",
    "proj_without_att": "own",
    "bn": "norm",
}
HETEROGENEOUS_ATTENTION = {
    "proj_type1": "temporal",
    "proj_type2": "spectral",
    "att_proj": "attention",
    "att_weight11": "temporal_energy",
    "att_weight22": "spectral_energy",
    "att_weight12": "mixed_energy",
    "proj_with_att": "attended",
    "proj_without_att": "own",
    "att_projM": "stack_attention",
    "att_weightM": "stack_energy",
    "proj_with_attM": "stack_attended",
    "proj_without_attM": "stack_own",
    "bn": "norm",
}


def make_table(config: AasistConfig) -> dict[str, str | None]:
    """Make the rename table, see [`~modeling.conversion.rename`], from the names of the authors' code."""
    table = {"first_bn": "sinc_norm", "pos_S": "band_positions", "out_layer": "classifier"}
    table |= make_block_table(config, "encoder.")
    for letter, graph in (("S", "spectral"), ("T", "temporal")):
        layer = ATTENTION.items()
        table |= {f"GAT_layer_{letter}.{theirs}": f"{graph}_attention.{ours}" for theirs, ours in layer}
        table[f"pool_{letter}.proj"] = f"{graph}_pooling.weight"
        for i in (1, 2):
            table[f"pool_h{letter}{i}.proj"] = f"branches.{i - 1}.{graph}_pooling.weight"
    for i in (1, 2):
        table[f"master{i}"] = f"branches.{i - 1}.stack"
        for j, layer in ((1, "first"), (2, "second")):
            prefix = f"branches.{i - 1}.{layer}"
            for theirs, ours in HETEROGENEOUS_ATTENTION.items():
                table[f"HtrgGAT_layer_ST{i}{j}.{theirs}"] = f"{prefix}.{ours}"
    return table


def read_sizes(tensors: Mapping[str, torch.Tensor], where: str) -> dict:
    """
    Read off the tensors what of the config is in them.

    Raises:
        ValueError: a tensor that says so is missing or has another number of dimensions.
    """
    try:
        channels = []
        while (name := f"encoder.{len(channels)}.0.conv1.weight") in tensors:
            channels.append(tensors[name].shape[0])
        _, bands, _ = tensors["pos_S"].shape
        graph_size, _ = tensors["GAT_layer_S.att_weight"].shape
        heterogeneous, _ = tensors["HtrgGAT_layer_ST11.att_weightM"].shape
    except (KeyError, ValueError) as error:
        missing = f"it has no {error}" if isinstance(error, KeyError) else "its tensors have other shapes"
        raise ValueError(f"{where} is no state dict of AASIST: {missing}.") from None
    return {
        "bands": bands,
        "block_channels": channels,
        "graph_size": graph_size,
        "heterogeneous_graph_size": heterogeneous,
    }


def find_matching_recipe(sizes: Mapping, system: str | None, where: str) -> Recipe:
    """
    Load the recipe of --system, or of the one of `SYSTEMS` that has the sizes.

    Raises:
        FileNotFoundError, ValueError: there is none, or it has other sizes.
    """
    recipes = [load_recipe(find_recipe(name)[0]) for name in ([system] if system else SYSTEMS)]
    for recipe in recipes:
        config = recipe.build_config()
        if config.model_type != AasistConfig.model_type:
            raise ValueError(f"{recipe.system} is a {config.model_type}, not AASIST.")
        stated = {
            "bands": config.sinc_filters // 3,
            "block_channels": list(config.block_channels),
            "graph_size": config.graph_size,
            "heterogeneous_graph_size": config.heterogeneous_graph_size,
        }
        if stated == sizes:
            return recipe
    listed = ", ".join(f"{name} {value}" for name, value in sizes.items())
    raise ValueError(
        f"{where} has {listed}, which are not the sizes of {' or '.join(r.system for r in recipes)}. Copy "
        "hub_cards/aasist.yaml, change its `model:` to the settings that the weights were trained with, and "
        "name the file by --system."
    )


def convert(
    checkpoint: Path, output_dir: Path, system: str | None = None
) -> tuple[AasistForAudioClassification, dict]:
    """
    Write the folder of a model with the weights of a checkpoint.

    Args:
        checkpoint: the authors' state dict.
        output_dir: a new or empty folder.
        system: name of a system or path of a YAML; `None` finds it by the sizes.

    Returns:
        The model, and what [`~modeling.conversion.describe_checkpoint`] says.

    Raises:
        FileNotFoundError: there is no checkpoint, or no such system.
        FileExistsError: there is something in the output folder.
        ValueError: no state dict of AASIST, or one that does not fit the system.
    """
    check_output_dir(output_dir)
    tensors = read_checkpoint(checkpoint)
    recipe = find_matching_recipe(read_sizes(tensors, str(checkpoint)), system, str(checkpoint))
    model = new_model(recipe)
    unused = load_renamed(model, tensors, make_table(model.config), where=str(checkpoint))
    record = describe_checkpoint(checkpoint, "modeling.convert_aasist_checkpoint", unused)
    write_converted(model, output_dir, recipe, record)
    return model, record


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "the authors' weights, AASIST.pth or AASIST-L.pth")
    parser.add_argument("--system", help=f"a system or a YAML file; default: {' or '.join(SYSTEMS)}")
    args = parser.parse_args(arguments)
    try:
        model, record = convert(args.checkpoint, args.output_dir, args.system)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    published = [load_recipe(find_recipe(name)[0]).card["checkpoint_sha256"] for name in SYSTEMS]
    verdict = "is" if record["sha256"] in published else "is not"
    print(f"{args.output_dir}: AASIST with {model.num_parameters():,} parameters")
    print(f"{args.checkpoint} {verdict} the file that the authors publish (compared by SHA-256).")


if __name__ == "__main__":
    main()
