"""
Speed of RawNet2 training and inference against a plain implementation, in one run.

The plain one is written here as public implementations are: it builds its filters in every `forward`, works
out of place, runs with the allocator as it finds it, and scores batches of 8.

    python tests/benchmarks/rawnet2.py
"""

import numpy as np
import torch
from torch import nn

from modeling import RawNet2Config, RawNet2ForAudioClassification


class PlainNorm(nn.Module):
    """Batch normalisation of (batch, channels, frames)."""

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.unsqueeze(2)).squeeze(2)


class PlainBlock(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.norm1, self.conv1 = block.norm1 and PlainNorm(block.norm1), block.conv1
        self.norm2, self.conv2 = PlainNorm(block.norm2), block.conv2
        self.shortcut, self.linear = block.shortcut, block.scaling.linear
        self.activation, self.pool, self.mean = nn.LeakyReLU(0.3), nn.MaxPool1d(3), nn.AdaptiveAvgPool1d(1)

    def forward(self, x):
        out = x if self.norm1 is None else self.activation(self.norm1(x))
        out = self.conv2(self.activation(self.norm2(self.conv1(out))))
        out = out + (x if self.shortcut is None else self.shortcut(x))
        out = self.pool(out)
        scale = torch.sigmoid(self.linear(self.mean(out).view(out.size(0), -1)))
        scale = scale.view(scale.size(0), scale.size(1), -1)
        return out * scale + scale


class PlainRawNet2(nn.Module):
    """The same network and weights, with the sinc bank rebuilt filter by filter in `forward`."""

    def __init__(self, model: RawNet2ForAudioClassification):
        super().__init__()
        self.length = model.config.sinc_filter_length
        edges = np.linspace(0, model.config.sinc_max_frequency, model.config.sinc_filters + 1)
        self.edges = edges / model.config.sampling_rate
        self.first_norm, self.norm, self.gru = PlainNorm(model.sinc_norm), PlainNorm(model.norm), model.gru
        self.embedding, self.classifier = model.embedding, model.classifier
        self.blocks = nn.ModuleList(PlainBlock(block) for block in model.blocks)
        self.selu = nn.SELU()

    def forward(self, x):
        time_axis = np.arange(-(self.length - 1) / 2, (self.length - 1) / 2 + 1)
        bank = torch.zeros(len(self.edges) - 1, self.length, device=x.device)
        for k in range(len(self.edges) - 1):
            low, high = self.edges[k], self.edges[k + 1]
            taps = 2 * high * np.sinc(2 * high * time_axis) - 2 * low * np.sinc(2 * low * time_axis)
            bank[k] = torch.from_numpy(np.hamming(self.length) * taps)
        x = nn.functional.conv1d(x.unsqueeze(1), bank.unsqueeze(1))
        x = self.selu(self.first_norm(nn.functional.max_pool1d(torch.abs(x), 3)))
        for block in self.blocks:
            x = block(x)
        x, _ = self.gru(self.selu(self.norm(x)).permute(2, 0, 1))
        return self.classifier(self.embedding(x[-1]))


if __name__ == "__main__":
    import against_plain  # networks.py needs none of its packages

    against_plain.main(
        __file__,
        __doc__,
        lambda: RawNet2ForAudioClassification(RawNet2Config()),
        PlainRawNet2,
        train_batch_size=32,
    )
