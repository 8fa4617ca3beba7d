"""The exact likelihood of a data set under a model, with its standard error."""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextpixel.conditions import cond_of, encoder_of
from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.files import write_aside
from nextpixel.models.base import AutoregressiveModel
from nextpixel.progress import track
from nextpixel.scan.evaluating import eval_mode


@dataclass(frozen=True, eq=False)
class Evaluation:
    r"""Negative log-likelihoods :math:`-\ln p(x_n)` of N images.

    .. math:: \text{bits/dim} = \frac{\text{nats}}{D \ln 2}, \quad \text{standard error} = \frac{s}{\sqrt N}

    with D numbers per image and s the sample's standard deviation. The error is how far another test set of the same kind
    could be, not how far another training run could be; it is nan for one image.

    Args:
        nats: per image, float64 (N,).
        dims: D = C * H * W; where only unknown symbols are scored, their mean number per image.
        labels: class per image, int (N,), or None.
        names: file per image, or None.
        counts: how many symbols of each image are scored, (N,); by default D.

    Example:
        >>> evaluation = Evaluation(nats=np.array([1.0, 3.0]), dims=4)
        >>> evaluation.nats_per_image, evaluation.nats_standard_error
        (2.0, 1.0)
    """

    nats: np.ndarray
    dims: float
    labels: np.ndarray | None = None
    names: list[str] | None = None
    counts: np.ndarray | None = None

    @property
    def nats_per_image(self) -> float:
        return float(self.nats.mean())

    @property
    def nats_standard_error(self) -> float:
        number = len(self.nats)
        return float(self.nats.std(ddof=1)) / math.sqrt(number) if number > 1 else math.nan

    @property
    def bits_per_dim(self) -> float:
        return self.nats_per_image / self.nats_per_bit_per_dim

    @property
    def bits_per_dim_standard_error(self) -> float:
        return self.nats_standard_error / self.nats_per_bit_per_dim

    @property
    def nats_per_bit_per_dim(self) -> float:
        """Nats of a whole image that are one bit per dimension."""
        return self.dims * math.log(2)

    def write_csv(self, path: str | Path) -> None:
        """Write one line per image: its index, its file and its label where it has them, nats, bits_per_dim."""
        labels = [] if self.labels is None else [("label", self.labels.tolist())]
        files = [] if self.names is None else [("file", self.names)]
        nats = [f"{value:.9g}" for value in self.nats]
        bits = [f"{value:.9g}" for value in self.nats / (self.dims if self.counts is None else self.counts) / math.log(2)]
        names, columns = zip(("index", range(len(nats))), *files, *labels, ("nats", nats), ("bits_per_dim", bits), strict=True)
        with write_aside(path) as aside, open(aside, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows(zip(*columns, strict=True))


def evaluate(
    model: AutoregressiveModel,
    images: Images,
    batch_size: int = 128,
    progress: bool = True,
    guidance: float = 1.0,
    most: int | None = None,
    known: Callable[[Sequence[int]], Tensor] | None = None,
) -> Evaluation:
    """Score the images of a split, in its order, in eval mode and without reduced precision.

    A conditional model gets the labels as its condition, or the images themselves where it has an encoder: the figure is then
    -log p(x | code(x)), which is no likelihood of x.

    Args:
        model: any model; its modules are put back into the mode they were in.
        images: the split.
        batch_size: images per forward pass.
        progress: whether to show a bar, if stderr is a terminal.
        guidance: s, evaluates what `sample` draws from with this guidance; 0 is the unconditional model, which needs no labels.
        most: how many images at most, spread over the split; by default every image.
        known: called with the positions of B images, gives the mask of their known symbols, bool (B, C, H, W) or broadcastable:
            then only the unknown ones are scored, given the known.

    Raises:
        InputError: there are no images, or `most` or `batch_size` is below 1; the model has other channels or levels than they,
            or needs labels that they lack; or the guidance does not fit the model.

    Example:
        >>> import nextpixel
        >>> from nextpixel.data.arrays import load_digits
        >>> from nextpixel.data.settings import DataSettings
        >>> settings = DataSettings(source="digits", levels=17)
        >>> images = Images(load_digits(settings)["all"], settings)
        >>> model = nextpixel.GatedPixelCNN(shape=(1, 8, 8), levels=17, features=8, blocks=2)
        >>> evaluate(model, images).nats.shape
        (1797,)
    """
    if most is not None and most < 1:
        raise InputError(f"most must be at least 1, not {most}")
    dims, chosen = math.prod(images.shape), images.spread(len(images) if most is None else most)
    if not chosen:
        raise InputError("there are no images to evaluate: the split is empty")
    if images.shape[0] != model.shape[0]:
        raise InputError(f"the model is for images of {model.shape[0]} channels {model.shape}, the data are {images.shape}")
    if images.levels != model.levels:
        raise InputError(f"the model is for {model.levels} levels, the data have {images.levels}")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    starts = range(0, len(chosen), batch_size)
    device = next(model.parameters()).device
    nats, counts = np.empty(len(chosen)), np.full(len(chosen), float(dims))
    # A caller's autocast would change the third digit of a likelihood.
    with eval_mode(model), torch.inference_mode(), torch.autocast(device.type, enabled=False):
        for start in track(starts, len(starts), "evaluating", progress):
            batch = slice(start, start + batch_size)
            x, labels = images.__getitems__(chosen[batch])
            x, labels = x.to(device), None if labels is None else labels.to(device)
            cond = cond_of(model.condition, x, labels) if guidance != 0 else None
            mask = None if known is None else known(chosen[batch]).to(device).expand(x.shape)
            given = {} if mask is None else {"known": mask}
            nats[batch] = -model.log_prob(x, cond, guidance, **given).double().cpu().numpy()
            if mask is not None:
                counts[batch] = (~mask).flatten(1).sum(1).cpu().numpy()
    if not counts.all():
        raise InputError("everything is known of an image: expected a mask that leaves something to score")
    files = images.names
    names = None if files is None else [files[k] for k in chosen]
    labels = None if images.labels is None else images.labels[chosen].numpy()
    return Evaluation(nats, dims, labels, names) if known is None else Evaluation(nats, counts.mean(), labels, names, counts)


def what_it_means(model: AutoregressiveModel) -> str:
    """What bits/dim given the image's own code are, and are not, in plain words; empty where there is no encoder."""
    encoder = encoder_of(model.condition)
    if encoder is None:
        return ""
    return (
        f"These are figures given each image's own code, -log p(x | code(x)): what the code itself costs is not in them. So they "
        f"are no likelihoods of the images, and compare neither with the baselines nor with models without a code. Sent as "
        f"{encoder.given} numbers of 32 bits, the codes would add {32 * encoder.given / math.prod(model.shape):.4f} bits/dim."
    )
