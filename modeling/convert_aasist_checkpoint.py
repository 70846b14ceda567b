"""Convert weights of AASIST or AASIST-L, a state dict as their authors publish it (Jung et al., ICASSP 2022;
github.com/clovaai/aasist), or the ASVspoof 5 baseline, into a `AasistForAudioClassification`.

    python -m modeling.convert_aasist_checkpoint --checkpoint AASIST.pth --output_dir models/aasist

A published file is known by its SHA-256, which the YAML of its system states. For any other, --system names
the system, or a YAML, with the settings that it was trained with.
"""

from .configuration_aasist import AasistConfig
from .conversion import StateDictConverter, make_block_table


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
    num_blocks = len(config.block_channels)
    blocks = make_block_table("encoder.", num_blocks, pre_activation=config.pre_activation)
    return {**blocks, **make_graph_table(), "first_bn": "sinc_norm", "out_layer": "classifier"}


def make_graph_table() -> dict[str, str]:
    """Make the rename table of the graphs."""
    table = {"pos_S": "band_positions"}
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


CONVERTER = StateDictConverter("aasist", AasistConfig.model_type, make_table)


def main(arguments: list[str] | None = None) -> None:
    CONVERTER.run(__doc__, arguments)


if __name__ == "__main__":
    main()
