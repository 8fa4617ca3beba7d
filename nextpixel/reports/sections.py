"""Sections of a report that only some models have.

Reconstructions: samples given a code, beside the one answer of a plain decoder. Classes: whether a class-conditional model draws
the class that it is given, and what guidance changes.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextpixel.conditions import cond_of, encoder_of
from nextpixel.data.splits import Splits
from nextpixel.errors import InputError
from nextpixel.files import write_aside
from nextpixel.models import AutoregressiveModel
from nextpixel.pictures.grid import save_grid
from nextpixel.progress import rows_bar
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.scoring.autoencoder import ConvAutoencoder, squared_error
from nextpixel.scoring.baselines import PixelMarginal
from nextpixel.scoring.recognition import Classifier, Recognition, Strength, recognise_samples, sampled, sweep

RECONSTRUCTED, ROWS, DRAWN = 64, 8, 6  # images that are measured, and drawn; samples of each
RECONSTRUCTIONS = Path("samples") / "reconstructions.png"
COLUMNS = 20  # samples in a row of the picture
PLOT, GUIDED = Path("samples") / "guidance.png", Path("samples") / "guidance-samples.png"
NO_GUIDANCE = """
Not measured: every training image came with its label (condition dropout 0), so the unconditional distribution, which guidance
needs, was not trained.
"""


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Args:
        markdown: for report.md, from its heading on.
        lines: the same in short, for the console.
        pictures: that it shows, relative to the run folder.
    """

    markdown: str
    lines: list[str]
    pictures: list[Path]


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
    mean = torch.from_numpy((marginal.pmf * np.arange(model.levels)).sum(-1) / top).to(x.device).expand(x.shape)

    def error(brightness: Tensor) -> np.ndarray:
        return squared_error(brightness, x, model.levels).double().cpu().numpy()

    def error_of_samples(samples: Tensor) -> np.ndarray:
        return np.mean([error(samples[:, k] / top) for k in range(DRAWN)], axis=0)

    _draw(x / top, answers, drawn / top, out / RECONSTRUCTIONS)
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

![reconstructions]({RECONSTRUCTIONS.as_posix()})

The original; the answer of a plain convolutional decoder to a code of the same size, from an encoder of the same kind, trained
by squared error for as many steps; and {DRAWN} samples of the model given the original's code.

{table}

On {len(found[0].squared_error)} test images; brightness from 0 to 1, squared errors averaged over pixels. Squared error is
what the convolutional decoder minimises, by answering with the mean of all images that have this code; a sample is one of them,
so even a perfect decoder's samples have about twice the error of that mean. The mean of several samples compares more fairly.
"""
    return Section(
        markdown, [f"squared error {line.squared_error.mean():.4f}   {line.name}" for line in found], [RECONSTRUCTIONS]
    )


def _draw(original: Tensor, answers: Tensor, drawn: Tensor, path: Path) -> None:
    """A row per image: the original, the convolutional decoder's answer, the samples; all of brightness from 0 to 1."""
    rows = torch.cat([original[:, None], answers[:, None], drawn], 1)[:ROWS]
    save_grid(rows.flatten(0, 1).clamp(0, 1).mul(255).round().long(), 256, path, columns=rows.shape[1])


def _with_error(values: np.ndarray) -> str:
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{values.mean():.4f} ± {error:.4f}"


@dataclass(frozen=True)
class Classes:
    """What a plain classifier sees in the samples of a class-conditional model.

    Args:
        names: of the classes.
        real: what it sees in test images, which is the most that samples like them can reach.
        drawn: what it sees in samples.
        strengths: the same, and the likelihood of test images, under guidance; empty without condition dropout.
    """

    names: list[str]
    real: Recognition
    drawn: Recognition
    strengths: list[Strength]


def judge_classes(
    model: AutoregressiveModel, splits: Splits, training: TrainingSettings, out: Path
) -> tuple[Classes | None, Section]:
    """Train the classifier, draw samples and recognise them; with condition dropout also under guidance, with its two pictures.

    Args:
        model: whose condition is `Labels`, of symbols with an order: in codes there is no picture to recognise.
        splits: the classifier is trained on the training images, and it and the model's likelihood are measured on test images.
        training: its seed is that of the noise; guidance is measured if there is condition dropout.
        out: the run folder.

    Returns:
        What was found, or None where no classifier can be trained (one class, or more than 100); and the section.
    """
    try:
        classifier = Classifier.fit(splits.train, seed=training.seed)
    except InputError as error:
        reason = f"Whether samples are of the wanted class was not measured: {error}."
        return None, Section(f"\n{reason}\n", [reason], [])
    strengths: list[Strength] = []
    if training.condition_dropout > 0:
        strengths = sweep(model, classifier, splits.test, seed=training.seed)
        drawn = next(line.recognition for line in strengths if line.guidance == 1)
    else:
        with rows_bar("drawing samples of every class", model.scan_rows(sampled(classifier.classes))) as progress:
            _, drawn = recognise_samples(model, classifier, training.seed, progress=progress)
    names = splits.train.class_names or [str(k) for k in range(classifier.classes)]
    classes = Classes(list(names), classifier.recognise_images(splits.test), drawn, strengths)
    if strengths:
        draw_guidance(classes, out / PLOT)
        rows = torch.cat([line.samples[:COLUMNS] for line in strengths])
        columns = len(rows) // len(strengths)
        row = [names[k % len(names)] for k in range(columns)]  # samples are of the classes in turn
        save_grid(rows, model.levels, out / GUIDED, columns=columns, captions=row * len(strengths))
    return classes, classes_section(classes)


