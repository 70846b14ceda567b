"""How a CPU goes through a batch where there is no autograd."""

from collections.abc import Callable

import torch


def run_in_micro_batches(
    function: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, size: int
) -> torch.Tensor:
    """
    Apply a function to `size` utterances of a batch at a time. Activations then stay in a CPU's caches, and
    below the 32 MiB from which on glibc hands freed memory back to the system, to be faulted in again. A
    graph must not hold as many parts as the example's batch has: where one is traced, the batch is one
    part.
    """
    if torch.compiler.is_compiling():
        return function(batch)
    return torch.cat([function(part) for part in batch.split(size)])
