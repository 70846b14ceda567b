"""What is not rounded: the buffers of a module, and the layers that scores come from."""

from collections.abc import Callable

import torch
from torch import nn


class Float32Module(nn.Module):
    """Its buffers move with the model but keep at least their precision, whatever the model is cast to."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Float32Module":
        # What casts or moves a module, such as `to`, calls this.
        def without_rounding(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            rounds = tensor.is_floating_point() and moved.dtype.itemsize < tensor.dtype.itemsize
            return tensor.to(moved.device) if rounds else moved

        return super()._apply(without_rounding, recurse)


def apply_unrounded(layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """A linear layer that scores come from, in the precision of its weights, whatever autocast says: scores
    rounded to bfloat16 would tie. One that a library has quantised takes float32."""
    weight = layer.weight  # of some libraries' layers a method, or of integers
    is_float = isinstance(weight, torch.Tensor) and weight.is_floating_point()
    with torch.autocast(hidden.device.type, enabled=False):
        return layer(hidden.to(weight.dtype if is_float else torch.float32))
