r"""Sequential Monte Carlo: a model completes from any mask, although its scan sees earlier symbols alone.

N particles are scanned side by side. Each draws its unknown symbols as the scan does; a known symbol that a particle meets is
kept, and weights it by how likely it is there:

    w_n  *=  p(x_i | what particle n has before i)          for every known i, in the model's order

Where weights have become so uneven that the effective sample size (sum w)^2 / sum w^2 falls below N / 2, particles are drawn
anew by their weights at the end of a row (systematic resampling), and their rows are scanned again. Weighted means over the
particles tend to those under p(x_unknown | x_known) as N grows, and the product of the mean weights between resamplings is an
unbiased estimate of p(x_known) for every N (Del Moral 2004, "Feynman-Kac Formulae", theorem 7.4.2; Doucet and Johansen 2009, "A
Tutorial on Particle Filtering and Smoothing").

It serves every trained model, and is the check of the condition `Known`, which needs one scan instead of N.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nextpixel.errors import InputError, Notice
from nextpixel.progress import Count, Progress
from nextpixel.sampling import draw
from nextpixel.scan.evaluating import check_weights, drawing
from nextpixel.scan.protocols import Model
from nextpixel.scan.raster import Draw, chosen, passes, scan_rows, visit

PARTICLES = 64
UNEVEN = 0.5  # share of the particles: with a smaller effective number they are drawn anew
COLLAPSED = 4.0  # an effective sample size below it is said to be too small to mean anything


@dataclass(frozen=True)
class Particles:
    """Weighted completions of B images.

    Attributes:
        images: (B, N, C, H, W), uint8 up to 256 levels and int64 above.
        weights: (B, N) float64; those of an image sum to 1.
        effective: effective sample size of the weights, (B,), from 1 to N.
        smallest: the smallest one that was met before particles were drawn anew, or at the end, (B,).
        log_p_known: log of the unbiased estimate of p(x_known) in nats, (B,).
        resampled: how often particles were drawn anew, of all images.
    """

    images: Tensor
    weights: Tensor
    effective: Tensor
    smallest: Tensor
    log_p_known: Tensor
    resampled: int

    def draw(self, n: int, seed: int = 0) -> Tensor:
        """Choose n completions of each image by their weights: (B * n, C, H, W); those of image b follow one another."""
        generator = torch.Generator().manual_seed(seed)
        starts = torch.rand((len(self.weights), 1), generator=generator, dtype=torch.float64)
        picked = _systematic(self.weights.cpu(), starts, n)
        return torch.cat([of_one[choice] for of_one, choice in zip(self.images, picked.to(self.images.device), strict=True)])


def particles(
    model: Model,
    x: Tensor,
    known: Tensor,
    number: int = PARTICLES,
    cond: Any = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Particles:
    """Complete images by sequential Monte Carlo with N particles each: the cost of N scans, and of what resampling repeats.

    Args:
        model: any; a condition `Known` is left out, so that the distribution is the model's joint one.
        x: (B, C, H, W) integers; symbols at unknown places are not read.
        known: bool, broadcastable to x.
        number: N.
        cond: the condition, for one image or for all.
        seed: of the noise.
        progress: called with (rows finished, rows).

    Raises:
        InputError: as `complete` of a model, or fewer than 2 particles.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.PixelCNN(shape=(1, 4, 4), levels=2, features=4, blocks=1)
        >>> known = torch.arange(4)[:, None] >= 2                 # the lower half
        >>> found = particles(model, torch.ones(3, 1, 4, 4, dtype=torch.long), known, number=16)
        >>> found.images.shape, bool((found.images[..., 2:, :] == 1).all()), found.weights.sum(1).round(decimals=9).tolist()
        (torch.Size([3, 16, 1, 4, 4]), True, [1.0, 1.0, 1.0])
    """
    if number < 2:
        raise InputError(f"particles must be at least 2, not {number}")
    x, known = draw.partly_known(model, x, known)
    check_weights(model)
    found = []
    at_once = max(1, draw.SCAN_BATCH // number)
    rows = scan_rows(model.strides, x.shape[2])
    report = Count(progress, rows * -(-len(x) // at_once))
    with drawing(model) as twin, torch.inference_mode():
        h = twin.encode_condition(cond, x.shape[0], *x.shape[2:])
        noise = draw.uniform_noise(x.repeat_interleave(number, 0), seed)
        starts = torch.rand((len(x), rows), generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64).to(x.device)
        for first in range(0, len(x), at_once):
            some = slice(first, first + at_once)
            lanes = slice(first * number, (first + at_once) * number)
            of_some = None if h is None else h[some]
            found.append(_Scan(twin, x[some], known[some], of_some, noise[lanes], starts[some], number).run(report))
    images, weights, smallest, log_p, resampled = zip(*found, strict=True)
    weights = torch.cat(weights).clone()
    images = torch.cat(images)
    return Particles(
        images.to(torch.uint8) if model.levels <= 256 else images.clone(),
        weights,
        1 / weights.square().sum(1),
        torch.cat(smallest).clone(),
        torch.cat(log_p).clone(),
        sum(resampled),
    )


def complete(
    model: Model, x: Tensor, known: Tensor, n: int, number: int, cond: Any, seed: int, progress: Progress | None
) -> Tensor:
    """n completions of each image, chosen from at least as many particles; a notice where they have collapsed."""
    if n < 1:
        raise InputError(f"n must be at least 1, not {n}")
    found = particles(model, x, known, max(number, n), cond, seed, progress)
    if notice := collapse(found):
        warnings.warn(notice, Notice, stacklevel=3)
    return found.draw(n, seed)


def collapse(found: Particles) -> str | None:
    """What to say of particles whose weight is on few of them; None where it is not."""
    least = float(found.smallest.min())
    if least >= min(COLLAPSED, found.weights.shape[1] * UNEVEN):
        return None
    share = f"of {found.weights.shape[1]} particles, {least:.1f} were effective at the worst place"
    return (
        f"{share}: completions are nearly copies of a few; more particles help, and a model with the condition known needs none"
    )


class _Scan:
    """One scan of B images, N lanes each."""

    def __init__(
        self, model: Model, x: Tensor, known: Tensor, h: Tensor | None, noise: Tensor, starts: Tensor, number: int
    ) -> None:
        self.model, self.images, self.number, self.starts = model, len(x), number, starts
        self.x, self.known = (t.repeat_interleave(number, 0) for t in (x, known))
        self.h = None if h is None else h.repeat_interleave(number, 0)
        self.choose = Draw(model.likelihood, noise)
        self.ever = known.any(0)  # (C, H, W): where a symbol of any image is known
        self.log_w = torch.zeros(len(x), number, dtype=torch.float64, device=x.device)
        self.log_p = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        self.smallest = torch.full_like(self.log_p, number)
        self.resampled = 0

    def run(self, report: Count) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Images, weights, smallest effective sizes, estimates, and how often particles were drawn anew."""
        left, row = int(self.ever.sum()), 0  # known symbols that the scan has not met
        for k in range(len(self.model.strides)):
            coarser, stride, scanner, cache = self._begin(k)
            height, width = self.x[:, :, ::stride, ::stride].shape[2:]
            for i in range(height):
                left -= self._row(coarser, stride, scanner, cache, i, width, draw=True)
                if left > 0 and self._resample(row):
                    # The lanes are others now: their caches, and what a finer pass reads of a coarser one, are made again.
                    coarser, stride, scanner, cache = self._begin(k)
                    for earlier in range(i + 1):
                        self._row(coarser, stride, scanner, cache, earlier, width, draw=False)
                row += 1
                report()
        self.log_p += self.log_w.logsumexp(1) - math.log(self.number)
        weights = self.log_w.softmax(1)
        self.smallest = torch.minimum(self.smallest, 1 / weights.square().sum(1))
        return self.x.unflatten(0, (self.images, self.number)), weights, self.smallest, self.log_p, self.resampled

    def _begin(self, k: int) -> tuple[int | None, int, Any, Any]:
        """Pass k with a new cache."""
        for number, (coarser, stride, scanner, h) in enumerate(passes(self.model, self.x, self.h)):
            if number == k:
                return coarser, stride, scanner, scanner.start(len(self.x), h, self.x[:, :, ::stride, ::stride].shape[2:])
        raise AssertionError(k)

    def _row(self, coarser: int | None, stride: int, scanner: Any, cache: Any, i: int, width: int, draw: bool) -> int:
        """Draw and weight one row, or scan it again as it is; the known symbols that it met."""
        view, met = self.x[:, :, ::stride, ::stride], 0
        scanner.begin_row(cache, view, i)
        earlier = chosen(coarser, stride, i, width)
        for j in range(width):
            for c, params in visit(scanner, cache, view, i, j, j in earlier, self.model.likelihood):
                if draw:
                    met += self._symbol(params, i * stride, j * stride, c)
        return met

    def _symbol(self, params: Tensor, i: int, j: int, c: int) -> int:
        drawn, here = self.choose(params, self.x, i, j, c), self.known[:, c, i, j]
        met = bool(self.ever[c, i, j])
        if met:
            symbol = self.x[:, c, i, j]
            log_pmf = self.model.likelihood.log_pmf(params.double(), self.x[:, :, i, j], c)
            log_p = log_pmf.gather(1, symbol[:, None]).squeeze(1)
            self.log_w += torch.where(here, log_p, 0).view_as(self.log_w)
            drawn = torch.where(here, symbol, drawn)
        self.x[:, c, i, j] = drawn
        return int(met)

    def _resample(self, row: int) -> bool:
        """Draw the particles of an image anew where their effective number is below half of all."""
        weights = self.log_w.softmax(1)
        size = 1 / weights.square().sum(1)
        self.smallest = torch.minimum(self.smallest, size)
        poor = size < self.number * UNEVEN
        if not poor.any():
            return False
        picked = _systematic(weights, self.starts[:, row : row + 1], self.number)
        stay = torch.arange(self.number, device=picked.device).expand_as(picked)
        picked = torch.where(poor[:, None], picked, stay)
        lanes = (picked + self.number * torch.arange(self.images, device=picked.device)[:, None]).flatten()
        self.x = self.x[lanes]
        self.log_p = torch.where(poor, self.log_p + self.log_w.logsumexp(1) - math.log(self.number), self.log_p)
        self.log_w = torch.where(poor[:, None], 0, self.log_w)
        self.resampled += int(poor.sum())
        return True


def _systematic(weights: Tensor, starts: Tensor, n: int) -> Tensor:
    """n positions for each row of weights (B, N), each chosen about n w times: those of (k + start) / n in the cumulated weights.

    Example:
        >>> _systematic(torch.tensor([[0.5, 0.0, 0.5]]), torch.tensor([[0.5]]), 4)
        tensor([[0, 0, 2, 2]])
    """
    ends = weights.cumsum(1)
    points = (torch.arange(n, device=weights.device, dtype=weights.dtype) + starts) / n * ends[:, -1:]
    return torch.searchsorted(ends, points.contiguous(), right=True).clamp(max=weights.shape[1] - 1)
