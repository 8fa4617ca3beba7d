"""The recipe `pictures`: looks at one's own data and at the machine, and chooses what fits a given time, with the reasons."""

import math
import statistics
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch

from nextpixel.data.settings import DataSettings
from nextpixel.data.survey import Survey, look, survey
from nextpixel.errors import InputError, shown
from nextpixel.models.gated_pixelcnn import GatedPixelCNN
from nextpixel.recipes import read_recipe

RECIPE = "pictures"
# Features and blocks of the models to choose from, smallest first.
SIZES = ((16, 3), (24, 4), (32, 5), (48, 6), (64, 8), (96, 10), (128, 12))
FEWEST = 3  # images: one for each split
USUAL_STEPS, FEWEST_STEPS = 1000, 300  # of a run: what a model should have, and what the smallest one must
MOST_EPOCHS = 300  # beyond, a model of any of these sizes has learned a set by heart
TRAINED_SHARE = 0.75  # of the time; the rest is for reading, validation and the report
HELD_OUT = 1000  # images of validation and test where there are many: more cost time, and change the third digit
LARGEST = 64  # larger side that pictures are reduced to, if they are
SMALLEST = 16
FEW_LEVELS = 64  # up to here a probability for each level, beyond a mixture of logistics


@dataclass(frozen=True)
class Choice:
    """What a run takes, as a recipe has it, and why.

    Args:
        values: recipe, about, model, data, training.
        lines: what is said to the user.
    """

    values: dict[str, Any]
    lines: list[str]


