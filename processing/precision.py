"""Precision and compilation of a model that scores, by the arguments that the Trainer has for them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.utils import is_torch_tf32_available


@dataclass(frozen=True)
class Precision:
    """
    Without any of these the network is computed in float32, and eagerly.

    Attributes:
        bf16: autocast to bfloat16; the weights stay in float32.
        tf32: matrix products and convolutions in TF32, on an Ampere or newer GPU.
        torch_compile: by `torch.compile`; batches of fewer utterances are filled up, so that it runs once.
    """

    bf16: bool = False
    tf32: bool = False
    torch_compile: bool = False

    def describe(self) -> dict[str, bool]:
        """The arguments that are set."""
        return {name: True for name, is_set in vars(self).items() if is_set}

    def apply(self, model: PreTrainedModel, device: torch.device) -> None:
        """Have the model computed so from now on. ValueError: TF32 where there is none, or not by PyTorch."""
        if self.describe() and not isinstance(model, PreTrainedModel):
            raise ValueError(f"--{next(iter(self.describe()))} is for PyTorch, not for ONNX. Leave it out.")
        if self.tf32 and not (device.type == "cuda" and is_torch_tf32_available()):
            raise ValueError("--tf32 needs an Ampere or newer GPU. Leave it out.")
        if device.type == "cuda":
            for kind in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
                kind.fp32_precision = "tf32" if self.tf32 else "ieee"  # convolutions are in TF32 by default
        if self.bf16:
            model.forward = torch.autocast(device.type, torch.bfloat16)(model.forward)
        if self.torch_compile:
            model.forward = _fill_up(torch.compile(model.forward, dynamic=False))


def _fill_up(forward: Callable) -> Callable:
    """Repeat the last utterance of a batch, up to the size of the first, and drop what is made of that."""
    size = 0

    def run(**inputs: torch.Tensor):
        nonlocal size
        count = len(inputs["input_values"])
        size = max(size, count)
        places = torch.arange(size, device=inputs["input_values"].device).clamp(max=count - 1)
        outputs = forward(**{name: tensor[places] for name, tensor in inputs.items()})
        for name in {"logits", "embeddings"} & outputs.keys():  # code of others may give no embeddings
            outputs[name] = outputs[name][:count]
        return outputs

    return run
