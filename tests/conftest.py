import torch

# Tiny models: a second thread only waits for the first, and for other processes on the same cores.
torch.set_num_threads(1)
