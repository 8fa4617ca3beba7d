"""The end of a run: its best weights as a model folder, its pictures and curve, and report.md with its result and baselines."""

import csv
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from nextpixel.conditions import Labels, cond_of, default_cond, encoder_of, sees_known
from nextpixel.data.classes import list_names
from nextpixel.data.images import Images
from nextpixel.data.masks import Masks, draw_mask
from nextpixel.data.splits import Splits
from nextpixel.data.trained import shared
from nextpixel.errors import InputError
from nextpixel.files import write_aside, write_text
from nextpixel.machine import count_flops, machine_line, peak
from nextpixel.models import AutoregressiveModel
from nextpixel.models.names import captions
from nextpixel.models.storage import load as load_model
from nextpixel.models.storage import load_weights, save
from nextpixel.pictures.grid import save_completions, save_grid
from nextpixel.recipes import Experiment
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.reports.sections import (
    Classes,
    Reconstruction,
    Section,
    judge_classes,
    reconstruct,
    reconstruction_section,
)
from nextpixel.results.measurement import commit, write
from nextpixel.scoring.baselines import Baseline, PixelMarginal, all_baselines, print_scores
from nextpixel.scoring.evaluation import Evaluation, evaluate, what_it_means
from nextpixel.scoring.measured import likelihood
from nextpixel.training.checkpoint import BEST, Progress, read_best

RESULT = "result.json"  # the measurement of the test likelihood
TRAIN, VALIDATION = "train/bits_per_dim", "val/bits_per_dim"
SAMPLES, COMPLETED, COMPLETIONS = 64, 8, 5
COUNTED = 2  # images whose arithmetic is counted


@dataclass(frozen=True)
class Result:
    """What a finished run has shown.

    Args:
        test: likelihood of the test split under the averaged weights of the best epoch (without averaging: its weights).
        test_last_weights: the same under that epoch's weights before averaging; None without averaging.
        baselines: of the test split.
        out: the run folder.
        reconstructions: of an autoencoder, beside a plain one.
        portraits: of a model conditioned on embeddings, and how like they are (`nextpixel.identities.likeness.Portraits`).
        classes: of a class-conditional model, what a classifier sees in its samples; None too where none can be trained.
    """

    test: Evaluation
    test_last_weights: Evaluation | None
    baselines: list[Baseline]
    out: Path
    reconstructions: list[Reconstruction] | None = None
    portraits: Any = None
    classes: Classes | None = None


def finish(
    experiment: Experiment,
    out: Path,
    splits: Splits,
    marginal: PixelMarginal,
    done: Progress,
    console: Console,
    loss: Callable[[AutoregressiveModel], Tensor],
    detail: str = "full",
    portraits: Callable[[AutoregressiveModel], tuple[Any, Section]] | None = None,
) -> Result:
    """Evaluate the best weights, write the pictures and the report, add the figures to the card of RUN/model, and print them.

    Args:
        experiment: of the run.
        out: the run folder.
        splits: its images.
        marginal: of its training images.
        done: what training has done.
        console: where figures are printed.
        loss: of `COUNTED` training images under a model of this form, whose arithmetic is counted.
        detail: "short" leaves out the baselines and the sections of classes, portraits and reconstructions.
        portraits: draws and judges portraits of a model conditioned on embeddings; gives the result and its section.

    Raises:
        InputError: no weights have been validated yet, or something cannot be written.
    """
    console.print(f"writing the {detail} report", highlight=False)
    full = detail == "full"
    best, device = read_best(out), torch.device(done.device if torch.cuda.is_available() else "cpu")
    # A fresh one: what was trained may be compiled for training batches.
    model = load_model(out / "model").to(device)
    unaveraged = None
    if best["raw"] is not None:
        load_weights(model, best["raw"], out / BEST)
        unaveraged = evaluate(model, splits.test)
    load_weights(model, best["weights"], out / BEST)
    model.eval()
    begin = time.perf_counter()
    test = evaluate(model, splits.test)
    seconds = round(time.perf_counter() - begin, 3)
    baselines = all_baselines(marginal, splits.test, model.codes) if full else []
    draw_pictures(model, splits.test, out, experiment.training.seed)
    draw_curve(out / "metrics.csv", out / "samples" / "curve.png")
    reconstructions, likeness, classes, sections = None, None, None, []
    if encoder_of(model.condition) is not None and full:
        console.print(f"training a plain autoencoder for {done.step} steps, to compare reconstructions", highlight=False)
        settings = replace(experiment.training, batch_size=done.images_per_step)
        reconstructions = reconstruct(model, splits, marginal, settings, done.step, out)
        sections.append(reconstruction_section(reconstructions))
    if portraits is not None and full:
        likeness, part = portraits(model)
        sections.append(part)
    if isinstance(model.condition, Labels) and not model.codes and full:
        classes, part = judge_classes(model, splits, experiment.training, out)
        sections.append(part)
    speed = describe_speed(lambda: loss(model), COUNTED, done)
    result = Result(test, unaveraged, baselines, out, reconstructions, likeness, classes)
    figures = _figures(result)
    if meaning := what_it_means(model):
        figures += f"\n\n{meaning}"
    short = f"\n\nThis report is short: `nextpixel report {out}` adds the baselines and all sections."
    shown = figures if full else figures + short
    write_text(out / "report.md", _report(experiment, model, splits, done, best["words"], shown, sections, speed))
    notes = f"## Result\n\n{figures}\n\nThe weights of {best['words']}. Data: {data_line(experiment, splits)}"
    save(model.cpu(), out / "model", notes=notes)
    facts = {"command": f"nextpixel report {out}", "commit": commit(), "machine": machine_line(), "seconds": seconds}
    source = experiment.data.source
    write(likelihood(out.resolve().name, test, baselines, source, "test", seed=experiment.training.seed, **facts), out / RESULT)
    _print_result(result, model, sections, console)
    console.print(speed, highlight=False, soft_wrap=True)
    return result


