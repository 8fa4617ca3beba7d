"""Samples and completions: the ways to draw, guidance, the noise, and the batches of a scan.

Each method fills the images of a job, and all give the same images for the same noise:

    naive          a whole forward pass for every place: the reference
    cached         the raster loop, step by step
    compiled       the same as programs on all cores, or as CUDA graphs on a GPU
    fixed-point    forward passes until nothing changes

Guidance s scans every image twice, side by side, under h and under 0 (`likelihoods.Guided`); s = 1 is the model itself, s = 0 the
unconditional model.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from nextpixel.compiled import why_not
from nextpixel.compiled.instructions import NotRecordableError
from nextpixel.conditions.base import as_tensor, sees_known
from nextpixel.conditions.known import given_symbols
from nextpixel.errors import InputError
from nextpixel.likelihoods import Guided, Likelihood
from nextpixel.likelihoods.guided import twice, with_and_without
from nextpixel.progress import Parts, Progress
from nextpixel.scan.evaluating import check_weights, drawing
from nextpixel.scan.fixed_point import as_places, fixed_point
from nextpixel.scan.job import DrawJob
from nextpixel.scan.protocols import Model, Passes
from nextpixel.scan.raster import Naive, raster, scan_rows

# Images of one scan: more would only make the caches larger than the processor's.
SCAN_BATCH = 256
# Below it logits overflow in float32; the likeliest symbol is drawn long before.
LOWEST_TEMPERATURE = 1e-6
# Beyond it the logarithms of a distribution lose their digits.
HIGHEST_GUIDANCE = 1e6
Method = Literal["cached", "compiled", "naive", "fixed-point"]


def _cached(model: Passes, job: DrawJob, progress: Progress) -> None:
    scanned = job.scanned()
    raster(model, scanned.x, scanned.chooser(), scanned.h, progress)
    job.finish(scanned)


def _naive(model: Model, job: DrawJob, progress: Progress) -> None:
    _cached(Naive(model), job, progress)


def _compiled(model: Model, job: DrawJob, progress: Progress) -> None:
    if model.device.type == "cuda":
        from nextpixel.compiled.cuda_graphs import scan
    else:
        from nextpixel.compiled.sample import scan  # here, because numba takes a second to import
    scan(model, job, progress)


def _fixed_point(model: Model, job: DrawJob, progress: Progress) -> None:
    scanned = job.scanned()
    known = None if scanned.known is None else as_places(scanned.known)
    choose = replace(scanned, noise=as_places(scanned.noise), known=known).chooser()
    fixed_point(model, scanned.x, choose, scanned.h, progress)
    job.finish(scanned)


METHODS: dict[Method, Callable[[Model, DrawJob, Progress], None]] = {
    "cached": _cached,
    "compiled": _compiled,
    "naive": _naive,
    "fixed-point": _fixed_point,
}


def guided_likelihood(model: Model, guidance: float) -> Likelihood:
    """The distribution of a place under this guidance: the model's own, or a `Guided` one, which takes every image `twice`.

    Raises:
        InputError: guidance is not finite or far too large, or there is no condition to guide by.
    """
    if not abs(guidance) <= HIGHEST_GUIDANCE:
        raise InputError(f"guidance must be from -{HIGHEST_GUIDANCE:g} to {HIGHEST_GUIDANCE:g}, not {guidance}")
    if guidance != 1 and model.condition is None:
        raise InputError(f"guidance {guidance} needs a model with a condition, but this one takes none")
    return model.likelihood if guidance in (0, 1) else Guided(model.likelihood, guidance)


def guided_condition(model: Model, cond: Any, guidance: float, batch: int, height: int, width: int) -> Tensor | None:
    """The maps h under this guidance: 0 where it is 0, which needs no `cond`.

    Raises:
        InputError: as `encode_condition`.
    """
    if guidance == 0 and cond is None:
        return model.condition.one.new_zeros(batch, model.condition.features, 1, 1)
    h = model.encode_condition(cond, batch, height, width)
    return torch.zeros_like(h) if guidance == 0 else h


def with_known(model: Model, cond: Any, x: Tensor, known: Tensor | None) -> Any:
    """A `cond` with what is known of images x (B, C, H, W), for a model whose condition, or a part of it, is that (`Known`).

    Raises:
        InputError: as `Condition.join`.
    """
    if known is None or not sees_known(model.condition):
        return cond
    return model.condition.join(cond, given_symbols(x, known))


def of_unknown(each: Tensor, known: Tensor) -> Tensor:
    """The sum over unknown symbols, (B,), of what each has, (B, C, H, W)."""
    return torch.where(known, 0, each).flatten(1).sum(1)


def guided_log_prob(model: Model, x: Tensor, cond: Any, guidance: float, known: Tensor | None = None) -> Tensor:
    """log p(x) under guidance, (B,), of checked images, by one forward pass over every image twice; as `log_prob` of a model."""
    distribution = guided_likelihood(model, guidance)
    h, images = guided_condition(model, cond, guidance, x.shape[0], *x.shape[2:]), x
    if isinstance(distribution, Guided):
        images, h = twice(x), with_and_without(h)
    params = model.network(model.encode(images), h)
    if known is None:
        return distribution.log_prob(params, images)[: len(x)].flatten(1).sum(1)
    return of_unknown(distribution.log_prob_each(params, images)[: len(x)], known)


def blank(model: Model, n: int, size: tuple[int, int] | None) -> Tensor:
    """n images to draw, (n, C, H, W).

    Raises:
        InputError: n or size below 1.
    """
    if n < 1:
        raise InputError(f"n must be at least 1, not {n}")
    return torch.zeros(n, model.shape[0], *model.check_size(size), dtype=torch.long, device=model.device)


def partly_known(model: Model, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Images to complete, zero where they are unknown, and the mask, both (B, C, H, W).

    Raises:
        InputError: as `check_images`, or `known` is not a bool mask that fits x.
    """
    x = as_tensor(x, "images")
    known = as_mask(model, x, known)
    x = torch.where(known, x.to(model.device), torch.zeros((), dtype=x.dtype, device=model.device))
    return model.check_images(x), known


