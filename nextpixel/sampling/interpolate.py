"""From one condition to another under fixed noise: rows of images that change step by step.

Paper: van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", 2016, arXiv:1606.05328, section 3.2 and
figure 5 (linear, between embeddings of two portraits). The great circle is an addition: between two normalised embeddings
it keeps their norm, where the straight path passes nearer to the origin (Shoemake 1985, slerp).
"""

from typing import Any, Literal

import torch
from torch import Tensor

from nextpixel.errors import InputError
from nextpixel.progress import Progress
from nextpixel.sampling.draw import blank, draw, guided_likelihood, uniform_noise
from nextpixel.scan.evaluating import drawing
from nextpixel.scan.job import DrawJob
from nextpixel.scan.protocols import Model

Path = Literal["linear", "spherical"]
# Radians: nearer to 0 or pi than this, rounding decides on which great circle two vectors lie.
SMALLEST_ANGLE = 1e-6


def interpolate(
    model: Model,
    a: Any,
    b: Any,
    steps: int,
    n: int,
    seed: int,
    path: Path,
    temperature: float,
    size: tuple[int, int] | None,
    progress: Progress | None,
    guidance: float,
) -> Tensor:
    """`AutoregressiveModel.interpolate`."""
    if model.condition is None:
        raise InputError("this model takes no condition, so there is nothing to interpolate between")
    if steps < 2:
        raise InputError(f"steps must be at least 2 (the two ends), not {steps}")
    if n < 1:
        raise InputError(f"n must be at least 1, not {n}")
    if path not in PATHS:
        raise InputError(f"path must be 'linear' or 'spherical', not {path!r}")
    x = blank(model, n * steps, size)
    distribution = guided_likelihood(model, guidance)
    with drawing(model) as twin:
        ends = [twin.encode_condition(cond, n, *x.shape[2:]) for cond in (a, b)]
        h = PATHS[path](*ends, steps).flatten(0, 1)
        h = torch.zeros_like(h) if guidance == 0 else h
        job = DrawJob(x, uniform_noise(x, seed, repeats=steps), None, h, distribution, temperature, owner=model)
        drawn = draw(twin, job, None, progress)
    return drawn.unflatten(0, (n, steps))


def linear(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Equal steps from a to b on the straight line: (B, ...) twice gives (B, steps, ...), whose ends are a and b exactly.

    Example:
        >>> linear(torch.zeros(1, 2), torch.tensor([[1.0, 4.0]]), 3)
        tensor([[[0.0000, 0.0000],
                 [0.5000, 2.0000],
                 [1.0000, 4.0000]]])
    """
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device).view(-1, *[1] * (a.dim() - 1))
    return torch.lerp(a[:, None], b[:, None], t)


def spherical(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Equal steps from a to b on their great circle while the norm changes linearly; shapes as in `linear`.

    Raises:
        InputError: a zero vector, or opposite vectors.

    Example:
        >>> spherical(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), 3)
        tensor([[[2.0000, 0.0000],
                 [1.4142, 1.4142],
                 [0.0000, 2.0000]]])
    """
    first, last = a.flatten(1).double(), b.flatten(1).double()
    norms = [end.norm(dim=1, keepdim=True) for end in (first, last)]
    if min(norm.min() for norm in norms) == 0:
        raise InputError("a spherical path needs directions, but a condition is the zero vector: give path 'linear'")
    u, v = first / norms[0], last / norms[1]
    # Exact for small angles and near pi, where the arc cosine of a product is not.
    angle = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))[:, None, None]
    if angle.max() > torch.pi - SMALLEST_ANGLE:
        raise InputError("a spherical path between opposite vectors could go anywhere: give path 'linear'")
    t = torch.linspace(0, 1, steps, dtype=torch.float64, device=a.device)[:, None]
    arc = torch.sin((1 - t) * angle) * u[:, None] + torch.sin(t * angle) * v[:, None]
    h = torch.lerp(norms[0][:, None], norms[1][:, None], t) * arc / torch.sin(angle)
    straight = linear(a, b, steps)
    curved = h.to(a.dtype).view(straight.shape)
    keep = (angle < SMALLEST_ANGLE).expand(-1, steps, 1).clone()
    keep[:, [0, -1]] = True  # the ends, which the quotients may miss by a rounding
    return torch.where(keep.view(*keep.shape[:2], *[1] * (a.dim() - 1)), straight, curved)


PATHS = {"linear": linear, "spherical": spherical}
