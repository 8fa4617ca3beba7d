"""compress, decompress and info: every kind of file, every refusal in one line, nothing half-written, work that resumes."""

import hashlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

from nextpixel import Archive, compress, load
from nextpixel.cli import main
from nextpixel.coding.format.container import split
from nextpixel.coding.lanes import LaneCoder
from nextpixel.errors import InputError
from nextpixel.pictures.grid import brightness

small = {"features": 4, "blocks": 1, "head_features": 4}
KINDS = {"grey": (1, 256), "rgb": (3, 256), "four": (1, 4)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of small models."""
    folder = tmp_path_factory.mktemp("models")
    for name, (channels, levels) in KINDS.items():
        tiny_model("pixelcnn", (channels, 6, 5), levels, **small).float().save(folder / name)
    tiny_model("pixelcnn", (1, 6, 5), 4, "labels", **small).float().save(folder / "classes")
    tiny_model("pixelcnn", (1, 6, 5), 40, inputs="embedding", **small).float().save(folder / "codes")
    tiny_model("pixelcnn", (1, 6, 5), 4, "encoded", **small).float().save(folder / "encoded")
    return folder


def pixels(*shape, levels=256, seed=0):
    return brightness(levels)[np.random.default_rng(seed).integers(levels, size=shape)]


def nextpixel(*words):
    assert main([str(word) for word in words]) == 0


@pytest.fixture
def refuse(capsys, tmp_path):
    """Run the command line on bad input: status 2, one line, which is returned, and nothing new on the disk."""

    def check(*words):
        capsys.readouterr()
        before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        assert main([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("nextpixel: error: ")
        assert err.count("\n") == 1, err
        assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
        return err

    return check


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "pgm", "bmp", "npy"])
def test_grey_files(runs, tmp_path, ending, capsys):
    x = pixels(7, 5)
    file = tmp_path / f"a b.{ending}"
    if ending == "npy":
        np.save(file, x)
    else:
        Image.fromarray(x).save(file, lossless=True)  # WebP has no grey: its three channels are alike
    nextpixel("compress", runs / "grey", file, "-o", tmp_path / "out.npx")
    nextpixel("decompress", tmp_path / "out.npx", "--model", runs / "grey")
    assert (np.asarray(Image.open(tmp_path / "out" / "a b.png")) == x).all()
    assert "\n1 image in" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "ppm", "gif", "npy"])
def test_colour_files(runs, tmp_path, ending):
    x = pixels(7, 5, 3)
    file = tmp_path / f"photo.{ending}"
    if ending == "npy":
        np.save(file, x.transpose(2, 0, 1)[None])
    elif ending == "gif":  # a palette becomes RGB
        Image.fromarray(x).quantize(9).save(file)
        x = np.asarray(Image.open(file).convert("RGB"))
    else:
        Image.fromarray(x).save(file, lossless=True)
    nextpixel("compress", runs / "rgb", file, "-o", tmp_path / "out.npx", "--embed")
    nextpixel("decompress", tmp_path / "out.npx", "-o", tmp_path / "deep" / "er")
    assert (np.asarray(Image.open(tmp_path / "deep" / "er" / "photo.png")) == x).all()


def test_grey_for_a_colour_model(runs, tmp_path):
    x = pixels(7, 5)
    Image.fromarray(x).save(tmp_path / "x.png")
    nextpixel("compress", runs / "rgb", tmp_path / "x.png", "-o", tmp_path / "out.npx")
    nextpixel("decompress", tmp_path / "out.npx", "--model", runs / "rgb")
    assert (np.asarray(Image.open(tmp_path / "out" / "x.png")) == x[..., None]).all()


def test_few_levels_codes_and_stacks(runs, tmp_path):
    x = np.random.default_rng(0).integers(4, size=(11, 6, 5)).astype(np.uint8)
    np.save(tmp_path / "stack.npy", x)
    Image.fromarray(brightness(4)[x[0]]).save(tmp_path / "one.png")
    nextpixel("compress", runs / "four", tmp_path / "stack.npy", tmp_path / "one.png", "-o", tmp_path / "a.npx", "--embed")
    assert Archive.open(tmp_path / "a.npx").names == [*(f"stack-{n:02d}" for n in range(11)), "one"]
    nextpixel("decompress", tmp_path / "a.npx", "--only", "one", "stack-07")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["one.png", "stack-07.png"]
    assert (np.asarray(Image.open(tmp_path / "a" / "stack-07.png")) == brightness(4)[x[7]]).all()
    # What comes out goes in again.
    nextpixel("compress", runs / "four", tmp_path / "a" / "one.png", "-o", tmp_path / "b.npx")
    assert Archive.open(tmp_path / "b.npx").entries[0].tiles[0].crc == Archive.open(tmp_path / "a.npx").entries[0].tiles[0].crc
    np.save(tmp_path / "codes.npy", x * 10)
    nextpixel("compress", runs / "codes", tmp_path / "codes.npy", "-o", tmp_path / "c.npx", "--embed")
    nextpixel("decompress", tmp_path / "c.npx")
    found = np.load(tmp_path / "c" / "codes-10.npy")
    assert found.dtype == np.uint8
    assert (found == x[10] * 10).all()


def test_classes_tiles_and_info(runs, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(4, size=(2, 9, 17)))
    words = ["compress", runs / "classes", tmp_path / "x.npy", "-o", tmp_path / "a.npx", "--label", 3, 1, "--tile", "8x9"]
    nextpixel(*words, "--lanes", 3, "--mode", "fast", "--no-verify")
    capsys.readouterr()
    nextpixel("info", tmp_path / "a.npx")
    out = capsys.readouterr().out
    assert re.search(r"^9x17  \d+ bytes  \d\.\d{4} bits/dim  4 tiles  label 3  x-0$", out, re.MULTILINE)
    assert "fast, 3 lanes, tiles 8x9, tables of 16 bits\n" in out
    assert f"file {(tmp_path / 'a.npx').stat().st_size} bytes" in out
    assert "threads 1" in out
    nextpixel("decompress", tmp_path / "a.npx", "--model", runs / "classes")
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_files_that_cannot_be_compressed(runs, tmp_path, refuse):
    x, out = pixels(7, 5), tmp_path / "out.npx"
    Image.fromarray(x).save(tmp_path / "grey.png")
    Image.fromarray(pixels(7, 5, 3)).save(tmp_path / "rgb.png")
    Image.fromarray(pixels(7, 5, 4)).save(tmp_path / "alpha.png")
    Image.fromarray(x.astype(np.uint16) * 100).save(tmp_path / "deep.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:50])
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "sub").mkdir()
    Image.fromarray(x).save(tmp_path / "sub" / "grey.webp", lossless=True)
    Image.fromarray(x).save(tmp_path / "sub" / "grey.png")
    np.save(tmp_path / "real.npy", x / 2)
    np.save(tmp_path / "stack.npy", pixels(3, 2, 7, 5))
    np.save(tmp_path / "four.npy", pixels(7, 5) // 64)
    np.save(tmp_path / "large.npy", x.astype(int) + 250)
    (tmp_path / "text.npy").write_text("text")

    def line(run, *names):
        return refuse("compress", runs / run, *(tmp_path / name for name in names), "-o", out)

    assert "rgb.png is a colour picture, but this model's are grey" in line("grey", "rgb.png")
    assert "stack.npy has 2 channels, but this model's images have 1" in line("grey", "stack.npy")
    assert "alpha.png is partly transparent" in line("rgb", "alpha.png")
    assert "deep.png has more than 8 bits per channel" in line("grey", "deep.png")
    assert "cannot read the picture" in line("grey", "broken.png")
    assert "cannot read the picture" in line("grey", "text.png")
    assert "No such file" in line("grey", "nowhere.png")
    assert "No such file" in line("grey", "nowhere.npy")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").touch()
    assert "none: 1 of 1 files left out: 1 .txt" in line("grey", "none")
    assert "two images are called 'grey.png'" in line("grey", "grey.png", "grey.png")
    assert re.search(
        r"grey.png has brightness \d+ at row 0, column 0, which is none of the 4 of this model \(0, 85, 170",
        line("four", "grey.png"),
    )
    assert "holds float64: expected integers" in line("grey", "real.npy")
    assert "large: images must have symbols 0..255, but these have" in line("grey", "large.npy")
    assert "cannot read" in line("grey", "text.npy")
    assert "this model is of codes, which no picture file holds" in line("codes", "grey.png")
    assert "needs a condition" in line("classes", "four.npy")
    assert "with an encoder cannot compress" in line("encoded", "four.npy")
    assert "--label 1: the model in" in refuse("compress", runs / "grey", tmp_path / "grey.png", "-o", out, "--label", 1)
    assert "gives 2 classes for 1 image:" in refuse(
        "compress", runs / "classes", tmp_path / "four.npy", "-o", out, "--label", 1, 2
    )
    assert "tiles must be at least" in refuse("compress", runs / "grey", tmp_path / "grey.png", "-o", out, "--tile", "2x2")
    assert "is a folder" in refuse("compress", runs / "grey", tmp_path / "grey.png", "-o", tmp_path)
    assert "--mode slow" in refuse("compress", runs / "grey", tmp_path / "grey.png", "-o", out, "--mode", "slow")


def test_archives_that_cannot_be_decompressed(runs, tmp_path, refuse):
    Image.fromarray(pixels(7, 5)).save(tmp_path / "x.png")
    nextpixel("compress", runs / "grey", tmp_path / "x.png", "-o", tmp_path / "a.npx")
    data = (tmp_path / "a.npx").read_bytes()
    (tmp_path / "cut.npx").write_bytes(data[:-1])
    (tmp_path / "new.npx").write_bytes(data[:8] + b"\4" + data[9:])
    evil = data.replace(b"\x01x\x07\x05", b"\x04../x\x07\x05")
    evil = evil[:22] + bytes([evil[22] + 3]) + evil[23:-32]
    (tmp_path / "evil.npx").write_bytes(evil + hashlib.sha256(evil).digest())
    (tmp_path / "there").mkdir()
    (tmp_path / "plain").write_bytes(data)
    model = ["--model", runs / "grey"]
    assert "does not hold its model" in refuse("decompress", tmp_path / "a.npx")
    assert "made with another model" in refuse("decompress", tmp_path / "a.npx", "--model", runs / "four")
    assert "is damaged or cut off" in refuse("decompress", tmp_path / "cut.npx", *model)
    assert "is damaged or cut off" in refuse("info", tmp_path / "cut.npx")
    assert "version 4 of the format" in refuse("decompress", tmp_path / "new.npx", *model)
    assert "'../x' is no plain file name" in refuse("decompress", tmp_path / "evil.npx", *model, "-o", tmp_path / "e")
    assert "exists already" in refuse("decompress", tmp_path / "a.npx", *model, "-o", tmp_path / "there")
    assert "has no image 'y': it has x" in refuse("decompress", tmp_path / "a.npx", *model, "--only", "y")
    assert "no ending that could be left off" in refuse("decompress", tmp_path / "plain", *model)
    assert "No such file" in refuse("decompress", tmp_path / "nowhere.npx", *model)


def test_limits(runs, tmp_path, refuse):
    Image.fromarray(pixels(7, 5)).save(tmp_path / "x.png")
    nextpixel("compress", runs / "grey", tmp_path / "x.png", "-o", tmp_path / "a.npx")
    words = ["decompress", tmp_path / "a.npx", "--model", runs / "grey", "--limit"]
    assert "declares 35 symbols in" in refuse(*words, 34)
    nextpixel(*words, 35)
    assert (tmp_path / "a" / "x.png").exists()


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 29])
def test_whatever_is_wrong_with_an_archive_is_one_line_and_leaves_nothing(runs, tmp_path, refuse, step):
    """Through the command line: cut off at every byte, every bit flipped, and some of these with a new checksum."""
    np.save(tmp_path / "x.npy", np.array([[[1, 0], [3, 2]]]))
    nextpixel("compress", runs / "four", tmp_path / "x.npy", "-o", tmp_path / "a.npx")
    data = (tmp_path / "a.npx").read_bytes()
    loaded = load(runs / "four")
    (tmp_path / "a.npx").unlink()
    cut = [data[:size] for size in range(len(data))][::step]
    flipped = [bytes([*data[:at], data[at] ^ 1 << bit, *data[at + 1 :]]) for at in range(len(data)) for bit in range(8)][::step]
    sealed = [d[:-32] + hashlib.sha256(d[:-32]).digest() for d in flipped[::5]]
    decoded = 0
    for each in [*cut, *flipped, *sealed]:
        (tmp_path / "bad.npx").write_bytes(each)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nextpixel.models.storage.load", lambda _: loaded)  # which takes most of the time
            # What is sealed again and differs only in what does not matter is right: a version, a name, a number of lanes.
            if each in sealed and opens(each, loaded):
                decoded += 1
                continue
            refuse("decompress", tmp_path / "bad.npx", "--model", "four")
    assert decoded < len(sealed) / 2


def opens(data, model):
    try:
        (found,) = dict(Archive(data, model)).values()
    except InputError:
        return False
    assert found.tolist() == [[[1, 0], [3, 2]]]
    return True


def test_nothing_is_left_of_a_decoding_that_fails_in_the_middle(runs, tmp_path, refuse, monkeypatch):
    for n in range(3):
        Image.fromarray(pixels(7, 5, seed=n)).save(tmp_path / f"{n}.png")
    nextpixel("compress", runs / "grey", *sorted(tmp_path.glob("*.png")), "-o", tmp_path / "a.npx", "--lanes", 1)
    decode = LaneCoder.decode
    calls = []
    monkeypatch.setattr(LaneCoder, "decode", lambda *args: calls.append(1) or (decode(*args) + (len(calls) == 3)) % 256)
    assert "2 did not decode to the pixels" in refuse("decompress", tmp_path / "a.npx", "--model", runs / "grey")
    assert len(calls) == 3


def test_interrupted_and_resumed(runs, tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(4, size=(5, 6, 5)))
    words = [str(word) for word in ("compress", runs / "four", tmp_path / "x.npy", "-o", tmp_path / "a.npx", "--lanes", 1)]
    encode, calls = LaneCoder.encode, []

    def stop(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(LaneCoder, "encode", stop)
    assert main(words) == 130
    assert "interrupted: 2 of 5 groups of images are finished, and the same command goes on from there" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.npx.journal", "x.npy"]
    assert main(words) == 0
    assert len(calls) == 3 + 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npx", "x.npy"]
    model = load(runs / "four")
    assert split((tmp_path / "a.npx").read_bytes(), "a").streams == split(uninterrupted(model, tmp_path / "x.npy"), "b").streams


def uninterrupted(model, file):
    x = torch.from_numpy(np.load(file))[:, None]
    return compress(model, x, names=[f"x-{n}" for n in range(len(x))], lanes=1)


@pytest.mark.slow
def test_a_killed_process_resumes(runs, tmp_path):
    """Really killed, by a signal that no program can handle."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(4, size=(40, 30, 30)))
    words = ["compress", runs / "four", tmp_path / "x.npy", "-o", tmp_path / "a.npx", "--lanes", 1]
    process = subprocess.Popen([sys.executable, "-m", "nextpixel", *map(str, words)])
    journal = tmp_path / ".a.npx.journal"
    while not journal.exists() or journal.stat().st_size < 2000:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a.npx").exists()
    nextpixel(*words)
    assert not journal.exists()
    model = load(runs / "four")
    assert split((tmp_path / "a.npx").read_bytes(), "a").streams == split(uninterrupted(model, tmp_path / "x.npy"), "b").streams