def choose(settings: DataSettings, minutes: float, progress: bool = True) -> Choice:
    """Look at the data and choose.

    Args:
        settings: with the source, and what the user has set.
        minutes: that the whole run may take.
        progress: whether bars are shown.

    Raises:
        InputError: the data cannot be used, or are fewer than three images.
    """
    if not 0 < minutes < math.inf:
        raise InputError(f"--minutes is {minutes}: expected a number above 0")
    lines: list[str] = []
    data: dict[str, Any] = {}
    found = look(settings, progress)
    if isinstance(found, Counter):
        data |= _alike(found, settings, lines)
        settings = replace(settings, **data)
        found = survey(settings, progress)
    if found.images < FEWEST or found.splits is None:
        what = "1 image is" if found.images == 1 else f"{found.images} images are"
        raise InputError(f"{shown(settings.source)}: {what} too few: training, choosing and testing need three, and much more")
    if found.grey and not settings.grayscale:
        data["grayscale"] = True
        lines.append("the three channels of all pictures are equal: one is taken (grayscale)")
    channels = 1 if found.grey else found.shape[0]
    levels = found.levels if found.levels < settings.levels else settings.levels
    data["levels"] = levels
    data |= {name: HELD_OUT / found.images for name in found.drawn if getattr(settings, name) * found.images > HELD_OUT}
    train = found.images - sum(min(number, HELD_OUT) for name, number in found.counts.items() if name != "train")
    likelihood = "categorical" if levels <= FEW_LEVELS else "logistic-mixture"
    speed = _speed(channels, levels, likelihood)
    seconds = minutes * 60 * TRAINED_SHARE
    batch = max(1, min(16, train // 4))
    size, reduced = _fit(
        found.shape[1:], settings, channels, levels, likelihood, seconds * speed / (FEWEST_STEPS * min(batch, 8))
    )
    if reduced:
        data["size"] = size
        lines.append(
            f"pictures of {found.shape[1]}x{found.shape[2]} are reduced to {size[0]}x{size[1]}, as {minutes:g} minutes allow on "
            f"this machine (--data.size, or more --minutes); the model takes any size afterwards"
        )
    shape = (channels, *size)
    values = train * math.prod(shape)
    affordable = seconds * speed / (USUAL_STEPS * batch)
    features, blocks = SIZES[0]
    for wider, deeper in SIZES:
        work, weights = _work(shape, levels, likelihood, wider, deeper)
        if work <= affordable and weights <= 2 * values:
            features, blocks = wider, deeper
    work, weights = _work(shape, levels, likelihood, features, blocks)
    while batch > 4 and seconds * speed / (work * batch) < USUAL_STEPS:
        batch //= 2
    steps = max(1, int(seconds * speed / (work * batch)))
    per_epoch = -(-train // batch)
    limit = MOST_EPOCHS * per_epoch
    enough = limit < steps
    steps = min(steps, limit)
    epochs = steps / per_epoch
    labels = _labels(found, lines)
    lr = 0.002 if features <= 48 else 0.001
    training = {
        "minutes": minutes * TRAINED_SHARE,
        "steps": limit if enough else None,
        "batch_size": batch,
        "lr": lr,
        "warmup": max(1, min(100, steps // 10)),
        "eval_every": max(1, round(epochs / 10)),
        "sample_every": 0,
        "ema": 0.999 if steps >= 2000 else 0.99,
        "devices": 1,
        "condition_dropout": 0.1 if labels else 0.0,
    }
    model = {
        **read_recipe(RECIPE)["model"],
        **{"features": features, "blocks": blocks, "head_features": 2 * features, "likelihood": likelihood},
        **({"condition": "labels"} if labels else {}),
    }
    small = "the data have few pixels" if weights * 2 > values else "the time allows"
    spread = f"a probability for each of {levels} levels" if likelihood == "categorical" else "a mixture of logistics"
    lines.append(f"model: gated-pixelcnn of {features} features and {blocks} blocks ({weights:,} weights), as {small}; {spread}")
    length = f"{limit} steps, after which it would learn the set by heart" if enough else f"about {steps} steps"
    lines.append(
        f"training: batches of {batch}, learning rate {lr:g}, {length} ({epochs:.3g} epochs of {train} images) in at most "
        f"{training['minutes']:.3g} of {minutes:g} minutes; the rest is for validation and the report"
    )
    lines.append(f"use: {_use(found, train, epochs, enough)}")
    return Choice({**read_recipe(RECIPE), "model": model, "data": data, "training": training}, lines)


def _alike(shapes: Counter[tuple[int, int, int]], settings: DataSettings, lines: list[str]) -> dict[str, Any]:
    """Settings that make pictures of different sizes or kinds alike."""
    data: dict[str, Any] = {}
    kinds: Counter[int] = Counter()
    for shape, number in shapes.items():
        kinds[shape[0]] += number
    if len(kinds) > 1 and not settings.grayscale:
        data["grayscale"] = True
        lines.append(f"{kinds[1]} pictures are grey and {kinds[3]} in colour: all are taken as grey (grayscale)")
    if len({shape[1:] for shape in shapes}) > 1 and settings.size is None:
        ratio = statistics.median(height / width for (_, height, width), number in shapes.items() for _ in range(number))
        side = min(LARGEST, *(max(shape[1:]) for shape in shapes))
        data["size"] = (max(1, round(side * min(1, ratio))), max(1, round(side / max(1, ratio))))
        lines.append(f"{len({shape[1:] for shape in shapes})} sizes: all are resized to {data['size'][0]}x{data['size'][1]}")
    return data


def _labels(found: Survey, lines: list[str]) -> bool:
    """Whether the model is to depend on the class."""
    number = len(found.classes or {})
    if number < 2:
        return False
    if number > 100 or found.images < 20 * number:
        lines.append(f"{number} classes for {found.images} images: too few of each to tell them apart, so classes are not used")
        return False
    lines.append(f"{number} classes with {found.images // number} images on average: the model depends on the class (--label)")
    return True


def _model(shape: tuple[int, int, int], levels: int, likelihood: str, features: int, blocks: int) -> GatedPixelCNN:
    sizes = {"features": features, "blocks": blocks, "head_features": 2 * features, "kernel_size": 3, "first_kernel_size": 5}
    return GatedPixelCNN(shape, levels=levels, likelihood=likelihood, **sizes)


def _work(shape: tuple[int, int, int], levels: int, likelihood: str, features: int, blocks: int) -> tuple[float, int]:
    """Multiplications of weights for one image, and the weights."""
    with torch.device("meta"):
        weights = sum(p.numel() for p in _model(shape, levels, likelihood, features, blocks).parameters())
    return float(weights * math.prod(shape[1:])), weights


def _speed(channels: int, levels: int, likelihood: str) -> float:
    """Multiplications of weights in a second of training, measured with a small model of these images for about a second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(levels, (4, channels, 32, 32), generator=generator).to(device)
    with torch.random.fork_rng():
        model = _model((channels, 32, 32), levels, likelihood, 24, 4).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    taken = []
    begun = time.monotonic()
    while len(taken) < 2 or (time.monotonic() - begun < 1 and len(taken) < 20):
        start = time.monotonic()
        model.bits_per_dim(x).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.monotonic() - start)
    return len(x) * _work((channels, 32, 32), levels, likelihood, 24, 4)[0] / statistics.median(taken[1:])


def _fit(
    size: tuple[int, int], settings: DataSettings, channels: int, levels: int, likelihood: str, affordable: float
) -> tuple[tuple[int, int], bool]:
    """The size to train at: as it is, or the largest of a few whose smallest model the time allows; whether it is reduced."""
    sides = [side for side in (LARGEST, 48, 32, 24, SMALLEST) if side < max(size)]
    if settings.size is not None or settings.crop is not None or not sides:
        return size, False
    for side in (max(size), *sides):
        smaller = tuple(max(1, round(part * side / max(size))) for part in size)
        if side <= 2 * LARGEST and _work((channels, *smaller), levels, likelihood, *SIZES[0])[0] <= affordable:
            return smaller, side != max(size)
    return tuple(max(1, round(part * sides[-1] / max(size))) for part in size), True


def _use(found: Survey, train: int, epochs: float, enough: bool) -> str:
    """What the result may be used for."""
    if train < 100:
        return (
            f"to try things out: {train} images teach brightness and texture at most, and figures from {found.counts['test']} "
            f"test images mean little"
        )
    fit = "scores, completion and compression of pictures like these; samples will show their textures rather than objects"
    if enough:
        return f"{fit}; with {train} images it may know its training images better than others: compare train and test"
    if epochs < 1:
        return f"{fit}; it does not even see all images once: a first look, to be followed by a longer run"
    return f"{fit}; more time (--minutes) will make it better"
