"""Every argument of transformers' `TrainingArguments`, tried by its name: it works, or it is refused in one
line before data are loaded."""

import dataclasses
import fnmatch
import json

import pytest
from transformers import TrainingArguments

from processing.arguments import EMArguments, GradientArguments
from processing.run_settings import MAY_CHANGE


# Two runs with other values than the defaults.
WORKING = [
    {
        "per_device_train_batch_size": 3,
        "per_device_eval_batch_size": 5,
        "num_train_epochs": 2,
        "max_steps": 3,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine_with_restarts",
        "lr_scheduler_kwargs": '{"num_cycles": 2}',
        "warmup_steps": 1,
        "optim": "adamw_torch",
        "optim_args": "foreach=True",
        "weight_decay": 0.1,
        "adam_beta1": 0.8,
        "adam_beta2": 0.9,
        "adam_epsilon": 1e-7,
        "optim_target_modules": "gru",
        "gradient_accumulation_steps": 2,
        "average_tokens_across_devices": False,
        "max_grad_norm": 0.5,
        "bf16": True,
        "bf16_full_eval": True,
        "activation_checkpointing_kwargs": '{"use_reentrant": false}',
        "use_cache": True,
        "torch_empty_cache_steps": 1,
        "auto_find_batch_size": True,
        "logging_steps": 1,
        "logging_first_step": True,
        "log_on_each_node": False,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": True,
        "log_level": "info",
        "log_level_replica": "info",
        "disable_tqdm": True,
        "report_to": "none",
        "run_name": "a-name",
        "project": "a-project",
        "trackio_space_id": "a/b",
        "trackio_bucket_id": "a/b",
        "trackio_static_space_id": "a/b",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_delay": 1,
        "eval_on_start": True,
        "eval_use_gather_object": True,
        "eval_accumulation_steps": 1,
        "include_for_metrics": "loss",
        "save_only_model": True,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_on_each_node": True,
        "save_total_limit": 1,
        "enable_jit_checkpoint": True,
        "load_best_model_at_end": True,
        "average_checkpoints": "2",
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "ignore_data_skip": True,
        "restore_callback_states_from_checkpoint": True,
        "full_determinism": True,
        "seed": 3,
        "data_seed": 4,
        "use_cpu": True,
        "accelerator_config": '{"dispatch_batches": true}',
        "dataloader_drop_last": True,
        "dataloader_num_workers": 1,
        "dataloader_pin_memory": False,
        "dataloader_persistent_workers": True,
        "dataloader_prefetch_factor": 3,
        "dataloader_multiprocessing_context": "fork",
        "dataloader_in_order": False,
        "remove_unused_columns": False,
        "label_names": "labels",
        "train_sampling_strategy": "sequential",
        "length_column_name": "length",
        "ddp_find_unused_parameters": True,
        "ddp_bucket_cap_mb": 1,
        "ddp_broadcast_buffers": False,
        "ddp_static_graph": True,
        "ddp_timeout": 100,
        "fsdp_config": '{"min_num_params": 1}',
        "debug": "underflow_overflow",
        "skip_memory_metrics": False,
        "do_train": True,
        "do_eval": True,
        "do_predict": True,
        "resume_from_checkpoint": "last",
        "local_rank": 0,
    },
    {
        "max_steps": 2,
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "early_stopping_patience": 2,
        "logging_strategy": "epoch",
        "save_strategy": "best",
        "fp16": True,
        "fp16_full_eval": True,
        "tf32": False,
        "gradient_checkpointing_kwargs": '{"use_reentrant": false}',
        "torch_compile": True,
        "torch_compile_backend": "eager",
        "torch_compile_mode": "default",
    },
]
# A value that cannot work, and what is said of it.
REFUSED = [
    ("label_smoothing_factor", 0.1, "would bypass the class weights"),
    ("metric_for_best_model", "accuracy", "the lowest dev EER (eer; eer_mean: mean over corpora) or loss"),
    ("greater_is_better", True, "the lowest dev EER (eer; eer_mean: mean over corpora) or loss"),
    ("prediction_loss_only", True, "the EER is one of all trials"),
    ("batch_eval_metrics", True, "the EER is one of all trials"),
    ("eval_do_concat_batches", False, "the EER is one of all trials"),
    ("remove_unused_columns", True, "the audio is in a column"),
    ("label_names", "label", "are called labels"),
    ("train_sampling_strategy", "group_by_length", "crops have one length"),
    ("use_liger_kernel", True, "no such kernels"),
    ("liger_kernel_config", '{"rope": true}', "invalid"),
    ("neftune_noise_alpha", 5, "no embeddings"),
    ("debug", "tpu_metrics_debug", "of TPUs"),
    ("fsdp", "full_shard", "the whole weights"),
    ("deepspeed", "zero.json", "deepspeed"),
    ("per_device_eval_batch_size", 0, "at least 1 is needed"),
    ("early_stopping_patience", 0, "would end training at its first evaluation"),
    ("average_checkpoints", "best", "neither a number of checkpoints nor swa"),
    ("parallelism_config", "x", "invalid"),
    ("activation_checkpointing", True, "not possible with rawnet2"),
    ("gradient_checkpointing", True, "not possible with rawnet2"),
    ("report_to", "clearml", "requires 'clearml' to be installed"),
    ("optim", "lomo", "--optim lomo: You need to install `lomo_optim`"),
    ("lr_scheduler_type", "warmup_stable_decay", "missing 1 required positional argument: 'num_decay_steps'"),
    ("lr_scheduler_kwargs", '{"nonsense": 1}', "unexpected keyword argument 'nonsense'"),
    ("torch_compile_mode", "nonsense", "--torch_compile_backend, --torch_compile_mode: Unrecognized mode"),
    (
        "dataloader_persistent_workers",
        True,
        "--dataloader_*: persistent_workers option needs num_workers > 0",
    ),
    ("dataloader_multiprocessing_context", "spawn", "can only be used with multi-process loading"),
    ("dataloader_prefetch_factor", 2, "--dataloader_num_workers > 0"),
    ("accelerator_config", '{"nonsense": true}', "unexpected keyword argument 'nonsense'"),
    ("eval_strategy", "no", "requires the save and eval strategy to match"),
    ("ddp_backend", "gloo", "process group"),  # of one process
    ("push_to_hub", True, "add --hub_model_id"),
    ("hub_model_id", "a/b", "goes with --push_to_hub"),
    ("hub_private_repo", True, "goes with --push_to_hub"),
    ("hub_revision", "x", "goes with --push_to_hub"),
    ("hub_token", "x", "hf auth login"),
    ("hub_strategy", "end", "only the finished run is published"),
    ("hub_always_push", True, "only the finished run is published"),
]


