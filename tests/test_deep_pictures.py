"""Pictures of 16 bits: their values as they stand in the file, for training by --data.source_levels."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from nextpixel.cli import main
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load, load_source
from nextpixel.errors import InputError
from nextpixel.pictures.deep import read_deep


def values(seed, channels=3, size=(7, 5), most=65535):
    """Smooth and rough rows, (H, W, C)."""
    random = np.random.default_rng(seed)
    ramp = np.arange(size[0] * size[1] * channels).reshape(*size, channels) * 99
    return ((ramp + random.integers(most + 1, size=ramp.shape)) % (most + 1)).astype(np.uint16)


def paeth(a, b, c):
    pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    return a if pa <= pb and pa <= pc else b if pb <= pc else c


def png(x, filters=(0, 1, 2, 3, 4), colour=None, interlaced=0, extra=()):
    """A PNG of 16 bits, by the definition of its filters, byte by byte."""
    height, width, channels = x.shape
    step, rows, above = 2 * channels, b"", bytes(2 * channels * width)
    for i in range(height):
        row, kind = x[i].astype(">u2").tobytes(), filters[i % len(filters)]
        out = bytearray()
        for k, byte in enumerate(row):
            a, c = (row[k - step], above[k - step]) if k >= step else (0, 0)
            out.append((byte - (0, a, above[k], (a + above[k]) // 2, paeth(a, above[k], c))[kind]) & 255)
        rows, above = rows + bytes([kind]) + out, row
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2}[channels] if colour is None else colour, 0, 0, interlaced)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    sums = [struct.pack(">I", zlib.crc32(kind + content)) for kind, content in chunks]
    written = [struct.pack(">I", len(content)) + kind + content + end for (kind, content), end in zip(chunks, sums, strict=True)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def pnm(x, most=65535):
    height, width, channels = x.shape
    return b"P%d\n# a comment\n%d %d\n%d\n" % (5 if channels == 1 else 6, width, height, most) + x.astype(">u2").tobytes()


def save(path, content):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [png, pnm])
def test_values_are_those_of_the_file(tmp_path, channels, make):
    x = values(channels, channels)
    save(tmp_path / "a.x", make(x))
    found = read_deep(tmp_path / "a.x", "a")
    assert found.dtype == np.uint16
    assert (found == x.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_files_of_pillow_are_read(tmp_path, suffix):
    x = values(0, 1)[:, :, 0]
    Image.fromarray(x).save(tmp_path / f"a.{suffix}")
    assert (read_deep(tmp_path / f"a.{suffix}", "a")[0] == x).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_by_their_exif_data(tmp_path, orientation):
    x = values(1, 1)[:, :, 0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(x).save(tmp_path / "a.png", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    assert (read_deep(tmp_path / "a.png", "a")[0] == np.asarray(turned)).all()


def test_sizes_and_grey_keep_the_depth(tmp_path):
    save(tmp_path / "a.png", png(np.full((8, 8, 3), 40000, np.uint16)))
    found = read_deep(tmp_path / "a.png", "a", grayscale=True, crop=(6, 6), size=(3, 2))
    assert found.shape == (1, 3, 2)
    assert (found == 40000).all()


def test_folders_of_16_bits_are_read_and_quantised(tmp_path):
    for n in range(12):
        save(tmp_path / ("a" if n < 6 else "b") / f"{n}.png", png(values(n)))
    settings = DataSettings(source=str(tmp_path), source_levels=65536, levels=65536)
    part = load_source(str(tmp_path), settings)["all"]
    assert (part.levels, part.class_names) == (65536, ["a", "b"])
    assert (part.images[0] == values(0).transpose(2, 0, 1)).all()
    few = load(DataSettings(source=str(tmp_path), source_levels=65536, levels=16), progress=False).train
    assert (few.tensor().numpy() == few.raw.images[few.indices].astype(int) * 16 // 65536).all()


def test_a_model_trains_on_65536_levels_of_pictures(tmp_path, capsys):
    for n in range(12):
        save(tmp_path / "d" / f"{n}.pgm", pnm(values(n, 1, (4, 4))))
    words = f"train digits --data {tmp_path / 'd'} --out {tmp_path / 'run'} --data.source_levels 65536 --data.levels 65536"
    words += " --model.likelihood logistic-mixture --model.blocks 1 --model.features 4 --training.steps 2 --report none"
    assert main(words.split()) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "d")]) == 0
    assert "bits/dim" in capsys.readouterr().out


PALE = png(values(0), extra=[(b"tRNS", bytes(6))])
WRONG = {
    "short.png": (png(values(0))[:80], "damaged|too early"),
    "changed.png": (png(values(0)).replace(b"IDAT", b"IDAX", 1), "damaged"),
    "interlaced.png": (png(values(0), interlaced=1), "interlaced"),
    "transparent.png": (PALE, "transparent"),
    "animated.png": (png(values(0), extra=[(b"acTL", bytes(8))]), "animated"),
    "filter.png": (b"", "cannot read"),
    "short.ppm": (pnm(values(0))[:60], "too early"),
    "eight.pgm": (b"P5 2 2 255\n1234", "of 256 levels"),
    "above.pgm": (pnm(values(0, 1), 1000), "at most 1000"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_one_line(tmp_path, name):
    content, part = WRONG[name]
    save(tmp_path / name, content)
    with pytest.raises(InputError, match=part) as raised:
        load_source(str(tmp_path), DataSettings(source=str(tmp_path), source_levels=65536, levels=256))
    assert len(str(raised.value)) <= 300 + len(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_8_bits_among_16_and_the_way_out_of_16_among_8(tmp_path):
    Image.new("RGB", (5, 7)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"PNG of 8 bits, but --data\.source_levels above 256"):
        load_source(str(tmp_path), DataSettings(source=str(tmp_path), source_levels=65536))
    save(tmp_path / "a.png", png(values(0)))
    with pytest.raises(InputError, match=r"convert it to 8 bits.*--data\.source_levels 65536"):
        load_source(str(tmp_path), DataSettings(source=str(tmp_path)))
