"""Write the golden archives anew: only after a deliberate change of the format, with a new version number.

PYTHONPATH=.:tests python tests/golden/make.py
"""

from pathlib import Path

import torch
from tiny import tiny_model

from nextpixel.coding import writer

FOLDER = Path(__file__).parent


def picture(channels, height, width, levels, seed):
    """Symbols from whole numbers only, so that every machine makes the same."""
    places = torch.arange(channels * height * width).view(channels, height, width)
    return (places * places * (seed + 3) + places * 7 + seed) % 101 * levels // 101


def grey():
    """Three images of two sizes, in tiles, from a softmax; the error bound is so large that there are thresholds."""
    model = tiny_model("pixelcnn", (1, 8, 8), 4, features=4, blocks=1, head_features=4).float()
    images = [picture(1, *size, 4, seed) for seed, size in enumerate([(9, 7), (8, 12), (9, 7)])]
    return model, images, ["one", "two", "drei-äöü"], None, {"tile": (8, 8)}, 2.0**-13


def colour():
    """Two RGB images with classes, from a mixture of logistics."""
    sizes = {"features": 4, "blocks": 2, "kernel_size": 3, "first_kernel_size": 3, "head_features": 4}
    model = tiny_model("gated-pixelcnn", (3, 4, 4), 256, "labels", likelihood="logistic-mixture", mixtures=2, **sizes).float()
    return model, [picture(3, 4, 4, 256, seed) for seed in (5, 6)], ["red", "blue"], torch.tensor([3, 0]), {}, 2.0**-18


GOLDEN = {"grey": grey, "colour": colour}


def archive(model, images, names, cond, settings, epsilon):
    """What the library makes of these, with an error bound that is given and not measured."""
    made = writer.Writer(model, images, names, cond, writer.Settings(embed=True, **settings))
    made.coder.measure = lambda x, h: setattr(made.coder, "epsilon", epsilon)
    return made.write()


if __name__ == "__main__":
    for name, make in GOLDEN.items():
        (FOLDER / f"{name}.npx").write_bytes(archive(*make()))