def test_every_argument_is_tried():
    tried = {name for run in WORKING for name in run} | {name for name, *_ in REFUSED} | {"output_dir"}

    assert {f.name for f in dataclasses.fields(TrainingArguments)} - tried == set()


@pytest.mark.parametrize("arguments", WORKING)
def test_arguments_work(tmp_path, tiny_recipe, la_corpus, train_script, arguments):
    options = [option for name, value in arguments.items() for option in (f"--{name}", value)]

    train_script.run(
        *("--model", tiny_recipe, "--data_dir", la_corpus, "--output_dir", tmp_path / "run", *options)
    )

    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["overridden"].keys() == arguments.keys() - {"resume_from_checkpoint"}


@pytest.mark.parametrize(("name", "value", "message"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_argument_that_cannot_work_is_refused_in_one_line_before_data_are_loaded(
    refused, tiny_recipe, tmp_path, name, value, message
):
    said = refused("--model", tiny_recipe, "--data_dir", tmp_path / "not-there", f"--{name}", value)

    (line,) = [line for line in said.splitlines() if "error: " in line]
    assert message in line and "not-there" not in said
    assert "Traceback" not in said


def test_what_may_change_when_a_run_goes_on_are_arguments():
    groups = (TrainingArguments, GradientArguments, EMArguments)
    names = [f.name for group in groups for f in dataclasses.fields(group)]

    patterns = [pattern for group in MAY_CHANGE.values() for pattern in group]

    assert [pattern for pattern in patterns if not fnmatch.filter(names, pattern)] == []
