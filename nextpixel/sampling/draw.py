"""Drawing images: what every architecture inherits for sampling and completion, all of it through the one raster loop."""

import math
import warnings
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nextpixel.compiled import cuda_graphs as graphs
from nextpixel.compiled import why_not
from nextpixel.errors import InputError
from nextpixel.layers.recordable import NotRecordableError
from nextpixel.likelihoods import Guided, Likelihood
from nextpixel.likelihoods.guided import twice, with_and_without
from nextpixel.progress import Parts, Progress
from nextpixel.scan.evaluating import check_weights, drawing
from nextpixel.scan.fixed_point import as_places, fixed_point
from nextpixel.scan.job import Request
from nextpixel.scan.raster import Choose, Draw, Keep, Naive, raster, scan_rows

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel

Method = Literal["cached", "compiled", "naive", "fixed-point"]
METHODS = ("cached", "compiled", "naive", "fixed-point")
# Images scanned side by side: more would only make the caches larger than the processor's.
LANES = 256
# Below it logits overflow in float32; the likeliest symbol is drawn long before.
LOWEST_TEMPERATURE = 1e-6


class Sampling:
    """The part of `AutoregressiveModel` that draws."""

    def sample(
        self: "AutoregressiveModel",
        n: int,
        cond: Any = None,
        seed: int = 0,
        temperature: float = 1.0,
        method: Method | None = None,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draw n images: (n, C, H, W), uint8 up to 256 levels and int64 above.

        Args:
            n: how many.
            cond: the condition, for one image or for all n.
            seed: of the noise; equal seeds give equal images, whatever the method.
            temperature: below 1 more likely images, above 1 more varied ones; 1 is the model itself.
            method: "cached" scans at the arithmetic of one forward pass, step by step, and "compiled" does the same as a
                program on all cores, or as graphs on a GPU (`nextpixel.compiled`); "naive" runs one forward pass for every
                place, and "fixed-point" draws all places at once until nothing changes (`nextpixel.scan.fixed_point`). By default
                "compiled" on a processor where `nextpixel.compiled.why_not` has no reason against it, and else "cached".
            size: (H, W), by default that of the training images.
            progress: called with (rows finished, rows) after each row, or after each sweep; `scan_rows` tells how many there are.
            guidance: s, draws each symbol from p(. | earlier, h)^s p(. | earlier)^(1 - s), renormalised over the symbols
                (`likelihoods.Guided`), before the temperature: 1 is the model, 0 the unconditional model, which needs no
                `cond`; above 1 images are more typical of their condition. Other values scan every image twice, side by side.

        Raises:
            InputError: n, temperature, guidance, method or size make no sense, the condition is missing or superfluous, or the
                model's weights are not finite, or the numbers that it computes from them.
        """
        if n < 1:
            raise InputError(f"n must be at least 1, not {n}")
        height, width = self.check_size(size)
        x = torch.zeros(n, self.shape[0], height, width, dtype=torch.long, device=self.device)
        law = self.guided_likelihood(guidance)
        with drawing(self) as model:
            h = model.guided_condition(cond, guidance, n, height, width)
            return self._scan(model, x, None, h, seed, temperature, method, progress, law)

    def complete(
        self: "AutoregressiveModel",
        x: Tensor,
        known: Tensor,
        n: int = 1,
        cond: Any = None,
        seed: int = 0,
        temperature: float = 1.0,
        method: Method | None = None,
        progress: Progress | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draw the unknown places of images given the earlier ones; known places stay as they are.

        A place is drawn from everything *before* it in the model's `order`: what is known after it is kept, but cannot guide it.

        Args:
            x: (B, C, H, W) integers; what stands at unknown places is not read.
            known: bool, broadcastable to x.
            n: completions per image; those of image b are rows b * n ... b * n + n - 1 of the result.
            cond, seed, temperature, method, progress, guidance: as for `sample`; `cond` is for the B images.

        Returns:
            (B * n, C, H, W), uint8 up to 256 levels and int64 above.

        Raises:
            InputError: as `sample` and `log_prob`, or `known` is not a bool mask that fits x.
        """
        known = torch.as_tensor(known, device=self.device)
        if known.dtype != torch.bool:
            raise InputError(f"known must be a bool mask, not {known.dtype}")
        try:
            known = known.expand(x.shape)
        except RuntimeError:
            raise InputError(f"known {tuple(known.shape)} does not fit images {tuple(x.shape)}") from None
        if n < 1:
            raise InputError(f"n must be at least 1, not {n}")
        x = torch.where(known, torch.as_tensor(x, device=self.device), torch.zeros((), dtype=x.dtype, device=self.device))
        x = self.check_images(x)
        law = self.guided_likelihood(guidance)
        with drawing(self) as model:
            h = model.guided_condition(cond, guidance, x.shape[0], *x.shape[2:])
            x, known = x.repeat_interleave(n, 0), known.repeat_interleave(n, 0)
            h = None if h is None else h.repeat_interleave(n, 0)
            return self._scan(model, x, known, h, seed, temperature, method, progress, law)

    def scan_rows(self: "AutoregressiveModel", n: int, size: tuple[int, int] | None = None) -> int:
        """The rows of n images that `sample` tells its progress by: of each pass over every group scanned together."""
        return -(-n // LANES) * scan_rows(self.strides, self.check_size(size)[0])

    def _scan(
        self: "AutoregressiveModel",
        model: "AutoregressiveModel",
        x: Tensor,
        known: Tensor | None,
        h: Tensor | None,
        seed: int,
        temperature: float,
        method: Method | None,
        progress: Progress | None,
        law: Likelihood,
        repeats: int = 1,
    ) -> Tensor:
        """Fill x from a law, the model's own or a guided one; each `repeats` images that follow one another share their noise.

        `model` is what draws for this one.
        """
        if not (math.isfinite(temperature) and temperature >= LOWEST_TEMPERATURE):
            raise InputError(f"temperature must be at least {LOWEST_TEMPERATURE}, not {temperature}")
        strict, method = method is not None, self._way_to_draw(method)
        # Drawn for all images at once, and always on the CPU: neither lanes nor the device change the pictures.
        generator = torch.Generator().manual_seed(seed)
        shape = (x.shape[0] // repeats, *x.shape[1:])
        noise = torch.rand(shape, generator=generator, dtype=torch.float64).repeat_interleave(repeats, 0).to(self.device)
        if method != "compiled" or self.device.type != "cpu":  # programs look themselves
            check_weights(model)
        report = Parts(progress, self.scan_rows(len(x), tuple(x.shape[2:])))
        for a in range(0, x.shape[0], LANES):
            images, *of_lanes, of_h = (None if t is None else t[a : a + LANES] for t in (x, noise, known, h))
            if method == "compiled":
                try:
                    _run_programs(model, Request(images, *of_lanes, of_h, law, temperature), report, self)
                    continue
                except NotRecordableError as error:
                    if strict:
                        raise InputError(f"method {method!r}: {error}") from None
                    warnings.warn(f"{self.name} is drawn step by step, because its scan is no program: {error}", stacklevel=3)
                    method = "cached"
            if isinstance(law, Guided):
                lanes, of_h = [None if t is None else twice(t) for t in (images, *of_lanes)], with_and_without(of_h)
            else:
                lanes = [images, *of_lanes]
            if method == "fixed-point":
                places = (None if t is None else as_places(t) for t in lanes[1:])
                fixed_point(model, lanes[0], _chooser(law, temperature, *places), of_h, report)
            else:
                choose = _chooser(law, temperature, *lanes[1:])
                raster(Naive(model) if method == "naive" else model, lanes[0], choose, of_h, report)
            images.copy_(lanes[0][: len(images)])
        return x.to(torch.uint8) if self.levels <= 256 else x

    def _way_to_draw(self: "AutoregressiveModel", method: Method | None) -> Method:
        """The method that is asked for, if it can be, or the default one."""
        if method is not None and method not in METHODS:
            raise InputError(f"method must be {', '.join(map(repr, METHODS[:-1]))} or {METHODS[-1]!r}, not {method!r}")
        reason = why_not(self.device, next(self.parameters()).dtype)
        if method is None:
            # On a GPU programs are graphs, which no GPU has run yet: there they are drawn by choice.
            return "cached" if reason or self.device.type != "cpu" else "compiled"
        if method == "compiled" and reason:
            raise InputError(f"method {method!r}: {reason}")
        return method


def _chooser(law: Likelihood, temperature: float, noise: Tensor, known: Tensor | None) -> Choose:
    choose = Draw(law, noise, temperature)
    return choose if known is None else Keep(known, choose)


def _run_programs(model: "AutoregressiveModel", request: Request, progress: Progress, owner: "AutoregressiveModel") -> None:
    if model.device.type == "cuda":
        graphs.scan(model, request, progress)
    else:
        from nextpixel.compiled.sample import scan  # here, because numba takes a second to import

        scan(model, request, progress, owner)
