"""Train a countermeasure: accelerate launch train.py --model rawnet2 [--data_dir LA] [any
TrainingArguments]."""

# ruff: noqa: E402  one who asks for help does not wait for the imports of a training

import dataclasses
import sys
from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from hub_cards.recipe import MACHINE_ARGUMENTS, Recipe, find_recipe, list_systems, load_recipe
from processing.arguments import (
    RANDOM,
    ArgumentParser,
    CorpusArguments,
    EMArguments,
    EMSettings,
    GradientArguments,
    SplitArguments,
)


@dataclass
class ModelArguments:
    """What is trained, beyond `TrainingArguments`."""

    _argument_group_name = "model"

    model: str = HfArg(
        help=f"A system ({', '.join(list_systems())}), a YAML file, or a trained model's folder to go on "
        "from."
    )
    base_model: str | None = HfArg(
        default=None,
        help="Where a system on a pretrained encoder (wav2vec 2.0 and its kin, Whisper) takes the encoder's "
        f"weights from: an id on the Hub, a folder, or {RANDOM!r} for random ones. Read once, before "
        "training.",
    )
    num_trainable_layers: str | None = HfArg(
        default=None,
        help="How many of the topmost blocks of a pretrained encoder are trained, with all below frozen, or "
        "all; default: as the system's model says.",
    )
    attn_implementation: str | None = HfArg(
        default=None,
        help="Attention of a pretrained encoder: sdpa, flash_attention_2 or eager (WavLM: eager).",
    )
    num_threads: int | None = HfArg(
        default=None,
        help="CPU threads of each process; without it, the cores are shared out over the processes.",
    )


# The project's own arguments. Those of transformers' Trainer, which come behind them, take long to import.
OWN_ARGUMENTS = (ModelArguments, CorpusArguments, SplitArguments, GradientArguments, EMArguments)
ABOUT = {"prog": "train.py", "usage": "%(prog)s --model MODEL [arguments]", "description": __doc__}


def require_model(argv: list[str]) -> None:
    """Print the help of the project's own arguments, or say that one is missing, unless a model is named."""
    rest = (
        "All of transformers' TrainingArguments, such as --output_dir, are arguments, too: train.py --model "
        "MODEL --help shows them, and the values that the system sets."
    )
    parser = ArgumentParser(OWN_ARGUMENTS, epilog=rest, **ABOUT)
    if parser.peek(argv, "model").model is None:
        parser.parse(argv)


if __name__ == "__main__":
    require_model(sys.argv[1:])

import json
import time
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import TrainingArguments, set_seed
from transformers.utils import is_peft_available

from hub_cards.card import write_trained_card
from hub_cards.publish import PublishingError, Target, check_access, find_target, publish_trained
from modeling import ARCHITECTURES, LFCCGMMConfig
from processing.augmentation import build_augmentation
from processing.averaging import keep_better_average
from processing.checkpoints import find_checkpoint
from processing.collation import AudioCollator, RecordingError, label_ids
from processing.corpora import load_corpus, split_specs, take_readable_splits
from processing.em import EMError
from processing.files import strip_folders
from processing.machine import count_workers, keep_freed_memory, share_out_cores
from processing.models import build_model, describe_parameters
from processing.origin import describe_start, describe_training
from processing.pooling import Scope, list_scopes, record_part, repeat_rows
from processing.report import describe_corpora, describe_results
from processing.run_settings import check_same_settings, describe_settings, record_start
from processing.streamed_rows import is_streamed
from processing.trainer_arguments import TrainerArguments, check_trainer_arguments
from processing.training import build_trainer
from processing.training_lfcc_gmm import STATE_FOLDER, USED_ARGUMENTS
from processing.training_record import save_and_evaluate, write_training_record
from processing.trials import Corpus, count_classes, list_trials


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
    "dataloader_num_workers": count_workers(torch.cuda.is_available()),
}

