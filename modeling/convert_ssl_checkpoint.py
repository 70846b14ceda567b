"""Convert weights of XLS-R with a back end, a state dict of SSL_Anti-spoofing (Tak et al., Odyssey 2022;
github.com/TakHemlata/SSL_Anti-spoofing) or of SLS (Zhang et al., ACM Multimedia 2024;
github.com/QiShanZhang/SLSforASVspoof-2021-DF), into a `Wav2Vec2AntiSpoofingForAudioClassification`.

    python -m modeling.convert_ssl_checkpoint --checkpoint best_SSL_model_LA.pth --system xlsr-aasist \\
        --output_dir models/xlsr-aasist

All settings are those of --system: xlsr-aasist, xlsr-sls, or a copy of their YAML in hub_cards with others.
The encoder there is fairseq's wav2vec 2.0, with the parts of its pre-training, which detection does not use:
they are named and left out.

The originals could not be tried: they were not at hand. The converter is tested on state dicts with their
names. So hold what it writes against the error rates that their authors report.
"""

from .aasist_backend import BLOCK_CHANNELS
from .configuration_wav2vec2_antispoofing import Wav2Vec2AntiSpoofingConfig
from .conversion import UNUSED, StateDictConverter, make_block_table
from .convert_aasist_checkpoint import make_graph_table


FAIRSEQ = "ssl_model.model."  # before the names of the encoder there
# Name of each module of the encoder in transformers by its name in fairseq, as the converter of transformers
# has them (models/wav2vec2/convert_wav2vec2_original_pytorch_checkpoint_to_pytorch.py).
ENCODER = {
    "layer_norm": "feature_projection.layer_norm",
    "post_extract_proj": "feature_projection.projection",
    "encoder.pos_conv.0": "encoder.pos_conv_embed.conv",
    "encoder.layer_norm": "encoder.layer_norm",
}
CONVOLUTION = {"0": "conv", "2": "layer_norm", "2.1": "layer_norm"}  # 2 of base models, 2.1 of large ones
BLOCK = {
    "self_attn": "attention",
    "self_attn_layer_norm": "layer_norm",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
    "final_layer_norm": "final_layer_norm",
}
PRE_TRAINING = ("mask_emb", "quantizer", "project_q", "final_proj")
AASIST = {"LL": "projector", "first_bn": "first_norm", "first_bn1": "last_norm", "attention": "attention"}
SLS = {"fc0": "layer_gate", "first_bn": "norm", "fc1": "projector"}
# The classifier of SLS has a second bias, which shifts its logits: none.
CLASSIFIERS = {
    "aasist": {"out_layer": "classifier"},
    "sls": {"fc3.weight": "classifier.weight", "fc3.bias": "classifier.inner_bias"},
}


def make_table(config: Wav2Vec2AntiSpoofingConfig) -> dict[str, str | None]:
    """Make the table that renames the tensors of the authors' code; a `ValueError` for other back ends."""
    if config.backend not in CLASSIFIERS:
        raise ValueError(f"backend is {config.backend}: only {' and '.join(CLASSIFIERS)} can be converted.")
    table = {FAIRSEQ + theirs: f"encoder.{ours}" for theirs, ours in make_encoder_table(config).items()}
    table |= {FAIRSEQ + name: UNUSED for name in PRE_TRAINING}
    backend = SLS
    if config.backend == "aasist":
        blocks = make_block_table("encoder.", len(BLOCK_CHANNELS), pre_activation=False)
        backend = {**blocks, **make_graph_table(), **AASIST}
    table |= {theirs: ours and f"backend.{ours}" for theirs, ours in backend.items()}
    return table | CLASSIFIERS[config.backend]


def make_encoder_table(config: Wav2Vec2AntiSpoofingConfig) -> dict[str, str]:
    """Make the table that renames fairseq's encoder."""
    table = dict(ENCODER)
    for i in range(len(config.encoder_config.conv_kernel)):
        at = f"feature_extractor.conv_layers.{i}."
        table |= {at + theirs: at + ours for theirs, ours in CONVOLUTION.items()}
    for i in range(config.encoder_config.num_hidden_layers):
        at = f"encoder.layers.{i}."
        table |= {at + theirs: at + ours for theirs, ours in BLOCK.items()}
    return table


CONVERTER = StateDictConverter("ssl", Wav2Vec2AntiSpoofingConfig.model_type, make_table)


def main(arguments: list[str] | None = None) -> None:
    CONVERTER.run(__doc__, arguments)


if __name__ == "__main__":
    main()
