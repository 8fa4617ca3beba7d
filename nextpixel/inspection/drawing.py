"""Contexts as a picture: what a place reaches, its blind spot, what is out of reach, and leaks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from nextpixel.errors import InputError
from nextpixel.files import write_aside
from nextpixel.inspection.context import Context

LEAK, BLIND, UNREACHED, FUTURE = "#d62728", "#f5a31a", "#f4f1e8", "#c9c9c9"


def draw(contexts: dict[str, Context], path: str | Path) -> None:
    """Draw contexts side by side as one PNG, each under its name and its counts.

    Raises:
        InputError: there are none, or the file cannot be written.
    """
    if not contexts:
        raise InputError("there are no contexts to draw")
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # not pyplot: it keeps global state and looks for a screen
    from matplotlib.patches import Patch, Rectangle

    tallest = max(context.influence.shape[0] / context.influence.shape[1] for context in contexts.values())
    figure = Figure(figsize=(max(3.1 * len(contexts), 6.2), 3.1 * tallest + 1.6), dpi=150, layout="constrained")
    blues = colormaps["Blues"]
    for axes, (name, context) in zip(figure.subplots(1, len(contexts), squeeze=False)[0], contexts.items(), strict=True):
        axes.imshow(_colours(context, blues))
        axes.set_anchor("S")
        height, width = context.influence.shape
        if max(height, width) <= 40:
            axes.set_xticks(np.arange(width + 1) - 0.5)
            axes.set_yticks(np.arange(height + 1) - 0.5)
            axes.grid(color="white", linewidth=15 / max(height, width))
        axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        i, j = context.place
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.5, zorder=3))
        reached, *others = context.counts()
        axes.set_title(name, fontsize=10, fontweight="bold", pad=30)
        axes.annotate(
            f"{reached}\n{', '.join(others)}", (0.5, 1), (0, 4), "axes fraction", "offset points", ha="center", fontsize=8
        )
    legend = [
        Patch(facecolor="none", edgecolor="black", label="the place"),
        Patch(color=blues(0.85), label="reached (darker: more influence)"),
        Patch(color=BLIND, label="blind spot"),
        Patch(facecolor=UNREACHED, edgecolor="#bbbbbb", label="earlier, out of reach"),
        Patch(color=FUTURE, label="later"),
        Patch(color=LEAK, label="leak"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=3 if len(contexts) < 3 else 6, fontsize=8, frameon=False)
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", bbox_inches="tight", pad_inches=0.15)


def _colours(context: Context, blues: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """One RGB colour per place, (H, W, 3)."""
    from matplotlib.colors import to_rgb

    picture = np.empty((*context.influence.shape, 3))
    picture[:] = to_rgb(FUTURE)
    picture[context.unreached_past] = to_rgb(UNREACHED)
    picture[context.blind_spot] = to_rgb(BLIND)
    reached = context.reached & context.past
    if reached.any():
        strength = np.log10(context.influence[reached])
        # From the faintest blue that differs from "out of reach" to the darkest.
        span = max(float(np.ptp(strength)), 1e-9)
        picture[reached] = blues(0.35 + 0.6 * (strength - strength.min()) / span)[:, :3]
    picture[context.leaks] = to_rgb(LEAK)
    return picture
