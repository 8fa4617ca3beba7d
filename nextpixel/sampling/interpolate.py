"""From one condition to another under fixed noise: rows of images that change step by step.

Paper: van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", 2016, arXiv:1606.05328, section 3.2 and
figure 5 (linear, between embeddings of two portraits). The great circle is ours to offer: the norm of a vector between two
normalised embeddings is then theirs, where the straight path passes nearer to the origin (Shoemake 1985, slerp).
"""

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nextpixel.errors import InputError
from nextpixel.progress import Progress
from nextpixel.scan.evaluating import drawing

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel

Path = Literal["linear", "spherical"]
# Radians: nearer to 0 or pi than this, rounding decides on which great circle two vectors lie.
SMALLEST_ANGLE = 1e-6


class Interpolation:
    """The part of `AutoregressiveModel` that walks between two conditions."""

    def interpolate(
        self: "AutoregressiveModel",
        a: Any,
        b: Any,
        steps: int = 8,
        n: int = 4,
        seed: int = 0,
        path: Path = "linear",
        temperature: float = 1.0,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        r"""Draw n rows of images while the encoded condition h moves from that of `a` to that of `b`: (n, steps, C, H, W).

        .. math:: h_t = (1 - t) h_a + t h_b
            \qquad \text{or} \qquad
            h_t = \big((1 - t) |h_a| + t |h_b|\big) \frac{\sin((1 - t) \theta) u_a + \sin(t \theta) u_b}{\sin \theta}

        for t = 0 ... 1 in equal steps, with u = h / |h| and the angle θ between them. Noise is held fixed along a row, so a row
        is one image that changes with its condition alone, and its ends are those of `sample` with the same seed and guidance.

        Args:
            a, b: conditions as `sample` takes them, each for one image or for all n rows.
            steps: images per row with both ends, at least 2.
            n: rows, each with noise of its own.
            seed: of the noise.
            path: "linear", or "spherical": on the great circle, the norm changing linearly. All of an image's h, its maps
                included, is one vector. Parallel vectors span no circle, and only the norm changes between them.
            temperature, size: as for `sample`.
            progress: as for `sample`, of n * steps images.
            guidance: as for `sample`: the law of each image lies between, or beyond, that under its own h and the unconditional
                one. At 0, which depends on no condition, all images of a row are one.

        Returns:
            uint8 up to 256 levels and int64 above.

        Raises:
            InputError: as `sample`; steps below 2; an unknown path; or a spherical one from or to a zero vector, which has no
                direction, or between opposite vectors, which lie on every great circle.

        Example:
            >>> import nextpixel
            >>> model = nextpixel.GatedPixelCNN((1, 8, 8), levels=2, features=8, blocks=1, condition=nextpixel.Labels(10))
            >>> model.interpolate(3, 8, steps=5, n=2, path="spherical").shape
            torch.Size([2, 5, 1, 8, 8])
        """
        if self.condition is None:
            raise InputError("this model takes no condition, so there is nothing to interpolate between")
        if steps < 2:
            raise InputError(f"steps must be at least 2 (the two ends), not {steps}")
        if n < 1:
            raise InputError(f"n must be at least 1, not {n}")
        if path not in PATHS:
            raise InputError(f"path must be 'linear' or 'spherical', not {path!r}")
        height, width = self.check_size(size)
        law = self.guided_likelihood(guidance)
        x = torch.zeros(n * steps, self.shape[0], height, width, dtype=torch.long, device=self.device)
        with drawing(self) as model:
            ends = [model.encode_condition(cond, n, height, width) for cond in (a, b)]
            h = PATHS[path](*ends, steps).flatten(0, 1)
            h = torch.zeros_like(h) if guidance == 0 else h
            drawn = self._scan(model, x, None, h, seed, temperature, None, progress, law, repeats=steps)
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
