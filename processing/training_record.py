"""The end of training: the model is saved, what was saved is evaluated, and what it took is recorded."""

import dataclasses
import resource
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForAudioClassification, Trainer

from .base_model import RECORD_NAME
from .collation import AudioCollator
from .files import move_model, write_json, write_text
from .models import align_weights
from .pooling import list_scopes
from .precision import Precision
from .results import (
    choose_decision_threshold,
    describe_environment,
    describe_model,
    evaluate_corpus,
    find_asv_rates,
    write_results,
)
from .scoring import Batches, score_rows
from .trials import Corpus, list_trials


def save_and_evaluate(
    trainer: Trainer, collator: AudioCollator, corpus: Corpus, splits: dict[str, tuple[str, Dataset]]
) -> list[dict]:
    """
    Save the model, with its scores shifted so that the dev EER threshold is the decision threshold 0 (see
    `set_decision_threshold` of the models), score dev and eval in float32 with what was saved, and write
    scores, results and plots. The files of the model appear in the Trainer's folder when they are complete,
    the config last.

    `splits` are, by "dev" and "eval", how the split is called and its rows. Returns the results of each, on
    the main process; of several corpora those of all together and of each.
    """
    folder = Path(trainer.args.output_dir)
    unfinished = folder / ".unfinished"
    if trainer.is_world_process_zero():
        trainer.model.save_pretrained(unfinished)
        collator.feature_extractor.save_pretrained(unfinished)
    trainer.accelerator.wait_for_everyone()
    model = align_weights(AutoModelForAudioClassification.from_pretrained(unfinished))
    Precision().apply(model, trainer.args.device)  # TF32 of training ends here
    batches = Batches(trainer.args.per_device_eval_batch_size, trainer.args.dataloader_num_workers)
    _, rows = splits["dev"]
    started = time.time()
    of_dev = score_rows(model, collator, rows, batches=batches, description="Scoring dev for the threshold")
    seconds_of_dev = time.time() - started
    threshold = choose_decision_threshold(list_trials(rows), of_dev.numpy())
    model.set_decision_threshold(threshold)
    is_shifted = model.config.decision_threshold != threshold
    if trainer.is_world_process_zero():
        model.save_pretrained(unfinished)
    all_results = []
    for role, (spec, rows) in splits.items():
        if role == "dev" and not is_shifted:  # a model without a last layer
            scores, seconds = of_dev.numpy(), seconds_of_dev
        else:
            started = time.time()
            description = f"Scoring {role}"
            scores = score_rows(model, collator, rows, batches=batches, description=description).numpy()
            seconds = time.time() - started
        if not trainer.is_world_process_zero():
            continue
        if role == "dev":
            move_model(unfinished, folder)
        for scope in list_scopes(corpus, spec, list_trials(rows)):
            if not all(scope.counts.values()):  # the pool's results count them
                continue
            asv, asv_files = find_asv_rates(scope.corpus, scope.split, scope.trials)
            own = scores[scope.places]
            results = evaluate_corpus(scope.corpus, scope.split, scope.trials, own, asv=asv)
            results |= {"asv_score_files": asv_files, **describe_model(folder)}
            if not scope.folder:
                results["seconds"] = round(seconds, 1)
            place = folder / "results" / role / scope.folder
            write_results(place, results, scope.trials, {results["model"]: own})
            all_results.append(results)
    trainer.accelerator.wait_for_everyone()
    return all_results


def write_training_record(
    folder: Path, recipe: Mapping, trainer: Trainer, record: Mapping, *, started: float
) -> None:
    """
    Write into the folder of a run `recipe.yaml`, as it was run, `trainer_state.json`, the Trainer's log
    without paths of this machine, and `training.json`: the record, with model, machine and time added since
    `started`, in seconds since the epoch.
    """
    write_text(folder / "recipe.yaml", yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))
    best = trainer.state.best_model_checkpoint
    state = dataclasses.replace(trainer.state, best_model_checkpoint=best and Path(best).name)
    state.save_to_json(str(folder / "trainer_state.json"))
    is_chosen = trainer.args.load_best_model_at_end and best is not None
    record = {
        **record,
        # `None`: the last state is kept.
        "chosen_by": trainer.args.metric_for_best_model if is_chosen else None,
        "seed": trainer.args.seed,
        "class_weights": trainer.model.config.class_weights,
        "num_parameters": trainer.model.num_parameters(),
        "num_processes": trainer.args.world_size,
        "date": date.fromtimestamp(started).isoformat(),
        "seconds": round(time.time() - started, 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        **describe_environment(),
    }
    write_json(folder / RECORD_NAME, record, default=str)