# Which recordings, of those that this machine has: a recipe may say it, that of a trained model does not.
DATA_ARGUMENTS = {f.name for group in (CorpusArguments, SplitArguments) for f in dataclasses.fields(group)}

# Of who trains, so neither in a recipe nor in the record of a run.
ACCOUNT_ARGUMENTS = {
    "push_to_hub",
    *(f.name for f in dataclasses.fields(TrainingArguments) if "hub_" in f.name),
}

# Of systems on a pretrained encoder only.
ENCODER_ARGUMENTS = {"base_model", "num_trainable_layers", "attn_implementation"}
ENCODER_ARGUMENTS |= {"layer_decay", "lora_rank", "cache_frozen_trunk"}


@dataclass
class Run:
    """
    All that a run is asked to do.

    Attributes:
        recipe: with what the command line leaves of it.
        weights: the folder of a trained model to go on from.
        given: the arguments that the command line gives, by name.
        overrides: what the command line changes of the recipe's training.
        reduced: what is reduced of it on the demo corpus.
        target: where the finished run is published.
    """

    recipe: Recipe
    weights: Path | None
    model_args: ModelArguments
    corpus_args: CorpusArguments
    split_args: SplitArguments
    gradient_args: GradientArguments
    em_args: EMArguments
    args: TrainingArguments
    given: dict
    overrides: dict
    reduced: dict
    target: Target | None = None

    def check(self) -> None:
        """ValueError, FileNotFoundError: arguments that are not supported, have no effect, or cannot be
        combined."""
        model, method, args = self.recipe.model, self.gradient_args, self.args
        model_type = model.get("model_type")
        if unused := self.given.keys() & find_unused_arguments(self.recipe, self.weights):
            of = f"the trained {model_type} in {self.weights}" if self.weights else model_type
            raise ValueError(f"--{min(unused)} has no effect on {of}. Leave it out.")
        if {"optim", "optimizer"} <= self.given.keys():
            raise ValueError("--optim and --optimizer both name the optimizer: give one of them.")
        self.recipe.check_model()
        if augmentation := build_augmentation(method.augmentation):
            method.augmentation = augmentation.stated  # in full, for the records
        min_lr = (args.lr_scheduler_kwargs or {}).get("min_lr")
        if min_lr is not None and float(min_lr) > args.learning_rate:
            raise ValueError(
                f"--learning_rate {args.learning_rate} is below the schedule's min_lr {min_lr}, to which it "
                "would rise: give another in --lr_scheduler_kwargs."
            )
        patience = method.early_stopping_patience
        if patience is not None and patience < 1:
            raise ValueError(
                f"--early_stopping_patience {patience} would end training at its first evaluation: give more "
                "than there are evaluations to never stop early."
            )
        if method.is_averaging and not args.load_best_model_at_end:
            raise ValueError(
                "--average_checkpoints compares the average with the best checkpoint, which "
                "--load_best_model_at_end False does not load. --average_checkpoints 1 makes no average."
            )
        if "eer_mean" in (args.metric_for_best_model or "") and len(self.corpus_args.dataset or ()) < 2:
            raise ValueError("--metric_for_best_model eer_mean is of several corpora, and there is one: eer.")
        if (self.model_args.attn_implementation or "").startswith("flash"):
            if not (args.bf16 or args.fp16):
                raise ValueError("--attn_implementation: flash attention needs --bf16 or --fp16.")
            if method.cache_frozen_trunk:
                raise ValueError(
                    "--cache_frozen_trunk cannot be combined with flash attention: it computes in float32."
                )
        if method.cache_frozen_trunk and (method.crop != "start" or method.augmentation):
            raise ValueError(
                "--cache_frozen_trunk cannot be combined with --crop random or augmentation: it keeps one "
                "crop of each utterance as it is. Leave it out, or add --crop start --augmentation '[]'."
            )
        if "shuffle_buffer" in self.given and not method.streaming:
            raise ValueError("--shuffle_buffer is of --streaming. Add that, or leave it out.")
        if method.streaming and method.cache_frozen_trunk:
            raise ValueError(
                "--cache_frozen_trunk keeps on disk what --streaming does not: leave one of them out."
            )
        if method.lora_rank and model.get("num_trainable_layers"):
            raise ValueError(
                "--lora_rank trains adapters instead of the encoder's own weights, but the system has "
                f"num_trainable_layers {model['num_trainable_layers']}: add --num_trainable_layers 0, or "
                "--lora_rank 0 for no adapters."
            )
        if method.lora_rank and not is_peft_available():
            raise ValueError('--lora_rank needs peft, which is not installed: pip install -e ".[lora]"')
        cannot = {c.model_type for c, n in ARCHITECTURES.items() if not n.supports_gradient_checkpointing}
        if args.gradient_checkpointing and model_type in cannot:  # the old name, which mirrors the new one
            raise ValueError(f"--activation_checkpointing is not possible with {model_type}. Leave it out.")
        self.choose_method()
        check_trainer_arguments(args)

    def choose_method(self) -> GradientArguments | EMSettings:
        """How the model is trained, with the settings of that. ValueError: EM does not allow them."""
        if self.recipe.model.get("model_type") != LFCCGMMConfig.model_type:
            return self.gradient_args
        return self.em_args.make_settings(self.args, is_new=self.weights is None)

    def describe_settings(self, specs: dict[str, str], splits: dict[str, Dataset]) -> dict:
        """What must not change when the run goes on from a checkpoint."""
        own_args = {**vars(self.gradient_args), **vars(self.em_args)}
        trained_on = {role: (specs[role], splits[role]) for role in ("train", "dev")}
        settings = describe_settings(self.args, own_args, trained_on)
        if self.gradient_args.streaming:  # whose workers have each their part of an epoch
            settings["dataloader_num_workers"] = self.args.dataloader_num_workers
        settings |= {"model": self.recipe.model, "feature_extractor": self.recipe.feature_extractor}
        # As they are now: training may write into their folder.
        return settings | {"started_from": self.weights and describe_start(self.weights)}

    def describe(
        self,
        corpus: Corpus,
        specs: dict[str, str],
        scopes: dict[str, list[Scope]],
        base_model: dict | None,
        settings: dict,
    ) -> tuple[dict, dict]:
        """The recipe as it was run, and what `training.json` says of the run; both without local folders."""
        recipe, overridden = dataclasses.asdict(self.recipe) | {"corpus": corpus.name}, dict(self.overrides)
        recipe["training"] |= {k: v for k, v in overridden.items() if k not in MACHINE_ARGUMENTS}
        recipe["training"] = {k: v for k, v in recipe["training"].items() if k not in DATA_ARGUMENTS}
        recipe["demo_training"] = {k: v for k, v in recipe["demo_training"].items() if k not in overridden}
        recipe["inferred"] = self.recipe.list_inferred(overridden)
        for arguments in (recipe["training"], overridden):
            if "augmentation" in arguments:
                arguments["augmentation"] = self.gradient_args.augmentation
            arguments |= strip_folders(arguments)
            if base_model and "base_model" in arguments:
                arguments["base_model"] = base_model["name"]
        return recipe, {
            "system": self.recipe.system,
            "overridden": overridden,
            "reduced_on_demo": self.reduced,
            "corpus": corpus.name,
            "missing": corpus.missing,
            "unreadable": corpus.unreadable,
            "left_out": corpus.left_out,
            "note": corpus.note,
            "splits": specs,
            "counts": {role: of[0].counts for role, of in scopes.items()},
            "corpora": {part.name: record_part(part, scopes) for part in corpus.parts},
            "base_model": base_model,
            "origin": describe_training(corpus.name, settings["started_from"]),
            "settings": settings,
        }


