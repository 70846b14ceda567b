"""The residual block of AASIST (Jung et al., ICASSP 2022), and its SELU and max-pooling, such that they take
a CPU little time and memory."""

import torch
from torch import nn
from torch.nn import functional as F


POOL_SIZE = 3  # of the max-pooling after the bank (bands and frames) and in every block (frames)
PIECE_FRAMES = 1536  # that a CPU takes through a block at a time where there is no autograd: 5 MiB per tensor
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al., NeurIPS 2017


class SeluOnCPU(torch.autograd.Function):
    """SELU in place by exp(x) - 1 instead of expm1, slower on a CPU; they differ by less than 1e-6."""

    @staticmethod
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        for utterance in hidden:  # the temporary tensor is as large as what it is made of
            negative = utterance.clamp(max=0).exp_().sub_(1)
            utterance.clamp_(min=0).add_(negative, alpha=SELU_ALPHA).mul_(SELU_SCALE)
        return hidden

    @staticmethod
    def setup_context(ctx, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.mark_dirty(*inputs)
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        (selu,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(gradient, SELU_ALPHA, SELU_SCALE, 1, True, selu)


def runs_eagerly_on_cpu(hidden: torch.Tensor) -> bool:
    return hidden.device.type == "cpu" and not torch.jit.is_tracing() and not torch.compiler.is_compiling()


def selu_(hidden: torch.Tensor) -> torch.Tensor:
    """SELU in place."""
    return SeluOnCPU.apply(hidden) if runs_eagerly_on_cpu(hidden) else F.selu(hidden, inplace=True)


class PoolFramesOnCPU(torch.autograd.Function):
    """Max-pooling of frames that keeps a byte per place for the backward pass: a tenth of `max_pool2d`'s."""

    @staticmethod
    def forward(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = F.max_pool1d(hidden.flatten(1, 2), POOL_SIZE).unflatten(1, hidden.shape[1:3])
        frames = hidden[..., : hidden.shape[3] // POOL_SIZE * POOL_SIZE]
        first, second, _ = frames.unflatten(3, (-1, POOL_SIZE)).unbind(4)
        places = first < pooled
        return pooled, places.to(torch.uint8).add_(places.logical_and_(second < pooled))

    @staticmethod
    def setup_context(ctx, inputs: tuple[torch.Tensor], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx, gradient: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        (places,) = ctx.saved_tensors
        hidden = gradient.new_zeros(ctx.shape)
        frames = hidden[..., : gradient.shape[3] * POOL_SIZE].unflatten(3, (-1, POOL_SIZE))
        for i in range(len(hidden)):  # places as int64 are large
            frames[i].scatter_(3, places[i, ..., None].long(), gradient[i, ..., None])
        return hidden


def put_channels_last(hidden: torch.Tensor) -> torch.Tensor:
    """The channels last in memory where a GPU trains: its batch normalisation is faster there."""
    if hidden.device.type == "cpu" or not hidden.requires_grad:
        return hidden
    return hidden.contiguous(memory_format=torch.channels_last)


def pool_frames(hidden: torch.Tensor) -> torch.Tensor:
    """Max-pooling by 3 of the frames of (batch, channels, bands, frames)."""
    if hidden.requires_grad:
        if runs_eagerly_on_cpu(hidden):
            return PoolFramesOnCPU.apply(hidden)[0]
        return F.max_pool2d(hidden, (1, POOL_SIZE))
    # Without autograd, its kernel for CPUs is several times as fast as that of `max_pool2d`.
    pooled = F.max_pool1d(hidden.flatten(1, 2), POOL_SIZE)
    return pooled.unflatten(1, hidden.shape[1:3])


class AasistBlock(nn.Module):
    """Residual block on bands and frames, and, unless `pool` is false, max-pooling by 3 over frames."""

    def __init__(self, in_channels: int, out_channels: int, *, pre_activation: bool, pool: bool = True):
        super().__init__()
        self.pool = pool
        self.norm1 = nn.BatchNorm2d(in_channels) if pre_activation else None
        # The two kernels of even height widen the bands by one and narrow them again.
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=(2, 3), padding=(1, 1))
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=(2, 3), padding=(0, 1))
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, kernel_size=(1, 3), padding=(0, 1))
            if in_channels != out_channels
            else None
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, bands, frames) to (batch, out_channels, bands, frames // 3 or frames)."""
        inputs = hidden
        if self.norm1 is not None:
            hidden = selu_(self.norm1(hidden))
        hidden = put_channels_last(self.conv1(hidden))  # (batch, out_channels, bands + 1, frames)
        hidden = selu_(self.norm2(hidden))
        if hidden.requires_grad and runs_eagerly_on_cpu(hidden):
            utterances = zip(hidden.split(1), inputs.split(1), strict=True)
            return torch.cat([self.finish(*utterance) for utterance in utterances])  # takes less memory
        return self.finish(hidden, inputs)

    def finish(self, hidden: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """After the last batch normalisation: (batch, out_channels, bands + 1, frames) and the block's inputs
        to its outputs."""
        hidden = self.conv2(hidden)
        hidden.add_(inputs if self.shortcut is None else put_channels_last(self.shortcut(inputs)))
        return pool_frames(hidden) if self.pool else hidden

    def forward_in_pieces(self, hidden: torch.Tensor) -> torch.Tensor:
        """The same in pieces of frames, each with three frames more on both sides for the kernels."""
        parts = []
        for start in range(0, hidden.shape[3] // POOL_SIZE * POOL_SIZE, PIECE_FRAMES):
            before = min(start, POOL_SIZE)
            part = self(hidden[..., start - before : start + PIECE_FRAMES + POOL_SIZE])
            parts.append(part[..., before // POOL_SIZE :][..., : PIECE_FRAMES // POOL_SIZE])
        return torch.cat(parts, dim=3)


__all__ = ["POOL_SIZE", "AasistBlock", "pool_frames", "selu_"]
