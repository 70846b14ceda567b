"""One optimizer step on 8 utterances, divided into batches, accumulation steps and processes, and the batch
statistics of an average. As a script it is one of the processes."""

import copy
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_base_model import ENCODER_SIZES
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from modeling import (
    RawNet2Config,
    RawNet2ForAudioClassification,
    Wav2Vec2AntiSpoofingConfig,
    Wav2Vec2AntiSpoofingForAudioClassification,
)
from processing.averaging import estimate_batch_statistics
from processing.training import AntiSpoofingTrainer, make_metrics


LABELS = torch.tensor([0, 1, 1, 1, 0, 1, 1, 1])  # 1 is spoof
WEIGHTS = {"bonafide": 9.0, "spoof": 1.0}


def make_model(loss: str = "weighted_cross_entropy") -> Wav2Vec2AntiSpoofingForAudioClassification:
    """A model whose utterances do not see each other: no batch normalisation, no dropout."""
    no_dropout = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout"), 0.0)
    encoder = {"model_type": "wav2vec2", **ENCODER_SIZES, "feat_proj_dropout": 0.0, **no_dropout}
    settings = {
        "num_trainable_layers": 1,
        "num_samples": 2000,
        "classifier_dropout": 0.0,
        "class_weights": WEIGHTS,
        "loss": loss,
    }
    torch.manual_seed(0)
    return Wav2Vec2AntiSpoofingForAudioClassification(
        Wav2Vec2AntiSpoofingConfig(encoder_config=encoder, **settings)
    )


def make_rows() -> list[dict]:
    waveforms = torch.randn(8, 2000, generator=torch.Generator().manual_seed(0))
    return [{"input_values": w, "labels": label} for w, label in zip(waveforms, LABELS, strict=True)]


def take_step(
    folder: Path,
    batch_size: int,
    num_batches: int,
    *,
    trainer_class: type = AntiSpoofingTrainer,
    loss: str = "weighted_cross_entropy",
) -> Trainer:
    """Train by one step of gradient descent at rate 1: the gradient is what the weights lost."""
    arguments = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant"}
    arguments |= {"max_grad_norm": 0.0, "save_strategy": "no", "logging_steps": 1, "use_cpu": True}
    settings = {"eval_collator": collate} if trainer_class is AntiSpoofingTrainer else {}
    model = make_model(loss)
    trainer = trainer_class(
        model=model,
        args=TrainingArguments(
            str(folder),
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=batch_size,
            gradient_accumulation_steps=num_batches,
            **arguments,
        ),
        train_dataset=make_rows(),
        eval_dataset=make_rows()[:5],
        data_collator=collate,
        compute_metrics=make_metrics(model),
        **settings,
    )
    trainer.train()
    return trainer


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def expect(normalizer: float) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss, which is the sum of weight * cross-entropy over `normalizer`, and the weights after the step,
    by plain autograd on all utterances."""
    model, batch = make_model().train(), collate(make_rows())
    before = copy.deepcopy(model.state_dict())
    losses = F.cross_entropy(model(batch["input_values"]).logits, batch["labels"], reduction="none")
    weights = torch.tensor([WEIGHTS["bonafide"], WEIGHTS["spoof"]])[batch["labels"]]
    loss = (weights * losses).sum() / normalizer
    loss.backward()
    after = {n: p.detach() - p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.item(), before | after


def estimate_statistics(folder: Path) -> torch.nn.Module:
    """A model whose batch normalisation has the statistics of the 8 utterances in batches of 2."""
    torch.manual_seed(0)
    sizes = {"sinc_filters": 4, "block_channels": [4], "gru_hidden_size": 4, "embedding_size": 4}
    model = RawNet2ForAudioClassification(RawNet2Config(num_samples=2000, **sizes))
    arguments = {"per_device_train_batch_size": 2, "train_sampling_strategy": "sequential", "use_cpu": True}
    args = TrainingArguments(str(folder), **arguments)
    trainer = Trainer(model, args, train_dataset=make_rows(), data_collator=collate)
    estimate_batch_statistics(trainer)
    return model


if __name__ == "__main__":
    trainer = take_step(Path(sys.argv[-1]), 2, 2)
    if trainer.is_world_process_zero():
        trainer.model.save_pretrained(sys.argv[-1])
        trainer.state.save_to_json(str(Path(sys.argv[-1], "trainer_state.json")))
    statistics = dict(estimate_statistics(Path(sys.argv[-1])).named_buffers())
    save_file(statistics, Path(sys.argv[-1], f"statistics-{trainer.args.process_index}.safetensors"))
