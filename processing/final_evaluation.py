"""The end of training: the model is saved, and what was saved is evaluated."""

import os
import time
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForAudioClassification, Trainer

from .collation import AudioCollator
from .pretrained import align_weights
from .results import (
    describe_environment,
    describe_model,
    evaluate_corpus,
    find_asv_scores,
    write_results,
)
from .rows import Corpus, columns_of
from .scoring import Batches, score_rows


def save_and_evaluate(
    trainer: Trainer, collator: AudioCollator, corpus: Corpus, splits: dict[str, tuple[str, Dataset]]
) -> list[dict]:
    """
    Save the model, score dev and eval in float32 with what was saved, and write scores and results of each.
    The dev EER threshold becomes the `decision_threshold` of the config. The files of the model appear in
    the Trainer's folder when they are complete, the config last.

    Args:
        trainer: after training.
        collator: of evaluation.
        corpus: that the splits are of.
        splits: by "dev" and "eval": how the split is called, and its rows.

    Returns:
        The results of each split, on the main process.
    """
    folder = Path(trainer.args.output_dir)
    unfinished = folder / ".unfinished"
    if trainer.is_world_process_zero():
        trainer.model.save_pretrained(unfinished)
        collator.feature_extractor.save_pretrained(unfinished)
    trainer.accelerator.wait_for_everyone()
    model = align_weights(AutoModelForAudioClassification.from_pretrained(unfinished))
    all_results = []
    for role, (spec, rows) in splits.items():
        started = time.time()
        scores = score_rows(
            model,
            collator,
            rows,
            batches=Batches(trainer.args.per_device_eval_batch_size, trainer.args.dataloader_num_workers),
            description=f"Scoring {role}",
        ).numpy()
        if not trainer.is_world_process_zero():
            continue
        seconds = {"seconds": round(time.time() - started, 1)}
        trials = columns_of(rows)
        asv, asv_files = find_asv_scores(corpus, spec)
        results = evaluate_corpus(corpus, spec, trials, scores, asv=asv)
        if role == "dev":
            model.config.decision_threshold = results["eer_threshold"]
            model.config.save_pretrained(unfinished)
            publish_files(unfinished, folder)
        results |= {"asv_score_files": asv_files, **describe_model(folder), **seconds}
        write_results(folder / "results" / role, {**results, **describe_environment()}, trials, scores)
        all_results.append(results)
    trainer.accelerator.wait_for_everyone()
    return all_results


def publish_files(source: Path, folder: Path) -> None:
    """Move the files of a complete model into place, config.json, which makes it loadable, last."""
    (folder / "config.json").unlink(missing_ok=True)
    for path in sorted(source.iterdir(), key=lambda path: path.name == "config.json"):
        os.replace(path, folder / path.name)
    source.rmdir()