def classes_section(classes: Classes) -> Section:
    """The part of the report."""
    drawn, real = classes.drawn, classes.real
    rows = ["| class | samples recognised | of | most often taken for | test images recognised |", "|---|---|---|---|---|"]
    for k, name in enumerate(classes.names):
        number, mistake = int(drawn.confusion[k].sum()), drawn.mistake(k)
        mostly = "" if mistake is None else f"{classes.names[mistake[0]]} ({mistake[1]})"
        rows.append(f"| {name} | {drawn.per_class[k]:.3f} | {number} | {mostly} | {real.per_class[k]:.3f} |")
    rows.append(f"| **all** | **{_share(drawn)}** | {len(drawn.wanted)} | | {_share(real)} |")
    table = "\n".join(rows)
    markdown = f"""
## Are samples of the wanted class?

{table}

What a plain classifier sees in samples (temperature 1, no guidance) and in {len(real.wanted)} test images. It is trained on real
training images: principal components, and a support vector machine. What it reaches on test images is the most that samples
like them can reach. The share does not measure variety: one good picture of each class, again and again, would pass.

## Guidance
{_guidance(classes) if classes.strengths else NO_GUIDANCE}"""
    lines = [f"recognised {_share(drawn)} of {len(drawn.wanted)} samples, {_share(real)} of {len(real.wanted)} test images"]
    lines += [
        f"guidance {line.guidance:g}: recognised {_share(line.recognition)}, {_bits(line)} bits/dim" for line in classes.strengths
    ]
    return Section(markdown, lines, [PLOT, GUIDED] if classes.strengths else [])


def _guidance(classes: Classes) -> str:
    rows = ["| strength | samples recognised | bits/dim of test images |", "|---|---|---|"]
    table = "\n".join(
        rows + [f"| {line.guidance:g} | {_share(line.recognition)} | {_bits(line)} |" for line in classes.strengths]
    )
    strengths, scored = classes.strengths, len(classes.strengths[0].evaluation.nats)
    return f"""
![guidance]({PLOT.as_posix()})

{table}

Strength 0 is the unconditional model, which takes no label, 1 is the model itself. Each symbol is drawn from
p(. | earlier, label)^s p(. | earlier)^(1 - s), renormalised, and bits/dim are of this distribution: {scored} test images,
the same at every strength, so differences between strengths are more precise than ± shows.

![samples under guidance]({GUIDED.as_posix()})

From top to bottom strengths {", ".join(f"{line.guidance:g}" for line in strengths)}; a column has one noise and one wanted class.
"""


def draw_guidance(classes: Classes, path: str | Path) -> None:
    """Draw class accuracy and bits/dim against the strength of guidance, side by side.

    Raises:
        InputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot: it keeps global state and looks for a screen

    strengths = [line.guidance for line in classes.strengths]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    seen = [line.recognition for line in classes.strengths]
    left.errorbar(strengths, [r.accuracy for r in seen], [r.standard_error for r in seen], fmt="o-", capsize=3, label="samples")
    ceiling = classes.real.accuracy
    left.axhline(ceiling, linestyle="--", linewidth=1, color="tab:green", label=f"test images: {ceiling:.3f}")
    left.set(xlabel="strength of guidance", ylabel="share of the wanted class", ylim=(0, 1.03))
    scores = [line.evaluation for line in classes.strengths]
    bits, errors = [e.bits_per_dim for e in scores], [e.bits_per_dim_standard_error for e in scores]
    right.errorbar(strengths, bits, errors, fmt="o-", capsize=3, color="tab:orange", label=f"{len(scores[0].nats)} test images")
    for name, strength, colour in (("the unconditional model", 0, "tab:grey"), ("the model itself", 1, "tab:blue")):
        value = bits[strengths.index(strength)]
        right.plot(strength, value, "o", color=colour, zorder=3, label=f"{name}: {value:.3f}")
    right.set(xlabel="strength of guidance", ylabel="bits/dim")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120)


def _share(recognition: Recognition) -> str:
    return f"{recognition.accuracy:.3f} ± {recognition.standard_error:.3f}"


def _bits(line: Strength) -> str:
    return f"{line.evaluation.bits_per_dim:.4f} ± {line.evaluation.bits_per_dim_standard_error:.4f}"
