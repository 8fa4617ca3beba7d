"""Fixed-point sampling: all places drawn at once, again and again, until nothing changes.

    x <- choose(network(x), noise)        for all places side by side, a sweep
    until x is what it was                then every place is the one that a scan would have drawn

With the noise of each place fixed, an image is a function of itself in which a place depends on earlier places only. After k
sweeps the first k turns of the scan are right for good, so at most as many sweeps are needed as there are turns, and often far
fewer: a place is right as soon as the places that it depends on are. (Song et al. 2021, arXiv:2002.03629: Jacobi iteration.)

A scan does the arithmetic of one forward pass in many small calls, this does that of `sweeps` passes in a few large ones. So it
wins where calls cost more than arithmetic: on a GPU, for few images, for images whose places hardly depend on one another.
"""

import torch
from torch import Tensor

from nextpixel.layers.pointwise import without_autocast
from nextpixel.progress import Progress
from nextpixel.scan.protocols import Model
from nextpixel.scan.raster import Choose, scan_rows


def as_places(x: Tensor) -> Tensor:
    """Images (B, C, H, W) as B * H * W images of one place, in the order of their parameters; a copy.

    Example:
        >>> as_places(torch.arange(12).view(1, 2, 2, 3))[:, :, 0, 0].tolist()
        [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
    """
    return x.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None].clone()


@torch.inference_mode()
def fixed_point(model: Model, x: Tensor, choose: Choose, h: Tensor | None = None, progress: Progress | None = None) -> int:
    """Fill x (B, C, H, W) int64 with the image that `raster` would give, and return the number of sweeps.

    Args:
        model: whose network is swept.
        x: changed in place. What stands there is the first guess, and wherever it starts it ends at the same image.
        choose: what `raster` calls, for images of one place: its noise, and the places that it keeps, are `as_places`.
        h: the encoded condition.
        progress: called after each sweep with (rows in which all places are right for good, rows), of all passes; the last one
            counts when a sweep changes nothing.

    Raises:
        RuntimeError: changes after as many sweeps as there are turns. Causality rules it out but for rounding: in some
            convolution later places change the last digits of earlier ones.

    Example:
        >>> import nextpixel
        >>> from nextpixel.scan.raster import Draw
        >>> model = nextpixel.PixelCNN(shape=(1, 4, 4), levels=2, features=4, blocks=1).eval()
        >>> x, noise = torch.zeros(2, 1, 4, 4, dtype=torch.long), torch.rand(2, 1, 4, 4, dtype=torch.float64)
        >>> fixed_point(model, x, Draw(model.likelihood, as_places(noise))) <= 17
        True
    """
    height, width = x.shape[2:]
    turns, rows = model.order(height, width).to(x.device), scan_rows(model.strides, height)
    with without_autocast(x):
        for sweeps in range(1, turns.numel() + 2):
            changed = _sweep(model, x, choose, h)
            done = not changed.any()
            if progress is not None:
                progress(rows if done else min(_rows(changed, turns, model.strides), rows - 1), rows)
            if done:
                return sweeps
    raise RuntimeError(f"no fixed point after {sweeps} sweeps of {height}x{width} places: rounding is not causal")


def _sweep(model: Model, x: Tensor, choose: Choose, h: Tensor | None) -> Tensor:
    """Draw all places anew; returns which have changed in any image, (C, H, W)."""
    params = model.network(model.encode(x), h).permute(0, 2, 3, 1)
    places = as_places(x)
    for c in range(x.shape[1]):
        places[:, c, 0, 0] = choose(params.flatten(0, 2), places, 0, 0, c)
    new = places.view(*params.shape[:3], -1).permute(0, 3, 1, 2)
    changed = (new != x).any(0)
    x.copy_(new)
    return changed


def _rows(changed: Tensor, turns: Tensor, strides: tuple[int, ...]) -> int:
    """In how many rows of all passes every place is right for good: all places before the first that a sweep has changed are."""
    right = turns <= torch.where(changed, turns, turns.numel()).min()
    return sum(int(right[:, ::stride, ::stride].all(2).all(0).sum()) for stride in strides)
