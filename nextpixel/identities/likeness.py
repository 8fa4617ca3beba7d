"""Is what is drawn from one photograph of an identity like that identity? Judged by embeddings, beside other photographs."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextpixel.data.images import Images
from nextpixel.data.raw import quantise
from nextpixel.errors import InputError
from nextpixel.identities.images import EmbeddedImages, as_seen_by, require_identities
from nextpixel.identities.network import EmbeddingNetwork, embed_images
from nextpixel.models.base import AutoregressiveModel
from nextpixel.pictures.grid import save_grid
from nextpixel.reports.sections import Section

IDENTITIES, DRAWN = 64, 4  # that are measured at most; images of each


SHOWN = 8
PICTURE = Path("samples") / "portraits.png"


@dataclass(frozen=True, eq=False)
class Likeness:
    r"""How often an image is nearer to the wanted identity than to a random other one; 1/2 is chance.

    .. math:: \frac{1}{I - 1} \sum_{b \ne a} \left[ |f(y) - f(r_a)| < |f(y) - f(r_b)| \right]

    for an image y that is to show identity a of I, and one photograph r of each. The share of an identity is the mean over its
    images y; the standard error treats identities as independent.

    Args:
        name: what the images are.
        shares: per identity, float64 (I,).
    """

    name: str
    shares: np.ndarray

    @property
    def share(self) -> float:
        return float(self.shares.mean())

    @property
    def standard_error(self) -> float:
        return float(self.shares.std(ddof=1)) / math.sqrt(len(self.shares))


@dataclass(frozen=True, eq=False)
class Portraits:
    """Images drawn from one photograph of each of some identities.

    Args:
        given: positions of the photographs whose vectors were given, int64 (I,).
        reference: positions of another photograph of each identity, which the model has not seen, int64 (I,).
        drawn: the images, (I, K, C, H, W).
        likeness: of these images, and of photographs for comparison.
    """

    given: Tensor
    reference: Tensor
    drawn: Tensor
    likeness: list[Likeness]


def draw_portraits(
    model: AutoregressiveModel,
    network: EmbeddingNetwork,
    images: Images,
    judge: EmbeddingNetwork | None = None,
    identities: int = IDENTITIES,
    number: int = DRAWN,
    seed: int = 0,
    guidance: float = 1.0,
) -> Portraits:
    """Draw images of the identities of a split, each from the vector of one photograph, and measure their likeness.

    The photograph that an image is compared with is another one. The same measure of the given photograph itself, at the model's
    levels, is the most that could be reached, and that of images drawn for another identity is what chance gives.

    Args:
        model: whose condition is a vector of `network`.
        network: that makes the vectors.
        images: a labelled split; its identities with two images or more are used, at most `identities`, evenly spaced.
        judge: the network that judges; by default the one that makes the vectors, which a model may please better than it
            resembles: another one, trained from another seed, is the stricter judge.
        identities: most identities.
        number: images drawn of each.
        seed: of the noise.
        guidance: as for `sample`: above 1 images are more typical of their vector.

    Raises:
        InputError: no labels, or fewer than two identities with two images; or images that model or networks do not take.

    Example:
        >>> import nextpixel
        >>> from nextpixel.data.settings import DataSettings
        >>> from nextpixel.data.splits import load_one
        >>> images = load_one(DataSettings(source="digits-identities", levels=17), "test")
        >>> network = EmbeddingNetwork(shape=(1, 8, 8), levels=17, dim=4, features=8)
        >>> model = nextpixel.GatedPixelCNN((1, 8, 8), levels=17, features=8, blocks=1, condition=nextpixel.Vector(4))
        >>> portraits = draw_portraits(model, network, images, identities=3, number=2)
        >>> portraits.drawn.shape, [line.shares.shape for line in portraits.likeness]
        (torch.Size([3, 2, 1, 8, 8]), [(3,), (3,), (3,)])
    """
    judge = judge or network
    given, reference = _photographs(require_identities(images), identities)
    if len(given) < 2:
        raise InputError("likeness needs two identities with two images each, or more")
    vectors = embed_images(network, as_seen_by(network, images, given), progress=False)
    cond = vectors.repeat_interleave(number, 0)
    drawn = model.sample(len(cond), cond, seed, guidance=guidance).unflatten(0, (len(given), number))
    references = embed_images(judge, as_seen_by(judge, images, reference), progress=False)

    def judged(x: Tensor) -> Tensor:
        symbols = to_levels(x.flatten(0, 1).long().cpu(), model.levels, judge.levels)
        return torch.cat([judge.embed(part).cpu() for part in symbols.split(256)]).unflatten(0, x.shape[:2])

    of_drawn, photographs = judged(drawn), images.tensor(given.tolist())[:, None]
    lines = [
        Likeness("drawn from one photograph", _shares(of_drawn, references)),
        Likeness("the given photograph itself", _shares(judged(photographs), references)),
        Likeness("drawn from a photograph of another identity", _shares(of_drawn.roll(1, 0), references)),
    ]
    return Portraits(given, reference, drawn, lines)


def to_levels(x: Tensor, source: int, levels: int) -> Tensor:
    """Symbols of a model as symbols of another number of levels: quantised as data are, or spread over the larger range.

    Example:
        >>> to_levels(torch.tensor([0, 1, 3]), 4, 256).tolist(), to_levels(torch.tensor([0, 100, 255]), 256, 4).tolist()
        ([0, 85, 255], [0, 1, 3])
    """
    if levels <= source:
        return quantise(x, source, levels)
    return (x.double() * (levels - 1) / (source - 1)).round().long()


def _photographs(labels: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The first two images of each chosen identity."""
    _, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
    candidates = (counts > 1).nonzero().flatten()
    number = min(most, len(candidates))
    chosen = [int(candidates[k * len(candidates) // number]) for k in range(number)]
    pairs = [(inverse == identity).nonzero().flatten()[:2] for identity in chosen]
    first, second = torch.stack(pairs).T if pairs else torch.empty(2, 0, dtype=torch.long)
    return first, second


def _shares(vectors: Tensor, references: Tensor) -> np.ndarray:
    """The share of each identity: vectors (I, K, dim) of its images, references (I, dim)."""
    distances = torch.cdist(vectors.double(), references.double()[None])  # (I, K, I)
    own = distances.diagonal(dim1=0, dim2=2).T[..., None]
    nearer = (own < distances).double() + (own == distances).double() / 2
    return ((nearer.sum(2) - 0.5) / (len(references) - 1)).mean(1).numpy()  # own against itself is a tie, and does not count


def portray(model: AutoregressiveModel, network: EmbeddingNetwork, images: EmbeddedImages, seed: int, out: Path) -> Portraits:
    """Draw and measure portraits of a split's identities, and write samples/portraits.png.

    Raises:
        InputError: as `draw_portraits`.
    """
    portraits = draw_portraits(model, network, images, seed=seed)
    photographs = [images.tensor(positions.tolist()) for positions in (portraits.given, portraits.reference)]
    rows = torch.cat([*(x[:, None] for x in photographs), portraits.drawn.cpu().long()], 1)
    # Of all over the split: its identities may be sorted by anything.
    rows = rows[[k * len(rows) // min(SHOWN, len(rows)) for k in range(min(SHOWN, len(rows)))]]
    save_grid(rows.flatten(0, 1), model.levels, out / PICTURE, columns=rows.shape[1])
    return portraits


def portrait_section(portraits: Portraits) -> Section:
    """The part of the report."""
    shares = [(line.name, f"{line.share:.3f} ± {line.standard_error:.3f}") for line in portraits.likeness]
    rows = ["| | nearer to the wanted identity than to a random other |", "|---|---|"]
    table = "\n".join(rows + [f"| {name} | {share} |" for name, share in shares])
    markdown = f"""
## Portraits

![portraits]({PICTURE.as_posix()})

The photograph whose vector was given, another one of the same identity, and {DRAWN} images drawn from the vector.

{table}

{len(portraits.given)} identities of the test split, {DRAWN} images of each. Neither the model nor, where its run was of the
same data, the embedding network has seen them in training. An image is compared with another photograph than the one that was
given, by the distance of their embeddings; one half is chance. The network that judges is the one that made the vectors, so a
model might please it without a likeness: look at the picture.
"""
    return Section(markdown, [f"nearer to the wanted identity {share}   {name}" for name, share in shares], [PICTURE])
