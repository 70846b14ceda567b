"""A small RawNet2 that nobody trained, but whose scores differ from signal to signal, as a saved folder."""

from pathlib import Path

import torch
from conftest import TINY_RECIPE
from torch import nn

from modeling import AntiSpoofingFeatureExtractor, RawNet2Config, RawNet2ForAudioClassification


def save_tiny_model(folder: Path, **settings) -> Path:
    """Save a model with the config of `TINY_RECIPE` and `settings`, and its feature extractor."""
    model_settings = {k: v for k, v in TINY_RECIPE["model"].items() if k != "model_type"}
    torch.manual_seed(0)
    config = RawNet2Config(**model_settings, **settings)
    threshold = config.decision_threshold
    model = RawNet2ForAudioClassification(config)
    # Batch statistics of noise and tones of many levels, without which the network hardly sees its input.
    time = torch.arange(8000) / 16_000
    level = torch.logspace(-2, 0, 32)[:, None]
    noise, tones = torch.randn(32, 8000), torch.sin(2 * torch.pi * torch.rand(32, 1) * 8000 * time)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.cat([0.3 * level * noise, level * tones]))
        model.classifier.weight *= 10
    config.decision_threshold = threshold  # which training mode has removed
    model.eval().save_pretrained(folder)
    AntiSpoofingFeatureExtractor(num_samples=8000).save_pretrained(folder)
    return folder
