"""
Speed of AASIST training and inference against a plain implementation, in one run.

The plain one is written here as public implementations are: `nn.SELU`, `nn.MaxPool2d`, out of place, with the
allocator as it finds it, in batches of 8. What is small, the graphs, is that of the network here.

    python tests/benchmarks/aasist.py
"""

import torch
from torch import nn

from modeling import AasistConfig, AasistForAudioClassification


class PlainBlock(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.conv1, self.norm, self.conv2 = block.conv1, block.norm2, block.conv2
        self.shortcut, self.selu, self.pool = block.shortcut, nn.SELU(), nn.MaxPool2d((1, 3))

    def forward(self, x):
        out = self.conv2(self.selu(self.norm(self.conv1(x))))
        return self.pool(out + (x if self.shortcut is None else self.shortcut(x)))


class PlainAasist(nn.Module):
    """The same network and weights."""

    def __init__(self, model: AasistForAudioClassification):
        super().__init__()
        self.model, self.selu = model, nn.SELU()
        self.encoder = nn.Sequential(*(PlainBlock(block) for block in model.blocks))

    def forward(self, x):
        x = nn.functional.conv1d(x.unsqueeze(1), self.model.sinc.filters)
        x = nn.functional.max_pool2d(torch.abs(x.unsqueeze(1)), (3, 3))
        x = self.encoder(self.selu(self.model.sinc_norm(x)))
        return self.model.classifier(self.model.dropout(self.model.read_out(x)))


if __name__ == "__main__":
    import against_plain  # networks.py needs none of its packages

    against_plain.main(
        __file__,
        __doc__,
        lambda: AasistForAudioClassification(AasistConfig()),
        PlainAasist,
        train_batch_size=24,
    )
