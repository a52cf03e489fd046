"""One thread a process: a test that forks would hang in the child of a parent whose OpenMP has started others."""

import torch

torch.set_num_threads(1)
