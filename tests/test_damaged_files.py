"""Files of data that are damaged, or no files: one line, whatever the damage."""

import io
import os
import random

import numpy as np
import pytest
from PIL import Image

from nextpixel.cli.draw import _array
from nextpixel.data.arrays import load_npz, read_npy
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError
from nextpixel.pictures.read import load_image, read_picture
from nextpixel.scoring.baselines import PixelMarginal

SETTINGS = DataSettings(levels=4)
PICTURES = {"png": "RGB", "jpeg": "RGB", "gif": "P", "webp": "RGB", "tiff": "L", "bmp": "L", "ppm": "L"}


def honest(kind):
    """The bytes of a small file."""
    x, buffer = np.random.default_rng(0).integers(4, size=(5, 8, 8)).astype(np.uint8), io.BytesIO()
    if kind == "npy":
        np.save(buffer, x)
    elif kind == "npz":
        np.savez_compressed(buffer, images=x, labels=np.arange(5), levels=4)
    elif kind == "marginal":
        np.savez_compressed(buffer, counts=np.full((1, 8, 8, 4), 7))
    else:
        Image.fromarray(x[0]).convert(PICTURES[kind]).save(buffer, kind)
    return buffer.getvalue()


READERS = {
    "npy": [read_npy, lambda path: read_npy(path, mapped=True), lambda path: _array("to", str(path))],
    "npz": [lambda path: load_npz(path, SETTINGS)],
    "marginal": [lambda path: PixelMarginal.load(path, (1, 8, 8), 4)],
    **{kind: [lambda path: load_image(path, 4, 3), lambda path: read_picture(path)] for kind in PICTURES},
}


def damaged(data, generator):
    """A few bytes are changed, cut off or too many."""
    data = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 5))):
        place, how = generator.randrange(len(data)), generator.randrange(4)
        if how == 0:
            data[place] = generator.randrange(256)
        elif how == 1:
            data[place] ^= 1 << generator.randrange(8)
        elif how == 2:
            del data[place + 1 :]
        else:
            data[place:place] = generator.randbytes(3)
    return bytes(data)


@pytest.mark.filterwarnings("ignore")  # of Pillow and numpy, which see much that is strange
@pytest.mark.parametrize("kind", READERS)
def test_damage_anywhere_is_one_line(tmp_path, kind):
    generator, whole, path, refused = random.Random(1), honest(kind), tmp_path / f"x.{kind}", []
    for _ in range(300):
        path.write_bytes(damaged(whole, generator))
        for read in READERS[kind]:
            try:
                read(path)
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 10
    assert all(len(line.splitlines()) == 1 for line in refused)


@pytest.mark.parametrize("kind", READERS)
def test_what_never_ends_is_not_read(tmp_path, kind):
    os.mkfifo(tmp_path / f"x.{kind}")
    for read in READERS[kind]:
        with pytest.raises(InputError, match="not a regular file"):
            read(tmp_path / f"x.{kind}")


def test_an_archive_under_the_name_of_an_array_is_one_line(tmp_path):
    (tmp_path / "x.npy").write_bytes(honest("npz"))
    with pytest.raises(InputError, match="it is an archive of several"):
        read_npy(tmp_path / "x.npy")
