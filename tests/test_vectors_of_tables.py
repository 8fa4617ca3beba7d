"""`--data.vector a,b,c`: numbers of a table as the condition of a model."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import nextpixel
from nextpixel.cli import main
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load
from nextpixel.errors import Notice


def table(folder, rows=40, **changed):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    lines = []
    for k in range(rows):
        Image.fromarray(rng.integers(256, size=(6, 5), dtype=np.uint8)).save(folder / f"{k}.png")
        lines.append({"path": f"{k}.png", "age": k / 10, "height": -k / 20, "name": f"n{k}", **changed})
    with open(folder / "t.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return folder / "t.csv"


def test_numbers_come_with_their_images(tmp_path):
    splits = load(DataSettings(source=str(table(tmp_path / "a")), vector=["age", "Height"]))
    for name in splits:
        images = splits[name]
        _, vectors = images.__getitems__(range(len(images)))
        expected = [[int(file.split(".")[0]) / 10, -int(file.split(".")[0]) / 20] for file in images.names]
        torch.testing.assert_close(vectors, torch.tensor(expected))


def test_a_model_is_trained_on_them_and_evaluated(tmp_path, capsys):
    source, run = table(tmp_path / "a"), tmp_path / "run"
    sizes = (
        "--model.features 6 --model.blocks 1 --model.head_features 6 --training.steps 3 --training.batch_size 8 --report short"
    )
    words = f"train digits --data {source} --data.levels 4 --data.vector age,height --model.condition vector {sizes} --out {run}"
    assert main(words.split()) == 0
    model = nextpixel.load(run)
    assert (model.condition.name, model.condition.features) == ("vector", 2)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--csv", str(tmp_path / "x.csv")]) == 0
    assert "nats per image" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "changed", "message"),
    [
        ("--data.vector weight", {}, "--data.vector weight: "),
        ("--data.vector name", {}, "has 'n0' in the column name: --data.vector expects numbers"),
        ("--data.vector age", {"age": "inf"}, "has 'inf' in the column age"),
        ("--model.features 8", {}, "--model.condition vector needs numbers with each image"),
    ],
)
def test_bad_columns(tmp_path, capsys, options, changed, message):
    source = table(tmp_path / "a", 30, **changed)
    assert main(f"train digits --data {source} --model.condition vector {options} --out {tmp_path / 'run'}".split()) == 2
    *_, last = capsys.readouterr().err.splitlines()  # before it, that other columns are left alone
    assert last.startswith("nextpixel: error: ")
    assert message in last
    assert not (tmp_path / "run").exists()


def test_large_numbers_are_said(tmp_path):
    with pytest.warns(Notice, match="numbers of age are as large as 5000: scale them to about 1"):
        load(DataSettings(source=str(table(tmp_path / "a", 30, age=5000)), vector=["age"]))
