"""A part of a run's report that only some models have.

The report's part on a model conditioned on embeddings: images drawn from one photograph each of unseen identities.

The report's part on an autoencoder: samples given a code beside a plain decoder's one answer, as picture and as figures.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextpixel.conditions import cond_of, encoder_of
from nextpixel.data.splits import Splits
from nextpixel.models import AutoregressiveModel
from nextpixel.pictures.grid import save_grid
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.scoring.autoencoder import ConvAutoencoder, squared_error
from nextpixel.scoring.baselines import PixelMarginal


@dataclass(frozen=True)
class Section:
    """What a part of the report says.

    Args:
        markdown: for report.md, from its heading on.
        lines: the same in short, for the console.
        pictures: that it shows, relative to the run folder.
    """

    markdown: str
    lines: list[str]
    pictures: list[Path]


RECONSTRUCTED, SHOWN, DRAWN = 64, 8, 6  # images that are measured, and drawn; samples of each
PICTURE = Path("samples") / "reconstructions.png"


@dataclass(frozen=True)
class Reconstruction:
    """One way to reconstruct images: its squared error per image, float64 (N,), and its bits/dim per image, where it has any."""

    name: str
    squared_error: np.ndarray
    bits_per_dim: np.ndarray | None = None


def reconstruct(
    model: AutoregressiveModel, splits: Splits, marginal: PixelMarginal, settings: TrainingSettings, steps: int, out: Path
) -> list[Reconstruction]:
    """Train the plain autoencoder with the same budget, draw samples/reconstructions.png, and measure both on test images.

    Args:
        model: with an encoder in its condition.
        splits: the plain autoencoder trains on the training images, and both are measured on test images.
        marginal: of the training images, whose mean is the answer that needs no code.
        settings: batch size, learning rate and seed of both.
        steps: optimiser steps of both.
        out: the run folder.
    """
    encoder = encoder_of(model.condition)
    sizes = encoder.given, encoder.maps, steps, settings.batch_size, settings.lr, settings.seed
    plain = ConvAutoencoder.fit(splits.train, *sizes, device=model.device)
    x, labels = splits.test.__getitems__(splits.test.spread(RECONSTRUCTED))
    x = x.to(model.device)
    cond = cond_of(model.condition, x, labels)
    other = cond_of(model.condition, x.roll(1, 0), None if labels is None else labels.roll(1, 0))
    nothing = torch.tensor(False)
    drawn, others = (model.complete(x, nothing, DRAWN, c, settings.seed).unflatten(0, (len(x), DRAWN)) for c in (cond, other))
    with torch.no_grad():
        answers = plain(x)
        bits, other_bits = (model.bits_per_dim(x, c).double().cpu().numpy() for c in (cond, other))
    top = model.levels - 1
    mean = torch.from_numpy((marginal.law * np.arange(model.levels)).sum(-1) / top).to(x.device).expand(x.shape)

    def error(brightness: Tensor) -> np.ndarray:
        return squared_error(brightness, x, model.levels).double().cpu().numpy()

    def error_of_samples(samples: Tensor) -> np.ndarray:
        return np.mean([error(samples[:, k] / top) for k in range(DRAWN)], axis=0)

    _draw(x / top, answers, drawn / top, out / PICTURE)
    return [
        Reconstruction(f"{model.name} decoder: one sample", error_of_samples(drawn), bits),
        Reconstruction(f"{model.name} decoder: mean of {DRAWN} samples", error(drawn.double().mean(1) / top)),
        Reconstruction(f"{model.name} decoder: one sample, given another image's code", error_of_samples(others), other_bits),
        Reconstruction("convolutional decoder, trained by squared error", error(answers)),
        Reconstruction("mean training image, no code", error(mean)),
    ]


def reconstruction_section(found: list[Reconstruction]) -> Section:
    """The part of the report."""
    rows = ["| | squared error | bits/dim given the code |", "|---|---|---|"]
    for line in found:
        bits = "n/a" if line.bits_per_dim is None else _with_error(line.bits_per_dim)
        rows.append(f"| {line.name} | {_with_error(line.squared_error)} | {bits} |")
    table = "\n".join(rows)
    markdown = f"""
## Reconstructions

![reconstructions]({PICTURE.as_posix()})

The original; the answer of a plain convolutional decoder to a code of the same size, from an encoder of the same kind, trained
by squared error for as many steps; and {DRAWN} samples of the model given the original's code.

{table}

On {len(found[0].squared_error)} test images; brightness from 0 to 1, squared errors averaged over pixels. Squared error is
what the convolutional decoder minimises, by answering with the mean of all images that have this code; a sample is one of them,
so even a perfect decoder's samples have about twice the error of that mean. The mean of several samples compares more fairly.
"""
    return Section(markdown, [f"squared error {line.squared_error.mean():.4f}   {line.name}" for line in found], [PICTURE])


def _draw(original: Tensor, answers: Tensor, drawn: Tensor, path: Path) -> None:
    """A row per image: the original, the convolutional decoder's answer, the samples; all of brightness from 0 to 1."""
    rows = torch.cat([original[:, None], answers[:, None], drawn], 1)[:SHOWN]
    save_grid(rows.flatten(0, 1).clamp(0, 1).mul(255).round().long(), 256, path, columns=rows.shape[1])


def _with_error(values: np.ndarray) -> str:
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{values.mean():.4f} ± {error:.4f}"
