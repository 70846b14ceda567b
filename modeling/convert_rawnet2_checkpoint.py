"""Convert weights of a published PyTorch RawNet2, a state dict of the ICASSP 2021 code (Tak et al.;
github.com/eurecom-asp/rawnet2-antispoofing) or of the ASVspoof 2021 baseline
(github.com/asvspoof-challenge/2021, LA/Baseline-RawNet2), into a `RawNet2ForAudioClassification`.

    python -m modeling.convert_rawnet2_checkpoint --checkpoint pre_trained_DF_RawNet2.pth \\
        --system rawnet2-asvspoof2021 --output_dir models/rawnet2-asvspoof2021

All settings are those of --system: rawnet2-icassp2021, rawnet2-asvspoof2021, rawnet2-rawboost, or a copy of
their YAML in hub_cards with others. A wrong one does not show in the weights: it only gives other scores.

The ICASSP 2021 paper takes about 4 s, here 64,000 samples, but its published code crops to 64,600, which is
num_samples: 64600. The paper's best filters are spaced linearly, as in rawnet2-icassp2021, but its published
code has the mel scale switched on. Weights trained with it need sinc_scale: mel and sinc_max_frequency:
7669.162553314274. Its inverse-mel bank is not reproduced.
"""

from .configuration_rawnet2 import RawNet2Config
from .conversion import StateDictConverter, make_block_table


def make_table(config: RawNet2Config) -> dict[str, str | None]:
    """Make the table that renames the tensors of the published code."""
    num_blocks = len(config.block_channels)
    table = make_block_table("block", num_blocks, pre_activation=config.pre_activation)
    table |= {
        "first_bn": "sinc_norm",
        "bn_before_gru": "norm",
        "fc1_gru": "embedding",
        "fc2_gru": "classifier",
    }
    for i in range(num_blocks):
        table[f"fc_attention{i}.0"] = f"blocks.{i}.scaling.linear"
    return table


CONVERTER = StateDictConverter("rawnet2", RawNet2Config.model_type, make_table)


def main(arguments: list[str] | None = None) -> None:
    CONVERTER.run(__doc__, arguments)


if __name__ == "__main__":
    main()
