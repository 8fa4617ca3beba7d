"""Pictures of a verification: ROC curves, and the nearest neighbours of some images."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextpixel.data.images import Images
from nextpixel.embedding.verification import Verification, nearest
from nextpixel.files import write_aside
from nextpixel.palette import brightness
from nextpixel.pictures import save_grid

QUERIES, NEIGHBOURS, FRAME = 8, 7, 1
# Two colours that the colour-blind tell apart (Okabe and Ito 2008); the query's frame is grey.
RIGHT, WRONG, QUERY = (0, 158, 115), (213, 94, 0), (128, 128, 128)


def draw_roc(verifications: list[Verification], path: str | Path) -> None:
    """Draw the ROC curve of each score, and the line on which both kinds of mistake are equally frequent.

    Raises:
        InputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot: it keeps global state and looks for a screen

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    for verification in verifications:
        label = f"{verification.name}: area {verification.roc_auc:.3f}, EER {verification.equal_error_rate:.3f}"
        axes.plot(*verification.curve, label=label)
    axes.plot([0, 1], [1, 0], ":", color="grey", linewidth=1, label="equal error rates")
    axes.set(xlabel="different identities accepted", ylabel="same identity accepted", aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120)


def draw_neighbours(images: Images, vectors: Tensor, path: str | Path) -> None:
    """Draw some images and those with the nearest vectors, a row each: framed green if of the same identity, orange if not.

    Queries are images of different identities that have a second image, evenly spaced over them.

    Args:
        images: a labelled split.
        vectors: one per image, (N, dim).
        path: the PNG file.

    Raises:
        InputError: the picture cannot be written.
    """
    _, inverse, counts = images.labels.unique(return_inverse=True, return_counts=True)
    candidates = (counts > 1).nonzero().flatten()
    number = min(QUERIES, len(candidates))
    chosen = [candidates[k * len(candidates) // number] for k in range(number)]
    queries = torch.stack([(inverse == identity).nonzero()[0, 0] for identity in chosen])
    neighbours = nearest(vectors, queries, NEIGHBOURS)
    shown = torch.cat([queries[:, None], neighbours], dim=1)
    right = images.labels[neighbours] == images.labels[queries][:, None]
    colours = np.where(right.numpy()[..., None], RIGHT, WRONG)
    frames = np.concatenate([np.broadcast_to(QUERY, (number, 1, 3)), colours], axis=1).reshape(-1, 3)
    tiles = _framed(images.tensor(shown.flatten().tolist()).numpy(), images.levels, frames)
    save_grid(tiles, levels=256, path=path, columns=shown.shape[1])


def _framed(x: np.ndarray, levels: int, colours: np.ndarray) -> np.ndarray:
    """Symbols (N, C, H, W) as RGB pictures with a frame, (N, 3, H', W'); other channels than three stand side by side in grey."""
    values = brightness(levels)[x]
    if x.shape[1] != 3:
        values = np.concatenate(np.moveaxis(values, 1, 0), axis=-1)[:, None].repeat(3, axis=1)
    height, width = values.shape[2:]
    framed = np.empty((len(x), 3, height + 2 * FRAME, width + 2 * FRAME), dtype=np.int64)
    framed[:] = colours[:, :, None, None]
    framed[:, :, FRAME:-FRAME, FRAME:-FRAME] = values
    return framed
