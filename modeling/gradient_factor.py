"""A factor on a gradient alone, by which an encoder learns more slowly than what stands on it."""

import torch


class GradientFactor(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor, as fairseq's `GradMultiply`."""

    @staticmethod
    def forward(ctx, values: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.factor * gradient, None


def scale_gradient(values: torch.Tensor, factor: float) -> torch.Tensor:
    """The values themselves; the gradient that goes back through them is multiplied by the factor."""
    return GradientFactor.apply(values, factor)


__all__ = ["scale_gradient"]
