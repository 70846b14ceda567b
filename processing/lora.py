"""
Low-rank adaptation (LoRA; Hu et al., ICLR 2022) of an encoder by peft: the weight W of a projection stays as
it is, and of W + 2 B A the small A and B are trained.
"""

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear, LoraLayer
from torch import nn
from transformers import PreTrainedModel


TARGETS = ["q_proj", "v_proj"]  # query and value of every block's attention, as Hu et al. choose


class AdaptedLinear(Linear):
    """peft's LoRA of a linear layer, which also adapts one whose weight alone is used, as WavLM's attention
    does; with peft's own, nothing would be trained there."""

    @property
    def weight(self) -> torch.Tensor:
        weight = self.get_base_layer().weight
        return weight if self.merged else weight + sum(map(self.get_delta_weight, self.active_adapters))


def add_lora(encoder: PreTrainedModel, rank: int) -> None:
    """Put adapters into all blocks of an encoder, in place; of the encoder, they alone are trained then."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS)
    config._register_custom_module({nn.Linear: AdaptedLinear})
    inject_adapter_in_model(config, encoder)


def merge_lora(encoder: PreTrainedModel) -> None:
    """Add what the adapters have learnt to the weights that they adapt, and take them out, in place."""
    for name, module in [*encoder.named_modules()]:
        if isinstance(module, LoraLayer):
            module.merge()
            encoder.set_submodule(name, module.get_base_layer())
