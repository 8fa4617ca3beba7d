"""One thread per process: the tests' networks are tiny, and processes side by side would fight for the cores."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import torch

torch.set_num_threads(1)
