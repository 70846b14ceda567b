"""The checkpoints of a run: which of them it goes on from. A kill may have left one half-written."""

import json
import re
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging


logger = logging.get_logger(__name__)


def find_checkpoint(output_dir: Path, resume_from: str | None) -> Path | None:
    """
    The checkpoint to go on from, by the argument `--resume_from_checkpoint`: a folder, or "last" (or "true")
    for the newest complete one, where `None`, the beginning, is the answer as long as there is none.

    Raises:
        FileExistsError: `output_dir` holds a run, or checkpoints, that would be overwritten.
        ValueError: the folder named is not a complete checkpoint of `output_dir`.
    """
    is_finished = (output_dir / "config.json").is_file()
    if resume_from is None:
        if is_finished or any(output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")):
            raise FileExistsError(
                f"{output_dir} already holds a run. Go on with it by --resume_from_checkpoint last, or "
                "choose another --output_dir."
            )
        return None
    if resume_from.lower() in ("last", "true"):
        checkpoint = find_last_checkpoint(output_dir)
        if checkpoint is None and is_finished:
            raise FileExistsError(
                f"{output_dir} holds a finished model and no checkpoint to go on from. Choose another "
                f"--output_dir; to train the model on, pass --model {output_dir}."
            )
        whole = sorted(output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json"))
        if checkpoint is None and whole:  # and not just the first one, half-written
            raise FileExistsError(
                f"{output_dir} holds checkpoints, but none to go on from ({whole[0].parent.name}: "
                f"{find_problem(whole[0].parent)}; --save_only_model keeps the weights only): training would "
                "start from the beginning and replace them. Choose another --output_dir."
            )
        return checkpoint
    checkpoint = output_dir / Path(resume_from).name
    if Path(resume_from).resolve() != checkpoint.resolve():
        raise ValueError(
            f"--resume_from_checkpoint {resume_from} is not a checkpoint of --output_dir {output_dir}. "
            "Give the folder of that run as --output_dir."
        )
    if problem := find_problem(checkpoint):
        raise ValueError(
            f"--resume_from_checkpoint {resume_from}: no complete checkpoint ({problem}). Give a checkpoint "
            "folder, or `last`."
        )
    if (newest := find_last_checkpoint(output_dir)) != checkpoint:
        raise FileExistsError(
            f"{newest} is newer than {resume_from} and would be overwritten. Remove it first."
        )
    return checkpoint


def find_last_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint that is complete, if there is one; newer ones are skipped with a warning."""
    numbers = (re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name) for path in output_dir.glob("*"))
    for number in sorted((int(match[1]) for match in numbers if match), reverse=True):
        path = output_dir / f"{PREFIX_CHECKPOINT_DIR}-{number}"
        problem = find_problem(path)
        if problem is None:
            return path
        logger.warning(f"Checkpoint {path} is incomplete ({problem}) and is skipped.")
    return None


def find_problem(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being resumed from, or `None`: trainer_state.json is written last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())
    except FileNotFoundError:
        return "trainer_state.json is missing"
    except ValueError as error:
        return f"trainer_state.json is cut off: {error}"
    needed = ("*.safetensors", "optimizer.pt", "scheduler.pt", "rng_state*.pth")
    return next((f"{name} is missing" for name in needed if not any(checkpoint.glob(name))), None)
