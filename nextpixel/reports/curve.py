"""The learning curve of a run as a picture."""

import csv
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from nextpixel.errors import InputError
from nextpixel.files import write_aside

TRAIN, VALIDATION = "train/bits_per_dim", "val/bits_per_dim"


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
