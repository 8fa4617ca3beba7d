"""The report's part on a model conditioned on embeddings: images drawn from one photograph each of unseen identities."""

from pathlib import Path

import torch

from nextpixel.embedding.images import EmbeddedImages
from nextpixel.embedding.likeness import DRAWN, Portraits, draw_portraits
from nextpixel.embedding.network import EmbeddingNetwork
from nextpixel.models import AutoregressiveModel
from nextpixel.pictures import save_grid
from nextpixel.training.section import Section

SHOWN = 8
PICTURE = Path("samples") / "portraits.png"


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
