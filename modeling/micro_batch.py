"""How a CPU goes through a batch where there is no autograd."""

from collections.abc import Callable

import torch


CPU_MICRO_BATCH = 2  # utterances whose activations stay in a CPU's caches


def run_in_micro_batches(
    function: Callable[[torch.Tensor], torch.Tensor], input_values: torch.Tensor
) -> torch.Tensor:
    """Apply a function to (batch, num_samples), `CPU_MICRO_BATCH` utterances at a time."""
    return torch.cat([function(part) for part in input_values.split(CPU_MICRO_BATCH)])
