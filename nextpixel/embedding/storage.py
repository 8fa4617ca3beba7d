"""An embedding network as a folder of the same form as a model's: config.json, model.safetensors, README.md."""

import os
from pathlib import Path

from nextpixel.embedding.network import EmbeddingNetwork
from nextpixel.errors import InputError
from nextpixel.files import current
from nextpixel.models.storage import CONFIG, read_folder, write_folder

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
    return read_folder(found, {EmbeddingNetwork.name: EmbeddingNetwork})


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
