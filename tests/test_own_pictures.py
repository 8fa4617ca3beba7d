"""Own pictures: every kind is read whole or refused in one line, and what is left out of a folder is counted."""

import os
import struct
import warnings

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_model

from nextpixel import Archive
from nextpixel.cli import main
from nextpixel.coding.pictures import find_images
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load_source
from nextpixel.errors import InputError, Notice
from nextpixel.pictures import read
from nextpixel.pictures.headers import SUFFIXES, has_decoder
from nextpixel.pictures.read import count_pages, load_image, read_picture
from nextpixel.pictures.tree import PictureTree
from nextpixel.recipes import Experiment


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of a small model of colour."""
    folder = tmp_path_factory.mktemp("model") / "rgb"
    tiny_model("pixelcnn", (3, 6, 5), 256, features=4, blocks=1, head_features=4).float().save(folder)
    return folder


def frames(number, *shape):
    return [np.random.default_rng(n).integers(256, size=shape, dtype=np.uint8) for n in range(number)]


def tiff(pixels, photometric=1, kind=1, extra=()):
    """An uncompressed TIFF of one strip; Pillow writes neither signed, float nor many channels."""
    height, width, channels = pixels.shape
    bits = 8 * pixels.itemsize
    shorts = {256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric], 277: [channels], 278: [height]}
    shorts |= {339: [kind] * channels} | ({338: list(extra)} if extra else {})
    tags = {**{tag: ("H", 3, values) for tag, values in shorts.items()}, 273: ("I", 4, [0]), 279: ("I", 4, [pixels.nbytes])}
    at = 8 + 2 + 12 * len(tags) + 4
    more, table = b"", b""
    values = {tag: struct.pack(f"<{len(v)}{form}", *v) for tag, (form, _, v) in tags.items()}
    data_at = at + sum(len(value) for value in values.values() if len(value) > 4)
    values[273] = struct.pack("<I", data_at)
    for tag in sorted(tags):
        value = values[tag]
        table += struct.pack("<HHI", tag, tags[tag][1], len(tags[tag][2]))
        if len(value) > 4:
            table += struct.pack("<I", at + len(more))
            more += value
        else:
            table += value.ljust(4, b"\0")
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + table
        + bytes(4)
        + more
        + pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    )


def jpeg_2000(bits, signed=False):
    parts = b"".join(bytes([bits - 1 | 128 * signed, 1, 1]) for _ in range(3))
    size = struct.pack(">HIIIIIIIIH", 0, 8, 8, 0, 0, 8, 8, 0, 0, 3) + parts
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size


def avif(flags):
    config = struct.pack(">I4s", 12, b"av1C") + bytes([0x81, 0, flags, 0])
    meta = struct.pack(">I4s", 12 + len(config), b"meta") + bytes(4) + config
    return struct.pack(">I4s4sI4s", 20, b"ftyp", b"avif", 0, b"mif1") + meta


DEEP = {
    "signed.tif": (tiff(np.zeros((4, 4, 1), np.int8), kind=2), "signed integers of 8 bits"),
    "float.tif": (tiff(np.zeros((4, 4, 1), np.float32), kind=3), "floats of 32 bits"),
    "double.tif": (tiff(np.zeros((4, 4, 1)), kind=3), "floats of 64 bits"),
    "grey16.tif": (tiff(np.zeros((4, 4, 1), np.uint16)), r"more than 8 bits per channel \(16\)"),
    "rgb16.tif": (tiff(np.zeros((4, 4, 3), np.uint16), 2), r"more than 8 bits per channel \(16\)"),
    "bands.tif": (tiff(np.zeros((4, 4, 5), np.uint8), 2, extra=(0, 0)), "5 channels"),
    "infrared.tif": (tiff(np.zeros((4, 4, 4), np.uint8), 2, extra=(0,)), "4 channels"),
    "rgb16.jp2": (jpeg_2000(16), r"more than 8 bits per channel \(16\)"),
    "signed.jp2": (jpeg_2000(8, signed=True), "signed integers"),
    "ten.avif": (avif(0x40), r"more than 8 bits per channel \(10\)"),
    "twelve.avif": (avif(0x60), r"more than 8 bits per channel \(12\)"),
    "twelve.jpg": (b"\xff\xd8\xff\xe0\0\4ab\xff\xc1\0\x0b\x0c\0\4\0\4\1\1\x11\0", r"more than 8 bits per channel \(12\)"),
    "half.pgm": (b"P5 2 1 4095\n" + bytes(4), r"more than 8 bits per channel \(12\)"),
    "float.pfm": (b"Pf\n2 1\n-1.0\n" + bytes(8), "floats of 32 bits"),
}


@pytest.mark.parametrize("name", DEEP)
def test_what_8_bits_cannot_hold_is_refused_with_the_depth_and_the_way_out(tmp_path, name):
    data, what = DEEP[name]
    (tmp_path / name).write_bytes(data)
    for reader in (read_picture, lambda path: load_image(path, 256, 3), lambda path: read_picture(path, lossless=True)):
        with pytest.raises(InputError, match=rf"{name} has {what}.*convert it to 8 bits"):
            reader(tmp_path / name)


def test_the_same_makers_at_8_bits_are_read(tmp_path):
    x = frames(1, 4, 4, 3)[0]
    (tmp_path / "a.tif").write_bytes(tiff(x, 2))
    assert (read_picture(tmp_path / "a.tif") == x.transpose(2, 0, 1)).all()
    for suffix in ("jp2", "avif"):
        if has_decoder(f".{suffix}"):
            Image.fromarray(x).save(tmp_path / f"a.{suffix}")
            assert read_picture(tmp_path / f"a.{suffix}").shape == (3, 4, 4)


def test_a_deep_page_behind_a_plain_one_is_refused(tmp_path):
    plain, deep = Image.fromarray(frames(1, 4, 4)[0]), Image.fromarray(np.zeros((4, 4), np.uint16))
    plain.save(tmp_path / "a.tif", save_all=True, append_images=[deep])
    assert read_picture(tmp_path / "a.tif", page=0).shape == (1, 4, 4)
    with pytest.raises(InputError, match="more than 8 bits"):
        read_picture(tmp_path / "a.tif", page=1)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\x0a" + bytes(50), "JPEG XL"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "HEIF"),
        (b"\x76\x2f\x31\x01" + bytes(50), "OpenEXR"),
    ],
)
def test_an_intact_file_of_an_unknown_kind_is_not_called_damaged(tmp_path, data, kind):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=rf"not supported here \({kind}\).*save it as PNG"):
        read_picture(tmp_path / "a.png")


SEVERAL = ["tif", "gif", "webp", "png"]


def save_several(path, pictures):
    first, *rest = [Image.fromarray(x) for x in pictures]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=rest, **options)


@pytest.mark.parametrize("suffix", SEVERAL)
def test_every_page_and_frame_is_an_image_in_training_and_in_archives(run, tmp_path, suffix):
    x = frames(3, 6, 5, 3)
    if suffix == "gif":  # few colours, which a palette holds
        x = [picture // 128 * 255 for picture in x]
    (tmp_path / "d").mkdir()
    save_several(tmp_path / "d" / f"a.{suffix}", x)
    expected = np.stack(x).transpose(0, 3, 1, 2)
    assert count_pages(tmp_path / "d" / f"a.{suffix}") == 3
    assert (load_source(str(tmp_path / "d"), DataSettings())["all"].images == expected).all()
    assert (read_picture(f"{tmp_path / 'd' / 'a'}.{suffix}#2") == expected[1]).all()
    with pytest.raises(InputError, match=rf"holds 3 pages or frames, expected one: name it as .*a.{suffix}#1"):
        read_picture(tmp_path / "d" / f"a.{suffix}")
    with pytest.raises(InputError, match="holds 3 pages or frames, not 4"):
        read_picture(f"{tmp_path / 'd' / 'a'}.{suffix}#4")
    assert main(["compress", str(run), str(tmp_path / "d" / f"a.{suffix}"), "-o", str(tmp_path / "a.npx")]) == 0
    assert Archive.open(tmp_path / "a.npx").names == ["a#1", "a#2", "a#3"]
    assert main(["decompress", str(tmp_path / "a.npx"), "--model", str(run)]) == 0
    for n in range(3):
        assert (np.asarray(Image.open(tmp_path / "a" / f"a#{n + 1}.png")) == x[n]).all()


def test_a_file_of_many_pages_is_opened_once_for_all_of_them(run, tmp_path, monkeypatch):
    """Each page found from the beginning would take the square of their number: 800 pages, 109 s."""
    (tmp_path / "d").mkdir()
    save_several(tmp_path / "d" / "a.tif", frames(12, 6, 5, 3))
    opened, walks = [], []
    monkeypatch.setattr(Image, "open", lambda *args, real=Image.open: opened.append(1) or real(*args))
    real = read.unusable_pages
    monkeypatch.setattr(read, "unusable_pages", lambda stream: walks.append(1) or real(stream))
    images = load_source(str(tmp_path / "d"), DataSettings())["all"].images
    assert (images == np.stack(frames(12, 6, 5, 3)).transpose(0, 3, 1, 2)).all()
    assert (len(opened), len(walks)) == (2, 1)  # to count the pages, and to read them
    assert main(["compress", str(run), str(tmp_path / "d" / "a.tif"), "-o", str(tmp_path / "a.npx"), "--no-verify"]) == 0
    assert (len(opened), len(walks)) == (4, 2)


@pytest.mark.parametrize("mode", ["CMYK"])
def test_inexact_colours_are_converted_with_a_word_and_refused_without_loss(tmp_path, mode):
    Image.new(mode, (5, 6)).save(tmp_path / "a.tif")
    with pytest.warns(Notice, match=f"a.tif is {mode}: converted to RGB"):
        assert read_picture(tmp_path / "a.tif").shape == (3, 6, 5)
    with pytest.raises(InputError, match=f"colour mode {mode}"):
        read_picture(tmp_path / "a.tif", lossless=True)


def test_what_is_left_out_is_counted_and_strict_refuses_it(run, tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    for n, suffix in enumerate(("png", "jfif", "JPG", "dib", "pnm")):
        Image.fromarray(frames(1, 6, 5, 3)[0]).save(folder / f"{n}.{suffix}", format={"pnm": "PPM", "dib": "BMP"}.get(suffix))
    for name in ("a.txt", "b.txt", "Thumbs.db", ".DS_Store", "c.jxl"):
        (folder / name).write_bytes(b"\xff\x0a")
    expected = r"5 of 10 files left out: 2 \.txt, "
    with pytest.warns(Notice, match=expected) as seen:
        assert len(load_source(str(folder), DataSettings())["all"].images) == 5
    assert all(part in str(seen[0].message) for part in ("1 .db", "1 hidden", "1 .jxl (no decoder)"))
    with pytest.raises(InputError, match=expected):
        load_source(str(folder), DataSettings(strict=True))
    before = sorted(tmp_path.iterdir())
    assert main(["compress", str(run), str(folder), "-o", str(tmp_path / "a.npx"), "--strict"]) == 2
    assert sorted(tmp_path.iterdir()) == before
    assert main(["train", "digits", "--data", str(folder), "--strict", "--out", str(tmp_path / "r")]) == 2


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".jxl"}))
def test_every_known_suffix_is_taken(tmp_path, suffix):
    Image.init()
    name = {".pnm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".ppm": "PPM"}.get(suffix) or Image.registered_extensions()[suffix]
    picture = Image.fromarray(frames(1, 6, 5)[0]).convert("1" if suffix == ".pbm" else "L")
    picture.save(tmp_path / f"a{suffix.upper()}", format=name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_source(str(tmp_path), DataSettings())["all"].images.shape[2:] == (6, 5)


def test_links_are_followed_once_and_never_upwards(tmp_path):
    (tmp_path / "d" / "cat").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    for place in ("d/cat/a.png", "d/cat/b.png", "else/c.png"):
        Image.fromarray(frames(1, 6, 5)[0]).save(tmp_path / place)
    os.symlink("..", tmp_path / "d" / "cat" / "up")
    os.symlink("/", tmp_path / "d" / "root")
    os.symlink("a.png", tmp_path / "d" / "cat" / "again.png")
    os.symlink("nowhere", tmp_path / "d" / "cat" / "broken.png")
    for name in ("dog", "fox"):
        os.symlink(tmp_path / "else", tmp_path / "d" / name)
    tree = PictureTree(tmp_path / "d")
    assert [str(file) for file in tree.files] == ["cat/a.png", "cat/b.png", "dog/c.png"]
    assert tree.left_out == {"symbolic link": 4, "broken link": 1}


@pytest.mark.parametrize("arguments", [["d"], ["d/cat", "d/dog"], ["d/cat/1.png", "d/dog/1.png", "d/dog/deep/1.png"]])
def test_a_tree_goes_into_an_archive_and_comes_back(run, tmp_path, arguments):
    expected = {}
    for n, name in enumerate(("cat/1", "dog/1", "dog/deep/1")):
        expected[name] = frames(n + 1, 6, 5, 3)[n]
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(expected[name]).save(tmp_path / "d" / f"{name}.png")
    files = [str(tmp_path / argument) for argument in arguments]
    assert main(["compress", str(run), *files, "-o", str(tmp_path / "a.npx")]) == 0
    assert main(["decompress", str(tmp_path / "a.npx"), "--model", str(run)]) == 0
    found = {str(path.relative_to(tmp_path / "a")): np.asarray(Image.open(path)) for path in (tmp_path / "a").rglob("*.png")}
    assert sorted(found) == [f"{name}.png" for name in sorted(expected)]
    assert all((found[f"{name}.png"] == x).all() for name, x in expected.items())
    assert main(["info", str(tmp_path / "a.npx"), "--csv", str(tmp_path / "a.csv")]) == 0
    assert [line.split(",")[0] for line in (tmp_path / "a.csv").read_text().splitlines()] == ["name", *expected]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a .png", "a blank"),
        ("a\nb.png", "a line break"),
        (70 * "\u957f" + ".png", "it has 210 bytes"),
        ("a:b.png", "the character :"),
    ],
)
def test_names_that_cannot_be_stored_say_which_and_why(run, tmp_path, capsys, name, why):
    Image.fromarray(frames(1, 6, 5, 3)[0]).save(tmp_path / name)
    assert main(["compress", str(run), str(tmp_path / name), "-o", str(tmp_path / "a.npx")]) == 2
    line = capsys.readouterr().err
    assert why in line
    assert line.count("\n") == 1
    assert len(line) <= 300


def test_outputs_destroy_nothing(run, tmp_path, capsys):
    picture, out = tmp_path / "a.png", tmp_path / "o.png"
    Image.fromarray(frames(1, 6, 5, 3)[0]).save(picture)
    assert main(["compress", str(run), str(picture), "-o", str(tmp_path / "a.npx")]) == 0
    os.link(picture, tmp_path / "same.png")
    Experiment().save(run / "config.yaml")  # a run, as evaluate takes it
    out.write_text("precious")
    (tmp_path / "o.csv").write_text("precious")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    one = ["complete", run, "--image", picture, "-n", 1, "--known", "top:1", "--out"]
    words = {
        "compress": (["compress", run, picture, "-o"], picture),
        "complete": (one, tmp_path / "same.png"),
        "sample": (["sample", run, "-n", 1, "--out"], None),
        "interpolate": (["interpolate", run, "--from", picture, "--to", picture, "--out"], picture),
        "inspect": (["inspect", "masks", "--out"], None),
        "evaluate": (["evaluate", run, "--csv"], None),
        "info": (["info", tmp_path / "a.npx", "--csv"], tmp_path / "a.npx"),
    }
    for verb, (line, source) in words.items():
        assert main([*map(str, line), str(out)]) == 2, verb
        assert f"{out} exists already" in capsys.readouterr().err, verb
        if source is not None:
            assert main([*map(str, line), str(source), "--force"]) == 2, verb
            assert "it is read too" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert main([*map(str, one), str(out), "--force"]) == 0
    assert out.read_bytes() != b"precious"


# --- arrays beside pictures ---------------------------------------------------------------------------------------------------


def test_an_array_of_one_colour_picture_is_compressed_by_its_layout(run, tmp_path, capsys):
    x = np.random.default_rng(0).integers(256, size=(6, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", x)
    words = ["compress", str(run), str(tmp_path / "a.npy"), "-o", str(tmp_path / "a.npx")]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "--data.layout HWC" in err
    assert err.count("\n") == 1
    assert main([*words, "--data.layout", "HWC"]) == 0
    assert main(["decompress", str(tmp_path / "a.npx"), "--model", str(run)]) == 0
    assert (np.asarray(Image.open(tmp_path / "a" / "a.png")) == x).all()
    assert main([*words, "--force", "--data.layout", "HHC"]) == 2


def test_folders_of_arrays_are_compressed_and_pictures_come_first(tmp_path, capsys):
    model = tiny_model("pixelcnn", (1, 6, 5), 300, features=4, blocks=1, head_features=4).float()
    model.save(tmp_path / "deep")
    arrays = {name: np.random.default_rng(len(name)).integers(300, size=(6, 5)) for name in ("a", "b/cc")}
    for name, x in arrays.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "d" / f"{name}.npy", x)
    assert main(["compress", str(tmp_path / "deep"), str(tmp_path / "d"), "-o", str(tmp_path / "d.npx")]) == 0
    out = str(tmp_path / "back")
    assert main(["decompress", str(tmp_path / "d.npx"), "-o", out, "--model", str(tmp_path / "deep")]) == 0
    assert all((np.load(tmp_path / "back" / f"{name}.npy")[0, 0] == x).all() for name, x in arrays.items())
    Image.new("L", (5, 6)).save(tmp_path / "d" / "p.png")
    with pytest.warns(Notice, match=r"2 of 3 files left out: 2 \.npy"):
        assert find_images([str(tmp_path / "d")]) == [(str(tmp_path / "d" / "p.png"), "p")]


def test_a_layout_of_pictures_is_refused(run, tmp_path, capsys):
    for n in range(4):
        Image.new("RGB", (5, 6), (n, 0, 0)).save(tmp_path / f"{n}.png")
    with pytest.raises(InputError, match=r"--data\.layout NHWC names the dimensions of arrays, but .* holds pictures"):
        load_source(str(tmp_path), DataSettings(source=str(tmp_path), layout="NHWC"))
    words = ["compress", str(run), str(tmp_path), "-o", str(tmp_path / "a.npx"), "--data.layout", "HWC"]
    assert main(words) == 2
    assert "is for .npy arrays" in capsys.readouterr().err


def test_previews_inside_jpeg_files_are_counted(tmp_path):
    pages = [Image.fromarray(pixels) for pixels in frames(3, 6, 5, 3)]
    for name in ("a", "b"):
        pages[0].save(tmp_path / f"{name}.jpg", format="MPO", save_all=True, append_images=pages[1:])
    with pytest.warns(Notice, match=r"4 further pictures inside JPEG files \(MPO previews\) left out"):
        assert len(load_source(str(tmp_path), DataSettings())["all"].images) == 2
