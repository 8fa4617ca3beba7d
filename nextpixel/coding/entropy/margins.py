r"""Margins: no coded boundary lies within the error bound of its rounding threshold, so that other processors decode the archive.

Two machines compute P(X <= k) with different last digits. The frequency table is the same as long as P is rounded to the same
point of the grid (`coding.entropy.tables`), and near the threshold between two points it may not be. A range decoder needs only
the two boundaries of the coded symbol: if these two are right it finds the symbol, because its table is monotonic however it
rounds elsewhere. So the encoder checks these two boundaries, and excludes every threshold with

.. math:: |P - (\text{threshold between two points})| \le \epsilon \, P (1 - P) \, (1 - \ln P (1 - P))

The bound has this form for two reasons: an error of logits of at most d moves P by at most 2 d P (1 - P); and the relative error
of a logistic's argument, which in its tail is the logarithm of P, is constant. :math:`\epsilon` is measured for each archive:
some of its images go through the network twice, once with noise of 1e-10 relative on the result of every operation (`Perturbed`),
and the largest error, divided by this form, is doubled. If there are few images, each goes through in copies with independent
noise. Ordinary errors are far below the bound: of a deep network on CIFAR-10, where they are the largest, half of all are below a
hundredth of it, and 3 in 100,000 are above half of it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nextpixel.coding.entropy.tables import THRESHOLDS, on_grid, table_digits
from nextpixel.errors import InputError
from nextpixel.models.base import AutoregressiveModel

NOISE = 1e-10  # relative; the rounding errors of float64 are some 1e-16 for each operation, and some 1e-13 for a whole network
SAFETY = 2
# Places that are measured at least, in so many copies of few images, each with noise of its own; and most copies.
MEASURED_PLACES, MOST_COPIES = 4096, 32
LEAST_EPSILON = 2.0**-30
# Of P, in spacings of the grid: two boundaries then block 10 of the 16 thresholds at most.
MOST_ERROR = 1 / 16
ABSOLUTE = 1e-13  # rounding errors of the distribution function, which gets no noise
TINY = 1e-300
# Above so many levels not all values of a distribution function are measured; and how many of those far from the symbol are.
MOST_MEASURED, EVERYWHERE = 8192, 256
CHUNK = 2**22  # probabilities computed at once


def error_form(cdf: np.ndarray) -> np.ndarray:
    """v (1 - ln v) for v = P (1 - P): how much of the error bound P may be off by.

    Example:
        >>> error_form(np.array([0.5, 1e-4, 0.0])).round(3).tolist()
        [0.597, 0.001, 0.0]
    """
    spread = cdf * (1 - cdf)
    return spread * (1 - np.log(np.maximum(spread, TINY)))


def free(cdf: np.ndarray, digits: int, bits: int, epsilon: float) -> np.ndarray:
    """Which of the 16 thresholds are beyond the error bound of values of a distribution function, bool (..., 16).

    Example:
        >>> free(np.array([76.5, 76.6]) / 256, digits=7, bits=16, epsilon=1e-8)[:, 8]
        array([False,  True])
    """
    n, spacing = on_grid(cdf, digits, bits)
    bound = (epsilon * error_form(cdf) + ABSOLUTE) / spacing
    return np.abs((n - np.floor(n))[..., None] - THRESHOLDS) > bound[..., None]


@torch.no_grad()
def measured_epsilon(model: AutoregressiveModel, x: Tensor, h: Tensor | None, bits: int, noise: float = NOISE) -> float:
    """The error bound of a model in float64, from what noise on all arithmetic does to the distributions of some images.

    Args:
        model: in float64 and eval mode.
        x: images (B, C, H, W).
        h: their encoded condition.
        bits: of the tables; a P that is within an eighth of the finest spacing from 0 or 1 is far from any threshold.
        noise: relative, of every operation.

    Raises:
        InputError: the model magnifies rounding errors so much that no threshold would be left.
    """
    clean = model.network(model.encode(x), h)
    copies = min(MOST_COPIES, -(-MEASURED_PLACES // x[:, 0].numel()))
    x, clean, h = (None if t is None else t.repeat(copies, 1, 1, 1) for t in (x, clean, h))
    with Perturbed(noise):
        noisy = model.network(model.encode(x), None if h is None else h * 1)
    known, *params = (t.movedim(1, 3).flatten(0, 2) for t in (x, clean, noisy))
    largest = 0.0
    for known_part, *parts in zip(*(t.split(max(1, CHUNK // model.levels)) for t in (known, *params)), strict=True):
        places = [model.likelihood.at(part) for part in parts]
        for c in range(model.shape[0]):
            ends = _measured(known_part[:, c], model.levels)
            right, wrong = (place.cdf(known_part, c, ends) for place in places)
            right, wrong = (cdf[:, :-1].cpu().numpy() if ends is None else cdf.cpu().numpy() for cdf in (right, wrong))
            matters = np.minimum(right, 1 - right) > 2.0**-bits / 8
            largest = max(largest, (np.abs(right - wrong)[matters] / error_form(right[matters])).max(initial=0.0))
    # In steps of 19 percent, so that the last digits of a measurement are not in the file.
    epsilon = 2.0 ** (np.ceil(4 * np.log2(max(SAFETY * largest, LEAST_EPSILON))) / 4)
    # The most spacings that the bound can be: for the smallest P with all digits.
    smallest = np.array(2.0 ** (table_digits(model.levels, epsilon) - bits))
    if not epsilon * error_form(smallest) * 2.0**bits <= MOST_ERROR:
        raise InputError(f"this model turns noise of {noise} into errors of {largest:.1g}: no archive of it would be portable")
    return float(epsilon)


def _measured(x: Tensor, levels: int) -> Tensor | None:
    """The symbols k whose P(X <= k) are compared, (B, S); None for all, but for so many levels that all would take minutes.

    These are the coded symbols x (B,), what lies around them at each distance, and some everywhere.
    """
    if levels <= MOST_MEASURED:
        return None
    near = 2 ** torch.arange((levels - 1).bit_length(), device=x.device)
    around = x[:, None].long() + torch.cat([-near, torch.zeros_like(near[:1]), near])
    everywhere = torch.arange(0, levels - 1, levels // EVERYWHERE, device=x.device).expand(len(x), -1)
    return torch.cat([around.clamp(0, levels - 2), everywhere], 1)


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
