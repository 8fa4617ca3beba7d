"""compress and decompress on disks that are full, read-only or gone: one line, status 2, no half file, nothing beside it."""

import shutil
import subprocess

import numpy as np
import pytest
import torch
from tiny import images, tiny_model

from nextpixel import compress, decompress
from nextpixel.cli import main
from nextpixel.coding.lanes import LaneCoder
from nextpixel.coding.writer import Writer

small = {"features": 4, "blocks": 1, "head_features": 4}


@pytest.fixture(scope="module")
def model():
    return tiny_model("pixelcnn", (1, 16, 16), 256, **small).float()


@pytest.fixture
def disk(tmp_path):
    """A file system of 32 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(folder)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def words(model, tmp_path):
    """compress 40 images, whose archive has 11 kB and its model as much again."""
    model.save(tmp_path / "model")
    np.save(tmp_path / "x.npy", images(model, 40)[:, 0].numpy().astype(np.uint8))
    return ["compress", tmp_path / "model", tmp_path / "x.npy", "--lanes", 8]


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def fill(disk, left):
    """Leave so many bytes, in pages of 4 kB."""
    (disk / "ballast").write_bytes(bytes(32 * 1024 - left))


def test_compress_to_a_disk_that_is_full_from_the_start(disk, words, refuse):
    fill(disk, 0)
    assert "No space left on device" in refuse([*words, "-o", disk / "a.npx"])
    assert names(disk) in (["ballast"], [".a.npx.journal", "ballast"])


def test_compress_to_a_disk_that_fills_up_goes_on_where_there_is_room(model, disk, words, refuse, monkeypatch):
    fill(disk, 12 * 1024)  # enough for the journal of some groups, but not of all
    line = refuse([*words, "-o", disk / "a.npx"])
    assert "cannot write" in line
    assert "No space left on device" in line
    assert names(disk) == [".a.npx.journal", "ballast"]
    (disk / "ballast").unlink()
    encoded, encode = [], LaneCoder.encode
    monkeypatch.setattr(LaneCoder, "encode", lambda self, x, *rest: encoded.append(len(x)) or encode(self, x, *rest))
    assert main([str(word) for word in [*words, "-o", disk / "a.npx"]]) == 0
    assert 0 < len(encoded) < 5
    assert names(disk) == ["a.npx"]
    assert torch.equal(decompress(model, (disk / "a.npx").read_bytes()), images(model, 40))


def test_the_archive_itself_may_not_fit(disk, words, refuse):
    fill(disk, 20 * 1024)  # the journal, but not the archive beside it
    line = refuse([*words, "--embed", "-o", disk / "a.npx"])
    assert "a.npx: No space left on device" in line
    assert names(disk) == [".a.npx.journal", "ballast"]


@pytest.mark.parametrize("kind", ["pictures", "arrays"])
def test_decompress_to_a_full_disk(disk, tmp_path, refuse, kind):
    model = tiny_model("pixelcnn", (1, 16, 16), 256 if kind == "pictures" else 1000, **small).float()
    (tmp_path / "a.npx").write_bytes(compress(model, images(model, 40, (16, 40)), embed=True, verify=False))
    assert "No space left on device" in refuse(["decompress", tmp_path / "a.npx", "-o", disk / "out"])
    assert names(disk) == []


def test_read_only_folders(model, disk, words, tmp_path, refuse):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    refused = refuse([*words, "-o", disk / "a.npx"])
    assert "Read-only file system" in refused or "may not be written to" in refused
    (tmp_path / "a.npx").write_bytes(compress(model, images(model, 1), embed=True))
    assert "Read-only file system" in refuse(["decompress", tmp_path / "a.npx", "-o", disk / "out"])
    assert names(disk) == []


def test_a_folder_that_is_removed_meanwhile(model, words, tmp_path, refuse, monkeypatch):
    out, write = tmp_path / "out", Writer.write
    out.mkdir()

    def removed(self, *rest):
        data = write(self, *rest)
        shutil.rmtree(out)
        out.write_bytes(b"a file in its place")
        return data

    monkeypatch.setattr(Writer, "write", removed)
    assert "Not a directory" in refuse([*words, "-o", out / "a.npx"])
    monkeypatch.undo()
    (tmp_path / "a.npx").write_bytes(compress(model, images(model, 3), embed=True, lanes=1))
    decode, calls, folder = LaneCoder.decode, [], tmp_path / "deep"

    def decoded(self, *rest):
        calls.append(1)
        if len(calls) == 2:
            shutil.rmtree(folder)
        return decode(self, *rest)

    monkeypatch.setattr(LaneCoder, "decode", decoded)
    # Made again it would hold the later images only.
    assert "No such file or directory" in refuse(["decompress", tmp_path / "a.npx", "-o", folder / "er"])
    assert len(calls) == 2
    assert not folder.exists()
