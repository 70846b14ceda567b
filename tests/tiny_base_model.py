"""A pretrained encoder of a few thousand weights, as a folder that transformers saved."""

from pathlib import Path

import torch
from transformers import PreTrainedModel, Wav2Vec2FeatureExtractor, Wav2Vec2ForPreTraining


ENCODER_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
WHISPER_SIZES = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "num_mel_bins": 20,
    "max_source_positions": 25,  # half a second
}
SIZES = {**ENCODER_SIZES, "codevector_dim": 16, "proj_codevector_dim": 16, "num_codevectors_per_group": 8}


def save_base_model(
    folder: Path,
    model_class: type[PreTrainedModel] = Wav2Vec2ForPreTraining,
    *,
    do_normalize: bool | None = None,
    max_shard_size: str = "1GB",
    **settings,
) -> Path:
    """Save an encoder of `SIZES` with `settings`; a feature extractor only if `do_normalize` is given."""
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**SIZES, **settings))
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, so that no two tensors are equal
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if do_normalize is not None:
        Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return folder