def main(argv: list[str]) -> None:
    """Train, evaluate, record and, if asked to, publish."""
    started = time.time()
    keep_freed_memory()
    try:
        run = parse_arguments(argv)
        folder = Path(run.args.output_dir)
        if run.target and PartialState().is_main_process:
            check_access(run.target)  # before training, which may take hours
        checkpoint = find_checkpoint(folder, run.args.resume_from_checkpoint)
        share_out_cores(run.model_args.num_threads, run.args.device)
        with PartialState().main_process_first():
            corpus = load_corpus(run.corpus_args, streaming=run.gradient_args.streaming)
        specs = split_specs(run.split_args, corpus)
        corpus, splits = take_readable_splits(
            corpus, specs, allow_unreadable=run.corpus_args.allow_unreadable
        )
        for role, rows in splits.items() if run.gradient_args.streaming else ():
            if is_streamed(rows) != (role == "train"):
                raise ValueError(
                    f"--streaming reads the split train from where it is, and it alone: {role} cannot be "
                    f"{specs[role]}. Name another --{role}_split, or leave --streaming out."
                )
        scopes = {role: list_scopes(corpus, specs[role], list_trials(rows)) for role, rows in splits.items()}
        splits["train"] = repeat_rows(corpus, splits["train"])
        settings = run.describe_settings(specs, splits)
        is_resumed = checkpoint is not None or (folder / STATE_FOLDER).is_dir()
        if is_resumed:
            check_same_settings(folder, settings)
        announce(run, corpus, scopes)
        set_seed(run.args.seed)
        with PartialState().main_process_first():  # which fetches what is on the Hub
            model, extractor, base_model = build_model(
                run.recipe,
                count_classes(list_trials(splits["train"])),
                weights=run.weights,
                checkpoint=checkpoint,
                base_model=run.model_args.base_model,
                attn_implementation=run.model_args.attn_implementation,
                lora_rank=run.gradient_args.lora_rank,
            )
        num_trained = model.num_parameters(only_trainable=True)
        is_new = run.weights is None and checkpoint is None
        PartialState().print(describe_parameters(model, base_model if is_new else None))
        ids = label_ids(splits["train"].features["label"].names, model.config.label2id)
        collator = AudioCollator(extractor, ids)
        trainer = build_trainer(model, collator, splits, run.args, run.choose_method())
    except (ValueError, FileNotFoundError, FileExistsError, PublishingError) as error:
        sys.exit(f"train.py: error: {error}")

    if not is_resumed and trainer.is_world_process_zero():
        record_start(folder, settings, base_model)
    evaluated = {role: (specs[role], splits[role]) for role in ("dev", "eval") if role in splits}
    try:
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        averaging = None
        if run.gradient_args.is_averaging:
            averaging = keep_better_average(trainer, run.gradient_args.average_checkpoints)
        if run.gradient_args.lora_rank:
            from processing.lora import merge_lora  # an optional extra

            merge_lora(model.encoder)
        results = save_and_evaluate(trainer, collator, corpus, evaluated)
    except (EMError, RecordingError) as error:  # of frames and damage that are known only now
        sys.exit(f"\ntrain.py: error: {error}")  # after a progress bar
    except UnpicklingError:
        sys.exit(f"\ntrain.py: error: {checkpoint} holds more than tensors. None of it was run. Remove it.")
    PartialState().destroy_process_group()  # its threads may abort a process that ends before them
    if not trainer.is_world_process_zero():
        return
    recipe, record = run.describe(corpus, specs, scopes, base_model, settings)
    record |= {"averaging": averaging} if averaging else {}
    record["num_trainable_parameters"] = num_trained
    write_training_record(folder, recipe, trainer, record, started=started)
    for result in results:
        print(describe_results(result), end="\n\n")
    write_trained_card(folder)
    print(f"Model, card, scores and results: {folder.resolve()}")
    if run.target:
        publish_trained(folder, run.target)


