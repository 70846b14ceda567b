"""
The mean of a model's parameters over several checkpoints of one training, which often generalises better than
the best of them: over the K of lowest dev EER (as Liu et al., arXiv:2504.05657, of 3 or 5), or stochastic
weight averaging as AASIST's authors do it (main.py of https://github.com/clovaai/aasist).
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm  # tqdm.auto would start the workers of a loader twice
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from metrics.names import format_value

from .arguments import SWA
from .collation import AudioCollator
from .files import read_json, write_whole


FOLDER = "averaging"  # in the output folder, with the parameters of the evaluations that may be averaged
SWA_HIGHEST_EER = 0.01  # the authors' code takes 1 % for the lowest dev EER before the first epoch


def list_evaluations(log_history: Iterable[Mapping]) -> dict[int, Mapping]:
    """The evaluations of trained weights in a Trainer's log, by step."""
    return {entry["step"]: entry for entry in log_history if "eval_eer" in entry and entry["step"] > 0}


def choose_steps(log_history: Iterable[Mapping], average: str) -> list[int]:
    """
    Steps of the evaluations that are averaged: by "swa" those whose dev EER is at most the lowest before, and
    at most 1 %; by a number so many of lowest dev EER, of equal ones those of lowest dev loss.
    """
    evaluations = list_evaluations(log_history)
    if average != SWA:
        ranked = sorted(evaluations, key=lambda s: (evaluations[s]["eval_eer"], evaluations[s]["eval_loss"]))
        return sorted(ranked[: int(average)])
    chosen, lowest = [], SWA_HIGHEST_EER
    for step in sorted(evaluations):
        if evaluations[step]["eval_eer"] <= lowest:
            chosen.append(step)
            lowest = evaluations[step]["eval_eer"]
    return chosen


class KeepingCallback(TrainerCallback):
    """
    Keeps the trained parameters of the evaluations that [`choose_steps`] chooses, as long as a checkpoint is
    there from which training may go on and average them: in float32, a file a step.
    """

    def __init__(self, average: str):
        self.average = average

    def on_evaluate(self, args, state, control, model, **kwargs):
        if state.is_world_process_zero and state.global_step in choose_steps(state.log_history, self.average):
            parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
            with write_whole(find_parameters(args.output_dir, state.global_step)) as partial:
                save_file(parameters, partial)

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        needed = set()
        for log in Path(args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json"):
            with suppress(ValueError):  # of a checkpoint that a kill left half-written
                steps = choose_steps(read_json(log)["log_history"], self.average)
                needed.update(find_parameters(args.output_dir, step) for step in steps)
        for path in Path(args.output_dir, FOLDER).glob("*.safetensors"):
            if path not in needed:
                path.unlink()

    on_train_end = on_save  # when `save_total_limit` 1 removes the last checkpoint, too


def find_parameters(output_dir: str, step: int) -> Path:
    """The file that holds the parameters of a step."""
    return Path(output_dir, FOLDER, f"step-{step}.safetensors")


def average_parameters(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The arithmetic mean of each tensor over several files, in float64."""
    means: dict[str, torch.Tensor] = {}
    for path in paths:
        for name, tensor in load_file(path).items():
            means[name] = means.get(name, 0) + tensor.double() / len(paths)
    return means


def keep_better_average(trainer: Trainer, average: str) -> dict | None:
    """
    Average the parameters that [`KeepingCallback`] kept, and leave the average in `trainer.model`, which
    holds the best checkpoint, unless its dev EER is higher. Of equal ones it is the average: the best
    checkpoint is the luckiest of many. Returns what was averaged and found, for `training.json`; `None` where
    there are not two checkpoints to average. All processes call it.
    """
    model, state = trainer.model, trainer.state
    trainer.accelerator.wait_for_everyone()  # until the last parameters are written
    steps = choose_steps(state.log_history, average)
    paths = [find_parameters(trainer.args.output_dir, step) for step in steps]
    num_kept = sum(path.is_file() for path in paths)
    if num_kept < max(2, len(steps)):
        PartialState().print(
            f"No average is made, which takes two checkpoints: --average_checkpoints {average} chooses "
            f"{len(steps)}, and {FOLDER}/ holds {num_kept} of them."
        )
        return None
    best = copy.deepcopy(model.state_dict())
    model.load_state_dict(average_parameters(paths), strict=False)
    estimate_batch_statistics(trainer)
    averaged = copy.deepcopy(model.state_dict())
    eer = trainer.predict(trainer.eval_dataset, metric_key_prefix="average").metrics["average_eer"]
    eer_of_best = list_evaluations(state.log_history)[state.best_global_step]["eval_eer"]
    is_kept = eer <= eer_of_best
    model.float().load_state_dict(averaged if is_kept else best)  # `bf16_full_eval` has rounded it
    PartialState().print(
        f"Dev EER of the best checkpoint: {format_value('eer', eer_of_best)}; of the average of {len(steps)} "
        f"(steps {', '.join(map(str, steps))}): {format_value('eer', eer)}. "
        f"The {'average' if is_kept else 'best checkpoint'} is kept."
    )
    return {"steps": steps, "eer": eer, "eer_of_best": eer_of_best, "is_kept": is_kept}


@torch.no_grad()
def estimate_batch_statistics(trainer: Trainer) -> None:
    """
    Mean and variance of every batch normalisation that is trained, as the mean over the batches of a pass
    over the training split, the same in all processes; as [`torch.optim.swa_utils.update_bn`].
    """
    model, accelerator = trainer.model.train(), trainer.accelerator
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # all batches count the same
    set_seed(trainer.args.seed)  # of the order and of dropout, which a resumed run has, too
    if isinstance(trainer.data_collator, AudioCollator):
        trainer.data_collator.epoch.fill_(math.ceil(trainer.state.epoch))
    bar = {"desc": "Batch statistics of the average", "disable": not trainer.is_world_process_zero()}
    for batch in tqdm(trainer.get_train_dataloader(), **bar):
        model(**batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            statistic.copy_(accelerator.reduce(statistic, "mean"))
