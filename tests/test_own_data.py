"""`nextpixel data` counts what training reads; captions on sheets."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

from nextpixel import Labels
from nextpixel.cli import main
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load
from nextpixel.errors import InputError
from nextpixel.models.names import captions
from nextpixel.pictures.grid import CAPTION, save_grid


def picture(path, size=(8, 6), seed=0, colour=False):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(*size[::-1], 3) if colour else size[::-1], dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """40 pictures in two classes, of which three are copies, and two files that are no pictures."""
    for n in range(40):
        picture(tmp_path / "d" / ("cat" if n < 30 else "dog") / f"{n}.png", seed=max(n, 3))
    (tmp_path / "d" / "notes.txt").touch()
    (tmp_path / "d" / "cat" / "a.pdf").touch()
    return tmp_path / "d"


def run(capsys, *words):
    status = main(["data", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_figures_are_those_of_training(folder, capsys):
    status, out, err = run(capsys, folder, "--json")
    found, splits = json.loads(out), load(DataSettings(source=str(folder)), progress=False)
    assert status == 0
    assert err == ""
    assert found["splits"] == {name: len(splits[name]) for name in ("train", "validation", "test")}
    assert (found["images"], found["height"], found["width"], found["channels"]) == (40, 6, 8, 1)
    assert {name: sum(counts.values()) for name, counts in found["classes"].items()} == {"cat": 30, "dog": 10}
    assert found["classes"]["dog"]["test"] == int((splits.test.labels == 1).sum())
    assert found["duplicates"]["images"] == 3
    assert found["left_out"] == {".txt": 1, ".pdf": 1}
    assert found["drawn"] == ["validation", "test"]


def test_text_names_all_of_it_and_the_sheet_is_whole(folder, capsys, tmp_path):
    status, out, _ = run(capsys, folder, "--out", tmp_path / "sheet.png", "--samples", "12")
    assert status == 0
    for part in ("40 images of 6x8", "cat 30, dog 10", "3 images equal another one", "2 of 42 files left out", "256, of which"):
        assert part in out
    assert out.rstrip().endswith("sheet.png")
    assert Image.open(tmp_path / "sheet.png").size[1] > 3 * CAPTION
    assert run(capsys, folder, "--out", tmp_path / "sheet.png")[0] == 2  # it exists


def test_equal_images_across_own_splits_are_counted(tmp_path, capsys):
    for n in range(6):
        picture(tmp_path / "train" / f"{n}.png", seed=n)
        picture(tmp_path / "test" / f"{n}.png", seed=n + 4)
    _, out, _ = run(capsys, tmp_path)
    assert "2 of 6 test images equal a training image" in out


def test_pictures_of_many_sizes_are_counted_with_the_way_out(tmp_path, capsys):
    for n in range(5):
        picture(tmp_path / "d" / f"{n}.png", size=(8, 6) if n else (9, 6))
    status, out, _ = run(capsys, tmp_path / "d")
    assert status == 0
    assert "4 of 6x8, 1 of 6x9" in out
    assert "--data.size" in out
    assert run(capsys, tmp_path / "d", "--data.size", "6x6")[1].startswith(f"{tmp_path / 'd'}: 5 images of 6x6")
    status, _, err = run(capsys, tmp_path / "d", "--out", tmp_path / "s.png")
    assert status == 2
    assert err.count("\n") == 1
    assert not (tmp_path / "s.png").exists()


def test_grey_in_three_channels_is_said(tmp_path, capsys):
    for n in range(10):
        picture(tmp_path / f"{n}.png", seed=n)
        Image.open(tmp_path / f"{n}.png").convert("RGB").save(tmp_path / f"{n}.png")
    assert "--data.grayscale true" in run(capsys, tmp_path)[1]


def test_one_picture_is_shown_with_the_reason_why_it_cannot_be_trained_on(tmp_path, capsys):
    picture(tmp_path / "d" / "a.png")
    status, out, _ = run(capsys, tmp_path / "d", "--out", tmp_path / "s.png")
    assert status == 0
    assert "1 image of 6x8" in out
    assert "1 training image leaves none" in out
    assert (tmp_path / "s.png").exists()


@pytest.mark.parametrize("words", [["nowhere/"], ["digits", "--samples", "0"], ["digits", "--strict", "--data.levels", "1"]])
def test_what_cannot_be_is_one_line(words, capsys):
    status, _, err = run(capsys, *words)
    assert status == 2
    assert err.count("\n") == 1


def test_strict_refuses_what_is_left_out(folder, capsys):
    assert run(capsys, folder, "--strict")[0] == 2


def test_captions_stand_below_their_images(tmp_path):
    x = torch.zeros(4, 1, 8, 8, dtype=torch.long)
    save_grid(x, 2, tmp_path / "plain.png")
    save_grid(x, 2, tmp_path / "named.png", captions=["cat", "cat", "a very long name of a class", "\u732b"])
    plain, named = (np.asarray(Image.open(tmp_path / name)) for name in ("plain.png", "named.png"))
    assert named.shape[0] == plain.shape[0] + 2 * CAPTION
    assert named.shape[1] == plain.shape[1]
    first, second = named[66 : 66 + CAPTION, 2:66], named[66 : 66 + CAPTION, 68:132]
    assert first.min() < 128
    assert (first == second).all()
    with pytest.raises(InputError, match="3 captions for 4"):
        save_grid(x, 2, tmp_path / "a.png", captions=["a"] * 3)


def test_captions_are_the_names_of_the_classes_drawn():
    model = tiny_model("pixelcnn", condition=Labels(2))
    assert captions(model, torch.tensor([0, 1]), 4) is None  # no names
    model.class_names = ["cat", "dog"]
    assert captions(model, torch.tensor([1, 0]), 4) == ["dog", "dog", "cat", "cat"]
    assert captions(model, 1, 4) is None
    assert captions(model, None, 4) is None
