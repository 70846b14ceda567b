"""Train a countermeasure: accelerate launch train.py --model rawnet2 [--data_dir LA] [any
TrainingArguments]."""

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    TrainingArguments,
    set_seed,
)

from hub_cards.card import write_trained_card
from hub_cards.checks import without_folder
from hub_cards.publish import PublishingError, Target, check_access, publish_trained, training_target
from hub_cards.recipe import MACHINE_ARGUMENTS, Recipe, check_keys, find_recipe, load_recipe, systems
from modeling import LFCCGMMConfig, LFCCGMMForAudioClassification
from modeling.recipe_settings import checked_settings
from modeling.training_lfcc_gmm import USED_ARGUMENTS, EMArguments, LFCCGMMTrainer
from processing.base_model import RANDOM, record_base_model
from processing.collation import AudioCollator, label_ids
from processing.command_line import ArgumentParser, keep_freed_memory, share_out_cores
from processing.corpora import (
    CorpusArguments,
    SplitArguments,
    load_corpus,
    split_specs,
    take_split,
)
from processing.models import build_model, describe_parameters
from processing.origin import describe_start, describe_training
from processing.report import describe_results, describe_split
from processing.scoring import Batches, digest_rows
from processing.training import (
    AntiSpoofingTrainer,
    eer_metric,
    find_checkpoint,
)
from processing.training_record import save_and_evaluate, write_training_record
from processing.trials import Corpus, class_counts
from processing.trunk_cache import TrunkCollator, cache_trunk


# Where the recipe is silent. The recipe overrides these, and the command line overrides both.
DEFAULTS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eer",
    "greater_is_better": False,
    "restore_callback_states_from_checkpoint": True,
    "remove_unused_columns": False,
    "logging_steps": 10,
    "ddp_find_unused_parameters": False,
    "dataloader_pin_memory": torch.cuda.is_available(),
    "report_to": "tensorboard",
    "dataloader_num_workers": min(8, os.cpu_count() or 1) if torch.cuda.is_available() else 0,
}

# Of who trains, so neither in a recipe nor in the record of a run.
OF_THE_ACCOUNT = {"push_to_hub"} | {f.name for f in dataclasses.fields(TrainingArguments) if "hub_" in f.name}


