"""Convert weights of AASIST or AASIST-L, a state dict as their authors publish it (Jung et al., ICASSP 2022;
github.com/clovaai/aasist), or the ASVspoof 5 baseline, into a `AasistForAudioClassification`.

    python -m modeling.convert_aasist_checkpoint --checkpoint AASIST.pth --output_dir models/aasist

A published file is known by its SHA-256, which the YAML of its system states. The sizes of any other are read
off the tensors; what is not in them, pooling ratios and temperatures among it, is that of --system: without
it, of aasist or aasist-l, whichever has these sizes.
"""

from collections.abc import Mapping
from pathlib import Path

from hub_cards.recipe import Recipe, find_published
from processing.files import hash_file

from .configuration_aasist import AasistConfig
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
from .modeling_aasist import AasistForAudioClassification


SYSTEMS = ("aasist", "aasist-l")
AXES = {  # see `read_sizes`
    "block_channels": ("encoder.{}.0.conv1.weight", 4, 0),
    "graph_size": ("GAT_layer_S.att_weight", 2, 0),
    "heterogeneous_graph_size": ("HtrgGAT_layer_ST11.att_weightM", 2, 0),
}
# Name of each module, or tensor of its own, here by its name there, of both kinds of attention.
SHARED = {"att_proj": "attention", "proj_with_att": "attended", "proj_without_att": "own", "bn": "norm"}
ATTENTION = SHARED | {"att_weight": "energy"}
HETEROGENEOUS_ATTENTION = SHARED | {
    "proj_type1": "temporal",
    "proj_type2": "spectral",
    "att_weight11": "temporal_energy",
    "att_weight22": "spectral_energy",
    "att_weight12": "mixed_energy",
    "att_projM": "stack_attention",
    "att_weightM": "stack_energy",
    "proj_with_attM": "stack_attended",
    "proj_without_attM": "stack_own",
}


def make_table(config: AasistConfig) -> dict[str, str | None]:
    """Make the table that renames the tensors of the authors' code."""
    table = make_block_table(config, "encoder.")
    table |= {"first_bn": "sinc_norm", "pos_S": "band_positions", "out_layer": "classifier"}
    for letter, graph in (("S", "spectral"), ("T", "temporal")):
        for theirs, ours in ATTENTION.items():
            table[f"GAT_layer_{letter}.{theirs}"] = f"{graph}_attention.{ours}"
        table[f"pool_{letter}.proj"] = f"{graph}_pooling.weight"
        for i in (1, 2):
            table[f"pool_h{letter}{i}.proj"] = f"branches.{i - 1}.{graph}_pooling.weight"
    for i in (1, 2):
        table[f"master{i}"] = f"branches.{i - 1}.stack"
        for j, layer in ((1, "first"), (2, "second")):
            for theirs, ours in HETEROGENEOUS_ATTENTION.items():
                table[f"HtrgGAT_layer_ST{i}{j}.{theirs}"] = f"branches.{i - 1}.{layer}.{ours}"
    return table


def find_matching_recipe(sizes: Mapping, system: str | None, checkpoint: Path) -> Recipe:
    """Load the recipe of --system, or of the system whose published file it is, or of one of `SYSTEMS`, that
    has the sizes; a `ValueError` if none has."""
    published = find_published(hash_file(checkpoint))
    names = [system] if system else [published.system] if published else SYSTEMS
    for name in names:
        recipe = load_recipe_of(name, AasistConfig.model_type)
        config = recipe.build_config()
        stated = {size: getattr(config, size) for size in sizes}
        if stated | {"block_channels": list(config.block_channels)} == sizes:
            return recipe
    listed = ", ".join(f"{name} {value}" for name, value in sizes.items())
    raise ValueError(
        f"{checkpoint} has {listed}, which are not the sizes of {' or '.join(names)}. Copy "
        "hub_cards/aasist.yaml, change its `model:` to the settings that the weights were trained with, and "
        "name the file by --system."
    )


def convert(
    checkpoint: Path, output_dir: Path, system: str | None = None
) -> tuple[AasistForAudioClassification, dict]:
    """Write a model's folder with the weights of a checkpoint: the model, and what `conversion.json` says.
    `system` is the name of a system or the path of a YAML; `None` finds it by the SHA-256 or the sizes."""
    tensors = read_checkpoint(checkpoint)
    sizes = read_sizes(tensors, AXES, f"{checkpoint} is no state dict of AASIST")
    recipe = find_matching_recipe(sizes, system, checkpoint)
    model = new_model(recipe)
    unused = load_renamed(model, tensors, make_table(model.config), where=checkpoint)
    return model, write_converted(model, output_dir, recipe, checkpoint, "aasist", unused)


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "the weights, such as AASIST.pth, AASIST-L.pth or ASVspoof 5's best.pth")
    parser.add_argument("--system", help="a system or a YAML file; default: see above")
    args = parser.parse_args(arguments)
    try:
        model, record = convert(**vars(args))
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    verdict = "is" if record["origin"]["published"] else "is not"
    print(f"{args.output_dir}: AASIST with {model.num_parameters():,} parameters")
    print(f"{args.checkpoint} {verdict} the file that the authors publish (compared by SHA-256).")


if __name__ == "__main__":
    main()
