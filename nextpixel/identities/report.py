"""The end of an embedding network's run: verification on identities never seen, its pictures, and report.md.

Pictures of a verification: ROC curves, and the nearest neighbours of some images.
"""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from nextpixel.data.images import Images
from nextpixel.data.splits import Splits
from nextpixel.files import write_aside, write_text
from nextpixel.identities.images import describe_single
from nextpixel.identities.network import EmbeddingNetwork, embed_images, load_embedding, save_embedding
from nextpixel.identities.verification import RESAMPLES, Verification, nearest, print_verifications, rounded, verify
from nextpixel.machine import machine_line
from nextpixel.models.storage import load_weights
from nextpixel.pictures.grid import brightness, save_grid
from nextpixel.recipes import Experiment
from nextpixel.reports.report import data_line, describe_speed
from nextpixel.training.checkpoint import BEST, Progress, read_best

QUERIES, NEIGHBOURS, FRAME = 8, 7, 1
# Two colours that the colour-blind tell apart (Okabe and Ito 2008); the query's frame is grey.
RIGHT, WRONG, QUERY = (0, 158, 115), (213, 94, 0), (128, 128, 128)


def finish_embedding(experiment: Experiment, out: Path, splits: Splits, done: Progress, console: Console) -> list[Verification]:
    """Verify the best weights on the test identities, write pictures and report, add the figures to RUN/model's card, print them.

    Raises:
        InputError: no weights have been validated yet, or something cannot be written.
    """
    best, device = read_best(out), torch.device(done.device if torch.cuda.is_available() else "cpu")
    network = load_embedding(out / "model").to(device)
    unaveraged = []
    if best["raw"] is not None:
        load_weights(network, best["raw"], out / BEST)
        unaveraged = [verify(network, splits.test)[0].renamed("embedding, weights not averaged")]
    load_weights(network, best["weights"], out / BEST)
    network.eval()
    own, pixels = verify(network, splits.test)
    result = [own, *unaveraged, pixels]
    draw_roc([own, pixels], out / "samples" / "roc.png")
    draw_neighbours(splits.test, embed_images(network, splits.test), out / "samples" / "neighbours.png")
    figures = _figures(result)
    speed = describe_speed(lambda: network(splits.train.tensor([0, 1]).to(device)).sum(), 2, done)
    write_text(out / "report.md", _report(experiment, result, network, splits, done, best["words"], figures, speed))
    notes = f"## Verification\n\n{figures}\n\nThe weights of {best['words']}. Data: {_identities(experiment, splits)}"
    save_embedding(network.cpu(), out / "model", notes=notes)
    print_verifications("test", result, console)
    for name in ("samples/roc.png", "samples/neighbours.png", "report.md"):
        console.print(str(out / name), highlight=False, soft_wrap=True)
    return result


def _figures(verifications: list[Verification]) -> str:
    rows = ["| | ROC AUC | equal error rate |", "|---|---|---|"]
    for k, verification in enumerate(verifications):
        name = f"**{verification.name}**" if k == 0 else verification.name
        rows.append(f"| {name} | {' | '.join(rounded(verification))} |")
    return "\n".join([*rows, "", f"Test: {verifications[0].pairs.describe()}."])


def _identities(experiment: Experiment, splits: Splits) -> str:
    """The data, and how many identities each split has."""
    train, validation, test = (len(splits[name].labels.unique()) for name in ("train", "validation", "test"))
    disjoint = f"{train} training, {validation} validation and {test} test identities, none of them in two splits"
    return "; ".join(
        [data_line(experiment, splits), disjoint, *filter(None, (describe_single(splits[n]) for n in ("train", "test")))]
    )


def _report(
    experiment: Experiment,
    result: list[Verification],
    network: EmbeddingNetwork,
    splits: Splits,
    done: Progress,
    words: str,
    figures: str,
    speed: str,
) -> str:
    training = experiment.training
    settings = ", ".join(f"{name} {value}" for name, value in experiment.model.items() if name != "name")
    return f"""# {experiment.recipe}: {network.name}

{experiment.about.strip()}

{figures}

Verification decides whether two images are of the same identity, by the squared distance of their embeddings; the baseline
uses the squared distance of their symbols on the same pairs. No test identity was seen in training. Same: all pairs of images of
an identity, or equally many random ones of each where they are too many; different: random pairs of identities, an image of each.
± is the standard error of a bootstrap over identities ({RESAMPLES} resamples; rough where they are few). The weights are those of
{words}, the best ROC AUC on the validation identities{"" if done.finished else " so far: the run is not finished"}.

![ROC curves](samples/roc.png)

![neighbours](samples/neighbours.png)

Test images (grey) and those with the nearest embeddings in the test split: green is the same identity, orange another.

- Data: {_identities(experiment, splits)}.
- Model: {network.name}, {sum(p.numel() for p in network.parameters()):,} parameters; {settings or "default sizes"}.
- Training: {done.step} steps of {done.images_per_step} images, at most {training.images_per_identity}
  of an identity, {training.mining} triplets, margin {training.margin:g}, {done.precision},
  {done.seconds / 60:.1f} minutes: {speed}.
- Machine: {machine_line()}.
"""


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
