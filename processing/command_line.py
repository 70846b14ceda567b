"""How train.py and eval.py start: their arguments, cores and memory."""

import argparse
import ctypes
import difflib
import mmap
import os
import sys

import torch
from accelerate import PartialState
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool


# Parameters of glibc's mallopt(3) by their names in malloc.h, and what they are set to.
MALLOPT = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 256 * 2**20), "M_MMAP_MAX": (-4, 0)}

HUGE_PAGES_BYTES = 2**30  # of the heap, used or not; below M_TRIM_THRESHOLD, or it would be handed back


class ArgumentParser(HfArgumentParser):
    """
    [`HfArgumentParser`] whose errors are one line, with the nearest name, and not the usage of all arguments.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for action in self._actions:  # a flag without a default is true where it stands alone, as the others
            if action.type is string_to_bool and action.nargs is None:
                action.nargs, action.const = "?", True

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}\n")

    def parse_checked(self, argv: list[str]) -> argparse.Namespace:
        """
        The arguments by name.

        Raises:
            SystemExit: an argument that is not known, or not valid.
        """
        given, unknown = self.parse_known_args(argv)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], options, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            self.error(f"unknown argument {unknown[0]}{hint}")
        return given

    def chosen(self, argv: list[str]) -> set[str]:
        """Names of the arguments that the command line gives."""
        options = (token.split("=")[0] for token in argv)
        return {self._option_string_actions[o].dest for o in options if o in self._option_string_actions}


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
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // PartialState().num_processes))


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
    libc.free.argtypes, libc.madvise.argtypes = (
        [ctypes.c_void_p],
        [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int],
    )
    if address := libc.malloc(HUGE_PAGES_BYTES):
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (address + HUGE_PAGES_BYTES - start) // mmap.PAGESIZE * mmap.PAGESIZE
        libc.madvise(start, length, mmap.MADV_HUGEPAGE)
        libc.free(address)
