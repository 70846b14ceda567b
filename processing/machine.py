"""Cores and memory of a process."""

import ctypes
import mmap
import os
import sys

import torch
from accelerate import PartialState


# Parameters of glibc's mallopt(3) by their names in malloc.h, and what they are set to.
MALLOPT = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 256 * 2**20), "M_MMAP_MAX": (-4, 0)}

HUGE_PAGES_BYTES = 2**30  # of the heap, used or not; below M_TRIM_THRESHOLD, or it would be handed back


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
    RawNet2 takes a tenth less time then. Memory that is kept lies in pieces: AASIST's training takes up to
    twice as much. Nothing happens elsewhere than on glibc, and where the environment has a setting of its
    (mallopt(3)), such as MALLOC_MMAP_THRESHOLD_=33554432.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
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
