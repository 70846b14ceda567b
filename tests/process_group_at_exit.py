"""
Runs a script, as `process_group_at_exit.py eval.py …`, and says at its end whether it leaves a process group
behind: the threads of gloo's abort a process that ends before them (pytorch/pytorch#179291).
"""

import atexit
import os
import runpy
import sys

import torch


atexit.register(lambda: print("Process group at exit:", torch.distributed.is_initialized()))
sys.argv = sys.argv[1:]
sys.path[0] = os.getcwd()
runpy.run_path(sys.argv[0], run_name="__main__")
