"""The network that embeds identities: images of the same person near each other, of different people far apart.

Conditional Image Generation with PixelCNN Decoders (van den Oord et al. 2016, arXiv:1606.05328, section 3.3) conditions portraits
on the embedding of a convolutional network that a triplet loss has trained on faces, as FaceNet (Schroff, Kalenichenko, Philbin
2015, arXiv:1503.03832). The former does not name its network, and the latter's needs millions of faces: this one is a small
residual network with group normalisation, ours. Not here: what finds and aligns faces in a photograph.

An embedding network as a folder of the same form as a model's: config.json, model.safetensors, README.md.
"""

import inspect
import math
import os
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.data.images import Images
from nextpixel.data.settings import MAX_LEVELS
from nextpixel.errors import InputError, require_positive
from nextpixel.files import current
from nextpixel.layers.pointwise import IntensityInput
from nextpixel.models.storage import CONFIG, read_folder, write_folder
from nextpixel.progress import track
from nextpixel.scan.evaluating import eval_mode

GROUP = 8  # maps that are normalised together, where they divide


class EmbeddingNetwork(nn.Module):
    r"""A map from images to the unit sphere, :math:`f(x) = g(x) / \lVert g(x) \rVert_2`, with g a small residual network.

    Args:
        shape: (C, H, W) of the training images. Any H and W from 8 up can be embedded; a larger image is averaged to the same
            `pool` x `pool` places, so what matters must fill it in the same way.
        levels: symbols are the integers 0..levels-1, from 2 to 65536.
        dim: size of the vector.
        features: maps at full size; each stage after the first has twice as many at half of the size.
        stages: sizes of map.
        blocks: residual blocks of two 3x3 convolutions in each stage.
        pool: the last maps are averaged to this many rows and columns.
        dropout: share of the averaged maps that a training step leaves out.

    Raises:
        InputError: sizes that make no network.

    Shapes:
        integers (B, C, H, W) to (B, dim), float32 or the network's own wider type.

    Example:
        >>> network = EmbeddingNetwork(shape=(1, 8, 8), levels=17, dim=16, features=8, stages=2)
        >>> vectors = network(torch.randint(17, (5, 1, 9, 12)))
        >>> vectors.shape, bool((vectors.norm(dim=1) - 1).abs().max() < 1e-6)
        (torch.Size([5, 16]), True)
    """

    name: ClassVar[str] = "embedding"

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int = 256,
        dim: int = 64,
        features: int = 32,
        stages: int = 3,
        blocks: int = 1,
        pool: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"shape must be (channels, height, width), each at least 1, not {tuple(shape)}")
        if not 2 <= levels <= MAX_LEVELS:
            raise InputError(f"levels must be from 2 to {MAX_LEVELS}, not {levels}")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be from 0 up to (not including) 1, not {dropout}")
        require_positive(dim=dim, features=features, stages=stages, blocks=blocks, pool=pool)
        self.shape: tuple[int, int, int] = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.levels, self.dim, self.features = levels, dim, features
        self.stages, self.blocks, self.pool, self.dropout = stages, blocks, pool, dropout
        self.encode = IntensityInput(levels)
        layers: list[nn.Module] = [nn.Conv2d(self.shape[0], features, 3, padding=1)]
        for stage in range(stages):
            if stage:
                layers += [nn.Conv2d(features, 2 * features, 3, stride=2, padding=1)]
                features *= 2
            layers += [ResidualBlock(features) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, _norm(features), nn.SiLU(), nn.AdaptiveAvgPool2d(pool), nn.Flatten())
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(features * pool**2, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Unit vectors (B, dim) of images of symbols (B, C, H, W), not checked. The vector's length is not left to bf16."""
        y = self.last(self.drop(self.layers(self.encode(x))))
        return F.normalize(y if y.dtype == torch.float64 else y.float(), dim=1)

    def embed(self, x: Tensor) -> Tensor:
        """The same without gradients, after a check of what was given.

        Raises:
            InputError: x is not integer, has other channels, is smaller than 8x8, or has symbols outside 0..levels-1.

        Example:
            >>> EmbeddingNetwork(shape=(1, 8, 8)).embed(torch.zeros(2, 1, 7, 8, dtype=torch.long))
            Traceback (most recent call last):
            nextpixel.errors.InputError: images to embed must be (B, 1, H, W) with H and W from 8 up, not (2, 1, 7, 8)
        """
        if x.dim() != 4 or x.shape[1] != self.shape[0] or len(x) < 1 or min(x.shape[2:]) < 8:
            raise InputError(f"images to embed must be (B, {self.shape[0]}, H, W) with H and W from 8 up, not {tuple(x.shape)}")
        if x.is_floating_point() or x.is_complex():
            raise InputError(f"images to embed must be integers 0..{self.levels - 1}, not {x.dtype}")
        x = x.to(self.last.weight.device, torch.long)
        if x.min() < 0 or x.max() >= self.levels:
            raise InputError(f"images to embed must have symbols 0..{self.levels - 1}, but these have {x.min()}..{x.max()}")
        with torch.no_grad():
            return self(x)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values."""
        values = {name: getattr(self, name) for name in inspect.signature(EmbeddingNetwork).parameters}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with 3x3 convolutions (He et al. 2016, arXiv:1603.05027, with group norms).

    Example:
        >>> ResidualBlock(8)(torch.zeros(2, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _norm(features),
            nn.SiLU(),
            nn.Conv2d(features, features, 3, padding=1),
            _norm(features),
            nn.SiLU(),
            nn.Conv2d(features, features, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _norm(features: int) -> nn.GroupNorm:
    """Group normalisation: its statistics are those of one image, so an embedding does not depend on the rest of the batch."""
    return nn.GroupNorm(features // math.gcd(features, GROUP), features)


NETWORKS = {EmbeddingNetwork.name: EmbeddingNetwork}

# Where the run of a model that is conditioned on embeddings keeps the network that made them.
INSIDE = "embedding"

_CARD = """---
library_name: nextpixel
pipeline_tag: image-feature-extraction
---
# embedding, {channels} x {height} x {width}, {levels} levels, {dim} numbers

A network with {parameters:,} parameters from images to unit vectors, near each other for images of one identity, saved by
[nextpixel](https://pypi.org/project/nextpixel).

```python
import nextpixel
network = nextpixel.load_embedding("path/to/this/folder")
vectors = network.embed(images)        # integers (B, {channels}, H, W) to (B, {dim})
```
{notes}"""


def save_embedding(network: EmbeddingNetwork, folder: str | Path, notes: str = "") -> None:
    """Write a network's folder; `notes` (Markdown) end its card.

    Raises:
        InputError: the folder cannot be written to.
    """
    channels, height, width = network.shape
    card = _CARD.format(
        channels=channels,
        height=height,
        width=width,
        levels=network.levels,
        dim=network.dim,
        parameters=sum(p.numel() for p in network.parameters()),
        notes=f"\n{notes.strip()}\n" if notes.strip() else "",
    )
    write_folder(network, folder, card)


def load_embedding(folder_or_hub_id: str | Path) -> EmbeddingNetwork:
    """A saved embedding network in eval mode: from its own folder or run, or from the run of a model conditioned on its vectors.

    A model conditioned on embeddings is of no use without the network that made them, so its run keeps a copy in `embedding/`,
    which is looked for first.

    Raises:
        InputError: there is no such folder, or it holds no embedding network that this version can read.

    Example:
        >>> import nextpixel, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> save_embedding(EmbeddingNetwork(shape=(1, 8, 8), levels=17, dim=16, features=8), folder)
        >>> nextpixel.load_embedding(folder).dim
        16
    """
    found = _inside(folder_or_hub_id) or folder_or_hub_id
    return read_folder(found, NETWORKS)


def kept_embedding(run: str | Path) -> EmbeddingNetwork:
    """The network that the run of a model conditioned on embeddings keeps.

    Raises:
        InputError: it keeps none.

    Example:
        >>> kept_embedding("runs/faces-portraits")
        Traceback (most recent call last):
        nextpixel.errors.InputError: runs/faces-portraits keeps no embedding network in runs/faces-portraits/embedding
    """
    if _inside(run) is None:
        raise InputError(f"{run} keeps no embedding network in {Path(run) / INSIDE}")
    return load_embedding(run)


def _inside(run: str | Path) -> Path | None:
    """The folder of the network that a run keeps, if any."""
    inside = Path(run) / INSIDE
    return inside if os.path.isfile(current(inside) / CONFIG) else None


def embed_images(network: EmbeddingNetwork, images: Images, batch_size: int = 256, progress: bool = True) -> Tensor:
    """The embedding of every image of a split, in its order and without reduced precision: (N, dim), on the CPU.

    Raises:
        InputError: there are no images, or the network is for images of other channels or levels.
    """
    if len(images) == 0:
        raise InputError("there are no images to embed: the split is empty")
    if images.levels != network.levels:
        raise InputError(f"the embedding network is for {network.levels} levels, the data have {images.levels}")
    starts = range(0, len(images), batch_size)
    device = network.last.weight.device
    with eval_mode(network), torch.autocast(device.type, enabled=False):
        shown = track(starts, len(starts), "embedding", progress)
        return torch.cat([network.embed(images.tensor(slice(start, start + batch_size))).cpu() for start in shown])
