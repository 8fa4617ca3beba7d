"""Arithmetic that is wrong on purpose: what another processor might compute, only much worse."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NOISE = 1e-10  # relative; the rounding errors of float64 are some 1e-16 for each operation, and some 1e-13 for a whole network


class Perturbed(TorchDispatchMode):
    """While it is active, every floating-point result of every torch operation is multiplied by 1 + noise times a normal number.

    This reaches what forward hooks cannot: each operation inside a layer, in `forward` as in `step`, in place or not. Only views
    are left alone, which compute nothing.

    Args:
        noise: the standard deviation.
        seed: of the noise, on the CPU.

    Example:
        >>> with Perturbed(noise=1e-3):
        ...     x = torch.ones(2, dtype=torch.float64) * 3
        >>> bool((x != 3).all()), torch.allclose(x, torch.full_like(x, 3), rtol=0.01)
        (True, True)
    """

    def __init__(self, noise: float = NOISE, seed: int = 0) -> None:
        super().__init__()
        self.noise, self.generator = noise, torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.is_mutable or not any(alias.alias_info for alias in func._schema.arguments):
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
                    noise = torch.randn(tensor.shape, generator=self.generator, dtype=torch.float64)
                    tensor.mul_(noise.mul_(self.noise).add_(1).to(tensor))
        return result
