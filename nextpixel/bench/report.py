"""What a benchmark found: a table for people, JSON for machines, and plots."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nextpixel.bench.suite import Step, Times, as_plain
from nextpixel.files import write_aside, write_text
from nextpixel.machine import machine_line

SAMPLING = ("model", "batch", "forward, s", "of peak", "cached, s", "compiled, s", "passes", "over floor", "naive, s", "speed-up")
TRAINING = ("model", "batch", "precision", "ms per image", "GFLOP/s", "of peak")
SIZES = ("model", "batch", "image", "forward, s", "cached, s", "compiled, s", "passes", "naive, s")


def sampling_rows(found: list[Times]) -> list[tuple[str, ...]]:
    """The cells of a line per model and batch size, as `SAMPLING` names them."""
    return [
        (
            times.label,
            str(times.batch),
            f"{statistics.median(times.forward):.4f}",
            f"{times.share_of_peak:.0%}",
            f"{statistics.median(times.cached):.4f}",
            f"{statistics.median(times.compiled):.4f}" if times.compiled else "",
            f"{times.passes:.2f}",
            f"{times.over_floor:.2f}",
            *((f"{statistics.median(times.naive):.1f}", f"{times.speed_up:.0f}") if times.naive else ("", "")),
        )
        for times in found
    ]


def training_rows(found: list[Step]) -> list[tuple[str, ...]]:
    """The cells of a line per model, as `TRAINING` names them."""
    return [
        (
            step.label,
            str(step.batch),
            step.precision,
            f"{step.milliseconds_per_image:.2f}",
            f"{step.flops_per_second / 1e9:.0f}",
            f"{step.flops_per_second / step.peak:.0%}",
        )
        for step in found
    ]


def size_rows(found: list[Times]) -> list[tuple[str, ...]]:
    """The cells of a line per image size, as `SIZES` names them."""
    return [
        (
            times.label,
            str(times.batch),
            f"{times.shape[1]}x{times.shape[2]}",
            f"{statistics.median(times.forward):.4f}",
            f"{statistics.median(times.cached):.4f}",
            f"{statistics.median(times.compiled):.4f}" if times.compiled else "",
            f"{times.passes:.2f}",
            f"{statistics.median(times.naive):.1f}" if times.naive else "",
        )
        for times in found
    ]


def markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table.

    Example:
        >>> print(markdown(("a", "b"), [("1", "2")]))
        | a | b |
        |---|---|
        | 1 | 2 |
    """
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("|" + "|".join(line) + "|" if line[0] == "---" else "| " + " | ".join(line) + " |" for line in lines)


def describe_peaks(peaks: dict[str, float]) -> str:
    """The machine, and what it multiplies."""
    speeds = ", ".join(f"{value / 1e9:.0f} GFLOP/s in {name}" for name, value in peaks.items())
    return f"{machine_line()}; matrix products: {speeds}"


def write_json(path: Path, peaks: dict[str, float], sampling: list[Times], training: list[Step], sizes: list[Times]) -> None:
    """Everything that was measured, with every round.

    Raises:
        InputError: the file cannot be written.
    """
    parts = {"sampling": sampling, "training": training, "sizes": sizes}
    found: dict[str, Any] = {"machine": machine_line(), "peaks": peaks}
    found |= {name: [as_plain(line) for line in lines] for name, lines in parts.items()}
    write_text(path, json.dumps(found, indent=1) + "\n")


def draw_sampling(found: list[Times], path: Path) -> None:
    """Seconds per image of forward and of the ways of drawing against the batch size, a panel per model.

    Raises:
        InputError: the picture cannot be written.
    """
    labels = list(dict.fromkeys(times.label for times in found))
    _draw(
        path,
        [(label, [times for times in found if times.label == label]) for label in labels],
        lambda times: times.batch,
        lambda times: 1 / times.batch,
        "images drawn side by side",
        "seconds per image",
    )


def draw_sizes(found: list[Times], path: Path) -> None:
    """Seconds of forward and of the ways of drawing against the number of pixels, a panel per model: scans grow like the pixels.

    Raises:
        InputError: the picture cannot be written.
    """
    labels = list(dict.fromkeys(times.label for times in found))
    _draw(
        path,
        [(f"{label}, batch {found[0].batch}", [times for times in found if times.label == label]) for label in labels],
        lambda times: times.shape[1] * times.shape[2],
        lambda times: 1,
        "pixels",
        "seconds",
    )


def _draw(
    path: Path,
    panels: list[tuple[str, list[Times]]],
    x: Callable[[Times], float],
    factor: Callable[[Times], float],
    across: str,
    up: str,
) -> None:
    from matplotlib.figure import Figure  # not pyplot: it keeps global state and looks for a screen

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (title, found) in zip(all_axes, panels, strict=False):
        for name, colour in (("naive", "tab:red"), ("cached", "tab:blue"), ("compiled", "tab:green"), ("forward", "tab:grey")):
            points = [(x(t), statistics.median(getattr(t, name)) * factor(t)) for t in found if getattr(t, name)]
            if points:
                axes.loglog(*zip(*points, strict=True), "o-", color=colour, label=name)
        axes.set(title=title, xlabel=across, ylabel=up)
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    for axes in all_axes[len(panels) :]:
        axes.remove()
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