@dataclass
class ModelArguments:
    """What is trained, beyond `TrainingArguments`."""

    model: str = field(
        metadata={
            "help": f"A system ({', '.join(systems())}), a YAML file, or a trained model's folder to go on "
            "from."
        }
    )
    crop: str = field(
        default="start",
        metadata={"help": "Where training crops: start or random.", "choices": ["start", "random"]},
    )
    optimizer: str | None = field(
        default=None,
        metadata={
            "help": "adam: torch.optim.Adam instead of --optim, its weight decay as an L2 term in the "
            "gradient of every parameter.",
            "choices": ["adam"],
        },
    )
    base_model: str | None = field(
        default=None,
        metadata={
            "help": "Where a system on a pretrained encoder takes the encoder's weights from: an id on "
            f"the Hub, a folder, or {RANDOM!r} for random ones. Read once, before training."
        },
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Attention of a pretrained encoder: sdpa, flash_attention_2 or eager (WavLM: eager)."
        },
    )
    cache_frozen_trunk: bool = field(
        default=False,
        metadata={
            "help": "Compute what the frozen part of the model gives of every utterance once, keep it on "
            "disk, and train on that."
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations in a row without a lower dev EER."}
    )
    num_threads: int | None = field(
        default=None,
        metadata={
            "help": "CPU threads of each process; without it, the cores are shared out over the processes."
        },
    )


@dataclass
class Run:
    """All that a run is asked to do, as [`parse_arguments`] finds it out."""

    recipe: Recipe
    weights: Path | None  # the folder of a trained model to go on from
    model_args: ModelArguments
    corpus_args: CorpusArguments
    split_args: SplitArguments
    em_args: EMArguments
    args: TrainingArguments
    overrides: dict  # what the command line changes of the recipe's training
    reduced: dict  # what is reduced of it on the demo corpus
    target: Target | None  # where the finished run is published


def main(argv: list[str]) -> None:
    """Train, evaluate and save what the arguments ask for."""
    started = time.time()
    keep_freed_memory()
    try:
        run = parse_arguments(argv)
        if run.target and PartialState().is_main_process:
            check_access(run.target)  # before training, which may take hours
        checkpoint = find_checkpoint(Path(run.args.output_dir), run.args.resume_from_checkpoint)
        share_out_cores(run.model_args.num_threads, run.args.device)
        with PartialState().main_process_first():
            corpus = load_corpus(run.corpus_args)
        specs = split_specs(run.split_args, corpus)
        splits = {split: take_split(corpus, spec) for split, spec in specs.items()}
        announce(run, corpus, specs, splits)
        check_batches(run.args, len(splits["train"]))
        set_seed(run.args.seed)
        with PartialState().main_process_first():  # which fetches what is on the Hub
            model, extractor, base_model = build_model(
                *checked_settings(run.recipe, class_counts(splits["train"])),
                weights=run.weights,
                checkpoint=checkpoint,
                base_model=run.model_args.base_model,
                attn_implementation=run.model_args.attn_implementation,
            )
            started_from = run.weights and describe_start(run.weights)  # as they are now, not after training
        is_new = run.weights is None and checkpoint is None
        PartialState().print(describe_parameters(model, base_model if is_new else None))
        ids = label_ids(splits["train"].features["label"].names, model.config.label2id)
        collator = AudioCollator(extractor, ids)
        inputs = prepare_inputs(run, model, collator, splits)
    except (ValueError, FileNotFoundError, FileExistsError, PublishingError) as error:
        sys.exit(f"train.py: error: {error}")

    patience = run.model_args.early_stopping_patience
    if patience is not None and run.args.eval_strategy == "no":
        PartialState().print("Without evaluation during training there is no early stopping.")
        patience = None
    if isinstance(model, LFCCGMMForAudioClassification):
        trainer = LFCCGMMTrainer(
            model=model,
            args=run.args,
            train_dataset=splits["train"],
            eval_dataset=splits["dev"],
            data_collator=collator,
            processing_class=extractor,
            em_args=run.em_args,
            digest=digest_rows,
            is_new=run.weights is None,
        )
    else:
        trainer = AntiSpoofingTrainer(
            model=model,
            args=run.args,
            **inputs,
            optimizer=run.model_args.optimizer,
            processing_class=extractor,
            compute_metrics=eer_metric(model.config.label2id),
            callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
        )
    folder = Path(run.args.output_dir)
    if base_model is not None and trainer.is_world_process_zero():
        record_base_model(folder, base_model)
    with em_errors(trainer):
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    evaluated = {role: (specs[role], splits[role]) for role in ("dev", "eval") if role in splits}
    results = save_and_evaluate(trainer, collator, corpus, evaluated)
    PartialState().destroy_process_group()  # its threads may abort a process that ends before them
    if trainer.is_world_process_zero():
        recipe, overridden = as_run(run, corpus, base_model)
        record = {
            "system": run.recipe.system,
            "overridden": overridden,
            "reduced_on_demo": run.reduced,
            "corpus": corpus.name,
            "splits": specs,
            "counts": {split: class_counts(rows) for split, rows in splits.items()},
            "missing": corpus.missing,
            **({"note": corpus.note} if corpus.note else {}),
            **({"base_model": base_model} if base_model else {}),
            **({"started_from": started_from} if started_from else {}),
        }
        record["origin"] = describe_training(record, run.recipe.card)
        write_training_record(folder, recipe, trainer, record, started=started)
        report(folder, results)
        if run.target:
            publish_trained(folder, run.target)


@contextmanager
def em_errors(trainer: AntiSpoofingTrainer | LFCCGMMTrainer) -> Iterator[None]:
    """The errors of EM, which are of its state, its settings or the corpus, end the program in one line."""
    try:
        yield
    except ValueError as error:
        if isinstance(trainer, LFCCGMMTrainer):
            sys.exit(f"train.py: error: {error}")
        raise


def parse_arguments(argv: list[str]) -> Run:
    """
    The recipe that `--model` names gives the defaults, and the command line overrides them.

    Raises:
        ValueError, FileNotFoundError: a recipe that is not there or not valid.
        SystemExit: an argument that is not known, with the nearest one, or not valid.
    """
    parser = ArgumentParser(
        (ModelArguments, CorpusArguments, SplitArguments, EMArguments, TrainingArguments),
        prog="train.py",
        description=__doc__,
        allow_abbrev=False,
    )
    parser.set_defaults(**DEFAULTS)
    given = parser.parse_checked(argv)
    path, weights = find_recipe(given.model)
    recipe = load_recipe(path)
    names = [f.name for c in (ModelArguments, EMArguments, TrainingArguments) for f in dataclasses.fields(c)]
    valid = set(names) - {"model", "output_dir", "resume_from_checkpoint"} - OF_THE_ACCOUNT
    valid -= without_effect(recipe, names)
    check_keys(recipe.training, valid, f"{path}, training")
    check_keys(recipe.demo_training, valid, f"{path}, demo_training")
    chosen = parser.chosen(argv)
    if "lr_scheduler_type" in chosen and given.lr_scheduler_type != recipe.training.get("lr_scheduler_type"):
        recipe.training.pop("lr_scheduler_kwargs", None)  # of the schedule that is not used
    if {"optim", "optimizer"} <= recipe.training.keys():
        raise ValueError(f"{path}, training: optim and optimizer both name the optimizer; state one of them.")
    if {"optim", "optimizer"} <= chosen:
        parser.error("--optim and --optimizer both name the optimizer: give one of them")
    if "optim" in chosen:
        recipe.training.pop("optimizer", None)
    corpus_args = CorpusArguments(
        **{f.name: getattr(given, f.name) for f in dataclasses.fields(CorpusArguments)}
    )
    reduced = recipe.demo_training if corpus_args.is_demo else {}
    output_dir = f"runs/{recipe.system}" + ("-demo" if corpus_args.is_demo else "")
    defaults = {"output_dir": output_dir, **recipe.training, **reduced}
    # As text, a value of the YAML is checked and converted as one of the command line.
    parser.set_defaults(
        **{k: v if v is None or isinstance(v, (dict, list)) else str(v) for k, v in defaults.items()}
    )

    model_args, corpus_args, split_args, em_args, args = parser.parse_args_into_dataclasses(
        argv, look_for_args_file=False
    )
    if wrong := sorted(chosen & without_effect(recipe, names)):
        parser.error(f"--{wrong[0]} has no effect on {recipe.model.get('model_type')}; leave it out")
    target = training_target(args, chosen)
    check_combinations(parser, model_args, args)
    if model_args.base_model is not None and weights is not None and "base_model" in chosen:
        parser.error(f"--base_model goes with a new model, but {weights} holds a trained one")
    # How and where, not what.
    chosen -= {"output_dir", "resume_from_checkpoint", "num_threads"} | OF_THE_ACCOUNT
    parsed = {**vars(args), **vars(model_args), **vars(em_args)}
    overrides = {
        key: parsed[key] if isinstance(parsed[key], dict) else getattr(given, key)
        for key in names
        if key in chosen and key != "model"
    }
    reduced = {key: value for key, value in reduced.items() if key not in chosen}
    run = (recipe, weights, model_args, corpus_args, split_args, em_args, args, overrides, reduced, target)
    return Run(*run)


def check_combinations(parser: ArgumentParser, model_args: ModelArguments, args: TrainingArguments) -> None:
    """
    Raises:
        SystemExit: values that are not supported, or do not go together.
    """
    if args.label_smoothing_factor:
        parser.error(
            "--label_smoothing_factor is not supported: the Trainer's would bypass the class weights"
        )
    min_lr = (args.lr_scheduler_kwargs or {}).get("min_lr")
    if min_lr is not None and float(min_lr) > args.learning_rate:
        parser.error(
            f"--learning_rate {args.learning_rate} is below the schedule's min_lr {min_lr}, to which it "
            "would rise: give another in --lr_scheduler_kwargs"
        )
    if model_args.crop not in ("start", "random"):
        parser.error(f"crop {model_args.crop!r} is not one of start, random")
    if model_args.optimizer not in (None, "adam"):
        parser.error(f"optimizer {model_args.optimizer!r} is not adam; optim names those of the Trainer")
    if (model_args.attn_implementation or "").startswith("flash"):
        if not (args.bf16 or args.fp16):
            parser.error("--attn_implementation: flash attention needs --bf16 or --fp16")
        if model_args.cache_frozen_trunk:
            parser.error("--cache_frozen_trunk computes in float32, which flash attention does not")
    if model_args.cache_frozen_trunk and model_args.crop != "start":
        parser.error(
            "--cache_frozen_trunk keeps one crop of each utterance, so it does not go with --crop random"
        )


def without_effect(recipe: Recipe, names: list[str]) -> set[str]:
    """Those of the arguments that training of this system, by EM or by gradient, does not use."""
    of_em = {f.name for f in dataclasses.fields(EMArguments)}
    if recipe.model.get("model_type") != LFCCGMMConfig.model_type:
        return of_em
    used = {"model", "num_threads", *of_em, *USED_ARGUMENTS, *OF_THE_ACCOUNT}
    return {name for name in names if name not in used}


def prepare_inputs(
    run: Run, model: PreTrainedModel, collator: AudioCollator, splits: dict[str, Dataset]
) -> dict[str, Dataset | AudioCollator | TrunkCollator]:
    """
    What the Trainer trains and evaluates on: audio, or what the frozen part of the model gives of it.

    Raises:
        ValueError: see [`cache_trunk`].
    """
    crop = {"crop": run.model_args.crop, "seed": run.args.seed}
    train, dev = splits["train"], splits["dev"]
    collators = [AudioCollator(collator.feature_extractor, collator.label_ids, **crop), collator]
    if run.model_args.cache_frozen_trunk:
        batches = Batches(run.args.per_device_eval_batch_size, run.args.dataloader_num_workers)
        train = cache_trunk(model, collators[0], train, batches=batches, description="train")
        dev = cache_trunk(model, collators[1], dev, batches=batches, description="dev")
        collators = [TrunkCollator(collator.label_ids)] * 2
    names = ("train_dataset", "eval_dataset", "data_collator", "eval_collator")
    return dict(zip(names, (train, dev, *collators), strict=True))


def check_batches(args: TrainingArguments, num_utterances: int) -> None:
    """
    Raises:
        ValueError: not one whole batch, where others are dropped: nothing would be trained.
    """
    needed = args.train_batch_size * args.world_size
    if args.dataloader_drop_last and num_utterances < needed:
        raise ValueError(
            f"The training split has {num_utterances:,} utterances, fewer than a batch of {needed:,}, and "
            "batches that are not whole are left out (dataloader_drop_last): lower "
            "--per_device_train_batch_size."
        )


def announce(run: Run, corpus: Corpus, specs: dict[str, str], splits: dict[str, Dataset]) -> None:
    """Say what is going to be done, before it takes long."""
    say = PartialState().print
    if corpus.note:
        say(corpus.note)
    say(f"System: {run.recipe.system}")
    for key, value in run.reduced.items():
        say(f"Reduced on the demo corpus: {key} {value} instead of {run.recipe.training.get(key)}")
    for key, value in run.overrides.items():
        say(f"From the command line: {key} {value}")
    for split, rows in splits.items():
        say(f"Corpus: {describe_split(corpus, specs[split], class_counts(rows))}")
    if "eval" not in splits:
        say("There is no eval split: only the dev EER, by which the model is chosen, will be known.")
    for split, missing in corpus.missing.items():
        if split not in corpus.splits:
            say(f"Left out: {corpus.name} {split}, all audio of its {missing:,} trials is missing")


def as_run(run: Run, corpus: Corpus, base_model: dict | None) -> tuple[dict, dict]:
    """The recipe as it was run, and what the command line changed of it."""
    recipe, overridden = dataclasses.asdict(run.recipe) | {"corpus": corpus.name}, dict(run.overrides)
    recipe["training"] |= {key: value for key, value in run.overrides.items() if key not in MACHINE_ARGUMENTS}
    for settings in (recipe["training"], overridden):  # names, and not where things lay on this machine
        settings |= {key: without_folder(value) for key, value in settings.items() if isinstance(value, str)}
        if base_model and "base_model" in settings:
            settings["base_model"] = base_model["name"]
    return recipe, overridden


def report(folder: Path, results: list[dict]) -> None:
    """Print what the run was for, and write its card."""
    for result in results:
        print(describe_results(result), end="\n\n")
    write_trained_card(folder)
    print(f"Model, card, scores and results: {folder.resolve()}")


if __name__ == "__main__":
    main(sys.argv[1:])