def draw_pictures(model: AutoregressiveModel, images: Images, out: Path, seed: int) -> None:
    """samples/samples.png, and samples/completions.png: test images from their upper half, or from masks where all are seen."""
    cond = default_cond(model, SAMPLES, images)
    x = model.sample(SAMPLES, cond=cond, seed=seed)
    names = captions(model, cond, SAMPLES)
    save_grid(x, model.levels, out / "samples" / "samples.png", codes=model.codes, captions=names)
    original, labels = images.__getitems__(images.spread(COMPLETED))
    if sees_known(model.condition):
        kinds = [kind for kind in Masks(None, images.shape).kinds if kind != "nothing"]
        masks = [draw_mask(kinds[k % len(kinds)], images.shape, k) for k in range(len(original))]
        known = torch.from_numpy(np.stack(masks))
    else:
        known = torch.zeros(1, 1, *images.shape[1:], dtype=torch.bool)
        known[:, :, : (images.shape[1] + 1) // 2] = True
    cond = cond_of(model.condition, original, labels)
    completions = model.complete(original, known, n=COMPLETIONS, cond=cond, seed=seed)
    path = out / "samples" / "completions.png"
    completions = completions.unflatten(0, (len(original), COMPLETIONS))
    save_completions(original, known, completions, model.levels, path, codes=model.codes)


def _print_result(result: Result, model: AutoregressiveModel, sections: list[Section], console: Console) -> None:
    print_scores("test", result.test, result.baselines, console)
    further = [str(picture) for part in sections for picture in part.pictures]
    lines = [what_it_means(model)] if what_it_means(model) else []
    lines += [line for part in sections for line in part.lines]
    names = ("samples/samples.png", "samples/completions.png", *further, "samples/curve.png", "report.md")
    for line in (*lines, *(str(result.out / name) for name in names)):
        console.print(line, highlight=False, soft_wrap=True)


def _duplicates(splits: Splits) -> str:
    line = shared(splits)
    return f" (pixel by pixel, {line})" if line else ""


def data_line(experiment: Experiment, splits: Splits) -> str:
    """The data in one line."""
    channels, height, width = splits.train.shape
    return (
        f"{experiment.data.source}; {channels} x {height} x {width}, {len(splits.train)} training, {len(splits.validation)} "
        f"validation and {len(splits.test)} test images{_duplicates(splits)}; {splits.test.describe_binarisation()}"
    )


def _figures(result: Result) -> str:
    rows = ["| | bits/dim | nats per image | |", "|---|---|---|---|"]
    scores = [("**test**", result.test)]
    if result.test_last_weights is not None:
        scores = [("**test, averaged weights**", result.test), ("test, weights not averaged", result.test_last_weights)]
    for name, score in scores:
        rows.append(
            f"| {name} | {score.bits_per_dim:.4f} ± {score.bits_per_dim_standard_error:.4f} "
            f"| {score.nats_per_image:.3f} ± {score.nats_standard_error:.3f} | {len(score.nats)} images |"
        )
    nats = result.test.nats_per_bit_per_dim
    for baseline in result.baselines:
        bits = baseline.bits_per_dim
        value = "n/a | n/a" if bits is None else f"{bits:.4f} | {bits * nats:.2f}"
        rows.append(f"| {baseline.name} | {value} | {baseline.note} |")
    return "\n".join(rows)


def _report(
    experiment: Experiment,
    model: AutoregressiveModel,
    splits: Splits,
    done: Progress,
    words: str,
    figures: str,
    sections: list[Section],
    speed: str,
) -> str:
    training = experiment.training
    settings = ", ".join(f"{name} {value}" for name, value in experiment.model.items() if name != "name")
    colours = " Each code has a colour of its own; like colours mean nothing." if model.codes else ""
    coded = encoder_of(model.condition) is not None
    of_code = " given its code, which depends on the rest too" if coded else ""
    sees = sees_known(model.condition)
    sight = (
        "The model sees all that is known, wherever it stands, each time with another kind of mask."
        if sees
        else "Each place is drawn from what stands before it: what is known later has no effect on it (`--model.condition known` "
        "trains a model that sees it, and `complete --particles` draws from this one given all)."
    )
    given = "code" if coded else "vector" if experiment.data.embedding is not None else ""
    return f"""# {experiment.recipe}: {model.name}

{experiment.about.strip()}

{figures}

± is the standard error of the mean over test images. Likelihoods are computed in float32; the weights are those of {words},
the best on the validation images{"" if done.finished else " so far: the run is not finished"}.

![samples](samples/samples.png)

Samples, temperature 1, seed {training.seed}{f", each given the {given} of a test image" if given else ""}.{colours}

![completions](samples/completions.png)

The original, its known part, and {COMPLETIONS} completions{of_code}. {sight}
{"".join(part.markdown for part in sections)}
![curve](samples/curve.png)

- Data: {data_line(experiment, splits)}.
- Model: {model.name}, {sum(p.numel() for p in model.parameters()):,} parameters; {settings or "default sizes"}.{_classes(model)}
- Training: {_begin(training)}{done.step} steps of {done.images_per_step} images, {done.precision},
  {done.seconds / 60:.1f} minutes: {speed}.
- Machine: {machine_line()}.
"""


def _classes(model: AutoregressiveModel) -> str:
    """The classes by their numbers."""
    return (
        "" if model.class_names is None else f" Classes: {list_names([f'{k} {n}' for k, n in enumerate(model.class_names)], 50)}."
    )


def _begin(training: TrainingSettings) -> str:
    """What a reader of the figures must know about what this run has and has not trained."""
    stage = "" if training.stage is None else f"stage {training.stage} alone, "
    stage += f"condition dropout {training.condition_dropout}, " if training.condition_dropout else ""
    return stage + ("" if training.start is None else f"beginning with the weights of {training.start}, ")


def describe_speed(loss: Callable[[], Tensor], images: int, done: Progress) -> str:
    """Images per second, FLOP/s and their share of the machine's peak, and how long data were waited for, in one line.

    Args:
        loss: of so many images, by a model that is not compiled; its gradients are computed to be counted.
        images: how many.
        done: what the run has done, and how.
    """
    rate = done.images / done.seconds if done.seconds else float("nan")
    flops = count_flops(lambda: loss().backward()) / images * rate
    low = "bf16" in done.precision
    best = peak(torch.bfloat16 if low else torch.float32, done.device) * done.processes
    return (
        f"{rate:.0f} images per second in the training loop, {flops / 1e9:.4g} GFLOP/s, "
        f"{flops / best:.1%} of the {best / 1e9:.0f} GFLOP/s of {'bf16' if low else 'float32'} matrix products here, "
        f"{done.loading / done.seconds if done.seconds else 0:.1%} of the time waiting for data"
    )


def read_curve(metrics: str | Path, column: str) -> tuple[list[int], list[float]]:
    """Steps and values of one column of a run's metrics.csv; rows that lack it are left out.

    Raises:
        InputError: there is no such file.
    """
    try:
        with open(metrics, newline="", encoding="utf-8") as file:
            rows = [(int(row["step"]), float(row[column])) for row in csv.DictReader(file) if row.get(column)]
    except OSError as error:
        raise InputError(f"cannot read {metrics}: {error.strerror or error}") from error
    return [step for step, _ in rows], [value for _, value in rows]


def draw_curve(metrics: str | Path, path: str | Path, published: Mapping[str, float] | None = None) -> None:
    """Draw training and validation bits/dim over the steps, and published results as horizontal lines.

    The training loss is that of single batches (dots) and the mean of a thirtieth of them around each (line); validation uses
    the averaged weights, where there are any. The axis leaves out the first steps, which would flatten the rest.

    Args:
        metrics: a run's metrics.csv.
        path: the picture.
        published: results by name, in bits/dim.

    Raises:
        InputError: no metrics, or none of training.
    """
    from matplotlib.figure import Figure  # not pyplot: it keeps global state and looks for a screen

    steps, losses = read_curve(metrics, TRAIN)
    if not steps:
        raise InputError(f"{metrics} has no {TRAIN}: nothing to draw")
    half = len(losses) // 60
    smooth = [fmean(losses[max(0, k - half) : k + half + 1]) for k in range(len(losses))]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, ".", color="tab:blue", alpha=0.15, markersize=3)
    axes.plot(steps, smooth, color="tab:blue", label="training batches")
    axes.plot(*read_curve(metrics, VALIDATION), "o-", color="tab:orange", label="validation")
    for k, (name, value) in enumerate((published or {}).items()):
        axes.axhline(value, linestyle="--", linewidth=1, color=f"C{k + 2}", label=f"{name}: {value:g}")
    lowest = min([*smooth, *(published or {}).values()])
    # A hundredth where there is a single point, so that it stands in the middle of something.
    top = lowest + max(0.1 * (smooth[0] - lowest), 1.5 * (smooth[len(smooth) // 10] - lowest), 0.01)
    axes.set(xlabel="step", ylabel="bits/dim", ylim=(lowest - 0.05 * (top - lowest), top))
    axes.grid(alpha=0.3)
    axes.legend()
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
