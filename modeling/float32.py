"""A module whose buffers are never rounded."""

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
