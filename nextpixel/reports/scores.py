"""Pictures of scores: ROC curves, histograms, sheets of images with maps of where they are unusual, confusion, reliability."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nextpixel.files import write_aside
from nextpixel.pictures.grid import brightness
from nextpixel.scoring.classification import Classification


def draw_roc(usual: dict[str, np.ndarray], others: dict[str, np.ndarray], path: Path) -> None:
    """The ROC curve of each score, by its name."""
    from sklearn.metrics import auc, roc_curve

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    for name, scores in usual.items():
        truth = np.repeat([0, 1], [len(scores), len(others[name])])
        wrong, right, _ = roc_curve(truth, np.concatenate([scores, others[name]]))
        axes.plot(wrong, right, label=f"{name}: area {auc(wrong, right):.3f}")
    axes.plot([0, 1], [0, 1], ":", color="grey", linewidth=1, label="chance")
    axes.set(xlabel="usual images called unusual", ylabel="others called unusual", aspect="equal")
    _finish(figure, axes, path)


def draw_histograms(scores: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """A histogram of each score (outer names) of each set of images (inner names)."""
    figure = Figure(figsize=(6, 2.6 * len(scores)), layout="constrained")
    for axes, (method, sets) in zip(figure.subplots(len(scores), squeeze=False)[:, 0], scores.items(), strict=True):
        every = np.concatenate(list(sets.values()))
        low, high = np.percentile(every, [0.5, 99.5])
        edges = np.linspace(low, max(high, low + 1e-9), 60)
        for name, values in sets.items():
            axes.hist(values.clip(edges[0], edges[-1]), edges, density=True, alpha=0.5, label=name)
        axes.set(xlabel=f"{method} (more unusual to the right)", yticks=[])
        axes.legend()
    _save(figure, path)


def draw_sheet(rows: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]], levels: int, path: Path) -> None:
    """Rows of images (C, H, W), each with its map of nats per place below it and its score as a title.

    Args:
        rows: a caption, images (K, C, H, W), maps (K, H, W), and scores (K,).
        levels: of the images.
        path: the PNG.
    """
    most = max(len(scores) for *_, scores in rows)
    figure = Figure(figsize=(1.1 * most + 0.4, 2.7 * len(rows)), layout="constrained")
    grid = figure.subplots(2 * len(rows), most, squeeze=False)
    shade = brightness(levels)
    top = float(np.percentile(np.concatenate([maps.ravel() for _, _, maps, _ in rows]), 99.5)) or 1.0
    for axes in grid.flat:
        axes.set_axis_off()
    for n, (caption, images, maps, scores) in enumerate(rows):
        for k, (image, where, value) in enumerate(zip(images, maps, scores, strict=True)):
            pixels = shade[image]
            shown = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels.mean(0)
            above, below = grid[2 * n, k], grid[2 * n + 1, k]
            above.imshow(shown, cmap="gray", vmin=0, vmax=255)
            above.set_title(f"{value:.4g}", fontsize=7)
            below.imshow((shown if shown.ndim == 2 else shown.mean(2)) / 3, cmap="gray", vmin=0, vmax=255)
            below.imshow(where, cmap="inferno", vmin=0, vmax=top, alpha=np.clip(where / top, 0, 1) * 0.8)
        grid[2 * n, 0].text(0, 1.35, caption, transform=grid[2 * n, 0].transAxes, fontsize=8).set_in_layout(False)
    _save(figure, path)


def draw_confusion(found: Classification, names: list[str], path: Path) -> None:
    """How many images of each class were taken for which."""
    matrix = found.confusion
    side = max(3.5, 0.45 * len(names))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix / np.maximum(1, matrix.sum(1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 20:
        for (row, column), number in np.ndenumerate(matrix):
            axes.text(column, row, str(number), ha="center", va="center", fontsize=7, color="black")
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="taken for", ylabel="class", title=f"accuracy {found.accuracy:.3f}")
    _save(figure, path)


def draw_reliability(found: Classification, path: Path) -> None:
    """How often the likeliest class is right, against its probability."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    sure, right, number = zip(*found.reliability(), strict=True)
    axes.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
    axes.scatter(sure, right, s=10 + 200 * np.array(number) / sum(number))
    axes.set(xlabel="probability of the likeliest class", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title(f"expected calibration error {found.calibration_error:.3f}")
    _finish(figure, axes, path, legend=False)


def _finish(figure: Figure, axes: object, path: Path, legend: bool = True) -> None:
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(loc="lower right")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
