"""What is measured of a model: forward, a training step, and the ways of sampling, interleaved in one run.

    passes     seconds of drawing a batch, as `sample` does by default / seconds of one forward pass of the same batch, the
               median of the rounds' ratios
    floor      FLOPs of that forward pass / the machine's own matrix-product peak, measured in the same run
    speed-up   seconds of the naive sampler / seconds of drawing

The naive sampler runs a forward pass for every place and channel: a few places are timed, and the rest is extrapolated, since its
cost does not depend on the place. Machines have neighbours, so only ratios within a run compare.

A slice of the naive sampler, whose whole would take minutes.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from nextpixel.compiled import why_not
from nextpixel.errors import InputError
from nextpixel.machine import count_flops, peak, timed
from nextpixel.models import MODELS, AutoregressiveModel
from nextpixel.progress import track
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.scan.raster import Draw
from nextpixel.training.objective import Likelihood, optimise
from nextpixel.training.processes import precision

# The sizes that published figures of speed are given for, or the presets of what the paper trained.
DEFAULTS: dict[str, dict[str, Any] | str] = {
    "pixelcnn": {"shape": (1, 28, 28), "levels": 2, "features": 64, "blocks": 12},
    "gated-pixelcnn": {"shape": (1, 28, 28), "levels": 2, "features": 64, "blocks": 12},
    "pixelcnn++": "small",
    "row-lstm": "mnist",
    "diagonal-bilstm": "mnist",
    "multiscale": "mnist",
}


@dataclass(frozen=True)
class Case:
    """A model to measure: the name of the architecture, its settings, and what to call them."""

    name: str
    settings: dict[str, Any]
    label: str

    def build(self) -> AutoregressiveModel:
        """An untrained model: its weights do not change its speed."""
        torch.manual_seed(0)
        return MODELS[self.name](**self.settings).eval()

    def sized(self, height: int, width: int) -> "Case":
        """The same for images of another size."""
        return replace(self, settings={**self.settings, "shape": (self.settings["shape"][0], height, width)})


@dataclass(frozen=True)
class Times:
    """Seconds of each round, and FLOPs, of one model at one batch size.

    Args:
        label: the model.
        parameters: how many weights it has.
        shape: (C, H, W).
        batch: images.
        forward: seconds of one float32 forward pass, per round.
        cached: of drawing the batch step by step.
        compiled: of drawing it by programs; empty where there are none.
        naive: of the naive sampler, extrapolated; empty where it was not timed.
        flops: of the forward pass.
        peak: FLOP/s of a float32 matrix product in the same run.
    """

    label: str
    parameters: int
    shape: tuple[int, int, int]
    batch: int
    flops: int
    peak: float
    forward: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    compiled: list[float] = field(default_factory=list)
    naive: list[float] = field(default_factory=list)

    @property
    def drawing(self) -> list[float]:
        """Seconds of what `sample` does by default."""
        return self.compiled or self.cached

    @property
    def passes(self) -> float:
        return _ratio(self.drawing, self.forward)

    @property
    def speed_up(self) -> float:
        return _ratio(self.naive, self.drawing)

    @property
    def over_floor(self) -> float:
        """Seconds of drawing over the floor."""
        return statistics.median(self.drawing) * self.peak / self.flops

    @property
    def share_of_peak(self) -> float:
        """Of the forward pass."""
        return self.flops / statistics.median(self.forward) / self.peak


@dataclass(frozen=True)
class Step:
    """One training step of a model: likelihood, backward pass and optimiser.

    Args:
        label: the model.
        batch: images.
        precision: of the step, "bf16-mixed" or "32-true".
        flops: of the step, counted forwards and backwards.
        peak: FLOP/s of a matrix product of this precision in the same run.
        seconds: per round.
    """

    label: str
    batch: int
    precision: str
    flops: int
    peak: float
    seconds: list[float]

    @property
    def milliseconds_per_image(self) -> float:
        return 1e3 * statistics.median(self.seconds) / self.batch

    @property
    def flops_per_second(self) -> float:
        return self.flops / statistics.median(self.seconds)


def cases(names: list[str], preset: str | None = None, size: tuple[int, int] | None = None) -> list[Case]:
    """Models to measure.

    Args:
        names: architectures; none means all.
        preset: a preset of each, instead of its default sizes.
        size: (H, W) of the images, instead of theirs.

    Raises:
        InputError: an unknown architecture, or one without that preset.

    Example:
        >>> [case.label for case in cases(["pixelcnn", "row-lstm"])]
        ['pixelcnn 12 x 64', 'row-lstm mnist']
    """
    found = []
    for name in names or list(MODELS):
        if name not in MODELS:
            raise InputError(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
        chosen, presets = preset or DEFAULTS[name], MODELS[name].presets
        if isinstance(chosen, str) and chosen not in presets:
            raise InputError(f"{name} has no preset {chosen!r}: expected one of {', '.join(presets)}")
        sizes = dict(presets[chosen] if isinstance(chosen, str) else chosen)
        label = chosen if isinstance(chosen, str) else f"{sizes['blocks']} x {sizes['features']}"
        found.append(Case(name, sizes, f"{name} {label}"))
    return found if size is None else [case.sized(*size) for case in found]


def measure_sampling(
    case: Case, batches: list[int], rounds: int, places: int = 4, device: str = "cpu", naive: bool = True
) -> Iterator[Times]:
    """Forward and the ways of drawing, one batch size after the other; in each round one after the other.

    Args:
        case: the model.
        batches: batch sizes.
        rounds: that are timed, after one that warms up.
        places: of the naive sampler that are timed per round.
        device: where.
        naive: whether to time the naive sampler.
    """
    model = case.build().to(device)
    parameters, all_places = sum(p.numel() for p in model.parameters()), model.shape[1] * model.shape[2]
    for batch in batches:
        x = torch.randint(model.levels, (batch, *model.shape), device=device)
        work: dict[str, Callable[[], Any]] = {
            "forward": torch.inference_mode()(lambda x=x: model(x)),
            "cached": lambda batch=batch: model.sample(batch, method="cached"),
        }
        if why_not(model.device, torch.float32) is None:
            work["compiled"] = lambda batch=batch: model.sample(batch, method="compiled")
        if naive:
            work["naive"] = lambda batch=batch: naive_places(model, batch, places)
        flops = count_flops(work["forward"])
        times = Times(case.label, parameters, model.shape, batch, flops, peak(torch.float32, device))
        for seconds in _rounds(work, rounds, f"{case.label}, batch {batch}", device):
            times.forward.append(seconds["forward"])
            times.cached.append(seconds["cached"])
            if "compiled" in work:
                times.compiled.append(seconds["compiled"])
            if naive:
                times.naive.append(seconds["naive"] * all_places / places)
        yield times


def measure_training(case: Case, batch: int, rounds: int, compiled: bool = False, device: str = "cpu") -> Step:
    """One training step as `nextpixel train` runs it, on random images.

    Args:
        case: the model.
        batch: images.
        rounds: steps that are timed, after three that warm up (and compile).
        compiled: whether network and likelihood are compiled.
        device: where.
    """
    settings = TrainingSettings(batch_size=batch, compile=compiled)
    model = case.build().train().to(device, memory_format=torch.channels_last)
    x = torch.randint(model.levels, (batch, *model.shape), device=device)
    model.initialise(x)
    objective, optimizer = Likelihood(model, settings), optimise(model, settings)
    how = precision(settings)
    low = how == "bf16-mixed"

    def loss() -> torch.Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=low):
            return objective.loss((x, None))

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    flops = count_flops(lambda: objective.bits_per_dim((x, None)).backward())
    speed = peak(torch.bfloat16 if low else torch.float32, device)
    seconds = [found["step"] for found in _rounds({"step": step}, rounds, f"{case.label}, training", device, warm_up=3)]
    return Step(case.label, batch, how, flops, speed, seconds)


def _rounds(
    work: dict[str, Callable[[], Any]], rounds: int, what: str, device: str, warm_up: int = 1
) -> Iterator[dict[str, float]]:
    for k in track(range(rounds + warm_up), rounds + warm_up, what):
        seconds = {name: timed(function, device) for name, function in work.items()}
        if k >= warm_up:
            yield seconds


def _ratio(above: list[float], below: list[float]) -> float:
    """The median of the rounds' ratios: what slowed a whole round down cancels."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def as_plain(times: Times | Step) -> dict[str, Any]:
    """For JSON: the measurements, and the figures that follow from them."""
    figures = ("passes", "speed_up", "over_floor", "share_of_peak") if isinstance(times, Times) else ()
    if isinstance(times, Times) and not times.naive:
        figures = ("passes", "over_floor", "share_of_peak")
    if isinstance(times, Step):
        figures = ("milliseconds_per_image", "flops_per_second")
    return {**asdict(times), **{name: getattr(times, name) for name in figures}}


@torch.inference_mode()
def naive_places(model: AutoregressiveModel, batch: int, places: int) -> None:
    """The naive sampler's work at some places, spread over the image: a forward pass and a draw for each channel.

    Where the likelihood couples the channels, one forward pass serves them all, as in `raster`.

    Args:
        model: any.
        batch: images drawn side by side.
        places: how many.
    """
    channels, height, width = model.shape
    x = torch.zeros(batch, channels, height, width, dtype=torch.long, device=model.device)
    choose = Draw(model.likelihood, torch.rand(x.shape, dtype=torch.float64).to(model.device))
    for k in range(places):
        i, j = divmod(k * height * width // places, width)
        for c in range(channels):
            if c < model.colours:
                params = model.network(model.encode(x))[:, :, i, j]
            x[:, c, i, j] = choose(params, x, i, j, c)