def as_mask(model: Model, x: Tensor, known: Any) -> Tensor:
    """A mask of known symbols, of the shape of images x.

    Raises:
        InputError: no bool mask that fits x.
    """
    known = as_tensor(known, "known").to(model.device)
    if known.dtype != torch.bool:
        raise InputError(f"known must be a bool mask, not {known.dtype}")
    try:
        return known.expand(x.shape)
    except RuntimeError:
        raise InputError(f"known {tuple(known.shape)} does not fit images {tuple(x.shape)}") from None


def fill(
    model: Model,
    x: Tensor,
    known: Tensor | None,
    n: int,
    cond: Any,
    seed: int,
    temperature: float,
    method: Method | None,
    progress: Progress | None,
    guidance: float,
) -> Tensor:
    """Draw the unknown places of images x (B, C, H, W), n times each: (B * n, C, H, W). Arguments: as `complete` of a model."""
    if n < 1:
        raise InputError(f"n must be at least 1, not {n}")
    distribution = guided_likelihood(model, guidance)
    with drawing(model) as twin:
        cond = with_known(twin, cond, x, known)
        h = guided_condition(twin, cond, guidance, x.shape[0], *x.shape[2:])
        x, known, h = (None if t is None else t.repeat_interleave(n, 0) for t in (x, known, h))
        job = DrawJob(x, uniform_noise(x, seed), known, h, distribution, temperature, owner=model)
        return draw(twin, job, method, progress)


def uniform_noise(x: Tensor, seed: int, repeats: int = 1) -> Tensor:
    """Noise in [0, 1) for images x, float64; each `repeats` images that follow one another share theirs.

    It is drawn for all images at once, and always on the CPU: neither batches nor the device change the images.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((x.shape[0] // repeats, *x.shape[1:]), generator=generator, dtype=torch.float64)
    return noise.repeat_interleave(repeats, 0).to(x.device)


def draw(model: Model, job: DrawJob, method: Method | None, progress: Progress | None) -> Tensor:
    """Fill the images of a job, batch by batch, and return them in their public type.

    Args:
        model: in evaluation mode.
        job: what is drawn.
        method: a name of `METHODS`, or None for the default, which falls back to "cached" where the scan is no program.
        progress: called with (rows finished, rows), over all passes of all batches.

    Raises:
        InputError: the temperature or method makes no sense, or weights or params are not finite.
    """
    if not (math.isfinite(job.temperature) and job.temperature >= LOWEST_TEMPERATURE):
        raise InputError(f"temperature must be at least {LOWEST_TEMPERATURE}, not {job.temperature}")
    chosen = choose_method(model, method)
    if chosen != "compiled" or model.device.type != "cpu":  # the program cache checks them with its digest
        check_weights(model)
    report = Parts(progress, rows_of(model, len(job.x), job.x.shape[2]))
    for first in range(0, len(job.x), SCAN_BATCH):
        batch = job.images(slice(first, first + SCAN_BATCH))
        try:
            METHODS[chosen](model, batch, report)
        except NotRecordableError as error:
            if method is not None:
                raise InputError(f"method {method!r}: {error}") from None
            warnings.warn(f"{model.name} is drawn step by step, because its scan is no program: {error}", stacklevel=4)
            chosen = "cached"
            METHODS[chosen](model, batch, report)
    return job.x.to(torch.uint8) if model.levels <= 256 else job.x


def choose_method(model: Model, method: Method | None) -> Method:
    """The given method, or the default of the model's device.

    Raises:
        InputError: an unknown method, or "compiled" where programs cannot draw.
    """
    if method is not None and method not in METHODS:
        *others, last = map(repr, METHODS)
        raise InputError(f"method must be {', '.join(others)} or {last}, not {method!r}")
    reason = why_not(model.device, next(model.parameters()).dtype)
    if method is None:
        # No GPU has run the CUDA graphs yet: there they are drawn only on request.
        return "cached" if reason or model.device.type != "cpu" else "compiled"
    if method == "compiled" and reason:
        raise InputError(f"method {method!r}: {reason}")
    return method


def rows_of(model: Model, n: int, height: int) -> int:
    """The rows of n images that progress counts: of each pass over every batch."""
    return -(-n // SCAN_BATCH) * scan_rows(model.strides, height)