def parse_arguments(argv: list[str]) -> Run:
    """
    The recipe that `--model` names gives the defaults, and the command line overrides them.

    Raises:
        ValueError, FileNotFoundError: a recipe that is not found or not valid; see [`Run.check`].
        SystemExit: an argument that is not known, with the nearest one, or not valid; `--help`.
    """
    require_model(argv)
    parser = ArgumentParser((*OWN_ARGUMENTS, TrainerArguments), **ABOUT)
    parser.set_defaults(**DEFAULTS)
    early = parser.peek(argv, "model", "dataset", "data_dir", "optim", "lr_scheduler_type")
    path, weights = find_recipe(early.model)
    recipe = load_recipe(path)
    settings = (ModelArguments, GradientArguments, EMArguments, TrainerArguments)
    names = [f.name for group in settings for f in dataclasses.fields(group)]
    valid = {*names, *DATA_ARGUMENTS} - {"model", "output_dir", "resume_from_checkpoint"} - ACCOUNT_ARGUMENTS
    recipe.check_training(valid - find_unused_arguments(recipe, None), str(path))
    recipe.drop_replaced(optim=early.optim, lr_scheduler_type=early.lr_scheduler_type)
    stated = {name: recipe.training.pop(name, None) for name in ("dataset", "data_dir")}
    if early.dataset is None and early.data_dir is None:
        early.dataset, early.data_dir = stated["dataset"], stated["data_dir"]
    is_demo = CorpusArguments(early.dataset, early.data_dir).is_demo
    parser.set_defaults(dataset=early.dataset, data_dir=early.data_dir)
    parser.set_defaults(**recipe.defaults(demo=is_demo))
    groups, given = parser.parse(argv)
    model_args, args = groups[0], groups[-1]
    if (number := model_args.num_trainable_layers) is not None:
        recipe.train_layers(number)
    not_settings = {"model", "output_dir", "resume_from_checkpoint", "num_threads"} | ACCOUNT_ARGUMENTS
    run = Run(
        recipe,
        weights,
        *groups,
        given=given,
        overrides=json.loads(json.dumps({k: given[k] for k in names if k in given.keys() - not_settings})),
        reduced={k: v for k, v in recipe.demo_training.items() if is_demo and k not in given},
        target=find_target(args, given),
    )
    args.push_to_hub = False  # only the finished run is published, not every file of the Trainer
    try:
        run.check()
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    return run


