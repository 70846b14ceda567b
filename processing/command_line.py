"""How train.py and eval.py start: their arguments, cores and memory."""

import argparse
import ctypes
import difflib
import mmap
import os
import sys

import torch
from accelerate import PartialState
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool


# Parameters of glibc's mallopt(3) by their names in malloc.h, and what they are set to.
MALLOPT = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 256 * 2**20), "M_MMAP_MAX": (-4, 0)}

HUGE_PAGES_BYTES = 2**30  # of the heap, used or not; below M_TRIM_THRESHOLD, or it would be handed back


class TrainerArguments(TrainingArguments):
    """[`TrainingArguments`] under a heading of their own, after the project's."""

    _argument_group_name = "arguments of transformers' Trainer"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of every argument that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class ArgumentParser(HfArgumentParser):
    """
    [`HfArgumentParser`] with defaults that are known only once some arguments have been read, and with errors
    of one line that give the nearest name.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)
        for action in self._actions:  # a flag without a default is true where it stands alone, as the others
            if action.type is string_to_bool and action.nargs is None:
                action.nargs, action.const = "?", True

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def peek(self, argv: list[str], *names: str) -> argparse.Namespace:
        """Values of a few arguments, `None` where the command line does not give them."""
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.error = self.error
        for name in names:
            early.add_argument(*(o for o in self._option_string_actions if o[2:].replace("-", "_") == name))
        return early.parse_known_args(argv)[0]

    def parse(self, argv: list[str]) -> tuple[tuple, dict]:
        """
        The dataclasses, and by name what of them the command line gives. Defaults that are text are converted
        as if the command line gave them. An argument that is not known or not valid ends the program.
        """
        values, unknown = self.parse_known_args(argv)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], options, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            self.error(f"unknown argument {unknown[0]}{hint}")
        for action in self._actions:  # argparse does not check defaults
            value = getattr(values, action.dest, None)
            if action.choices and value is not None and value not in action.choices:
                self.error(f"{action.dest} {value!r} is not one of {', '.join(map(str, action.choices))}")
        options = {token.split("=")[0] for token in argv}
        try:
            groups = self.parse_dict(vars(values), allow_extra_keys=True)
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:  # of the dataclasses
            self.error(str(error))
        given = {}
        for action in self._actions:
            if options & set(action.option_strings):
                given[action.dest] = getattr(values, action.dest)
        for group in groups:  # JSON, which a dataclass reads when it is made
            given |= {k: v for k, v in vars(group).items() if k in given and isinstance(v, dict)}
        return groups, given


def count_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_workers(has_gpu: bool) -> int:
    """Processes that decode: some for a GPU; none on a CPU, where the network itself takes all cores."""
    return min(8, count_cores()) if has_gpu else 0


def share_out_cores(num_threads: int | None, device: torch.device) -> None:
    """
    Use all cores where the network runs on the CPU: `accelerate launch` by itself gives a process one thread.

    Raises:
        ValueError: `num_threads` is not positive.
    """
    if num_threads is not None:
        if num_threads < 1:
            raise ValueError(f"--num_threads {num_threads}: at least one is needed.")
        torch.set_num_threads(num_threads)
    elif device.type == "cpu":
        torch.set_num_threads(max(1, count_cores() // PartialState().num_processes))


def keep_freed_memory() -> None:
    """
    Make glibc keep memory that was freed for the next allocation. By default it hands every large activation
    back to the system and faults it in again, which costs a third to a half of a training step on a CPU.
    The first GiB that is taken comes in huge pages where the kernel leaves that to the program: scoring
    RawNet2 takes a tenth less time then. Elsewhere than on glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    for parameter, value in MALLOPT.values():
        libc.mallopt(parameter, value)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if address := libc.malloc(HUGE_PAGES_BYTES):
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (address + HUGE_PAGES_BYTES - start) // mmap.PAGESIZE * mmap.PAGESIZE
        libc.madvise(start, length, mmap.MADV_HUGEPAGE)
        libc.free(address)