def find_unused_arguments(recipe: Recipe, weights: Path | None) -> set[str]:
    """Names of the arguments that training of this system, by EM or by gradient, or from these weights, does
    not use."""
    of_em = {f.name for f in dataclasses.fields(EMArguments)}
    if recipe.model.get("model_type") == LFCCGMMConfig.model_type:
        used = {"model", "num_threads", *of_em, *USED_ARGUMENTS, *ACCOUNT_ARGUMENTS}
        groups = (ModelArguments, GradientArguments, TrainingArguments)
        return {f.name for group in groups for f in dataclasses.fields(group)} - used
    if "encoder_config" not in recipe.model:
        return of_em | ENCODER_ARGUMENTS
    return of_em | ({"base_model"} if weights else set())


def announce(run: Run, corpus: Corpus, scopes: dict[str, list[Scope]]) -> None:
    """Say what is going to be done, before it takes long."""
    lines = [corpus.note] if corpus.note else []
    lines.append(f"System: {run.recipe.system}")
    for key, value in run.reduced.items():
        lines.append(f"Reduced on the demo corpus: {key} {value} instead of {run.recipe.training.get(key)}")
    lines += [f"From the command line: {key} {value}" for key, value in run.overrides.items()]
    lines += describe_corpora(corpus, scopes)
    if len(scopes["dev"]) > 1 and isinstance(run.choose_method(), GradientArguments):
        lines.append(
            f"Model choice: {run.args.metric_for_best_model} on dev; eer is that of all corpora pooled, "
            "eer_mean the mean of the EERs of each"
        )
    if "eval" not in scopes:
        lines.append("There is no eval split: only the dev EER, by which the model is chosen, will be known.")
    PartialState().print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
