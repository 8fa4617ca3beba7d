"""The recipe for one's own pictures: what it chooses follows from the data and the time, and it trains."""

import os

import numpy as np
import pytest
from PIL import Image

from nextpixel.cli import main
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError
from nextpixel.recipes import pictures, read_experiment
from nextpixel.recipes.pictures import MOST_EPOCHS, choose


@pytest.fixture(autouse=True)
def speed(monkeypatch):
    """A machine of a known speed, in multiplications of weights a second."""
    monkeypatch.setattr(pictures, "_speed", lambda *args: 1e9)


def save(folder, number, size=(8, 8), colour=False, name="{}.png", grey=False):
    random = np.random.default_rng(number)
    for n in range(number):
        pixels = random.integers(256, size=(*size, 3) if colour else size, dtype=np.uint8)
        image = Image.fromarray(pixels)
        path = folder / name.format(n)
        os.makedirs(path.parent, exist_ok=True)
        (image.convert("RGB") if grey else image).save(path)
    return str(folder)


def chosen(source, minutes=5.0, **settings):
    return choose(DataSettings(source=source, **settings), minutes, progress=False)


def test_more_time_and_more_data_make_a_larger_model(tmp_path):
    few, many = save(tmp_path / "few", 20), save(tmp_path / "many", 200, (16, 16))
    sizes = [chosen(source, minutes).values["model"]["features"] for source, minutes in ((few, 5), (many, 0.05), (many, 60))]
    assert sizes[0] == 16
    assert sizes[1] < sizes[2]


def test_few_pictures_end_after_so_many_epochs_and_are_said_to_be_few(tmp_path):
    choice = chosen(save(tmp_path / "d", 20), 60)
    training = choice.values["training"]
    assert training["steps"] == MOST_EPOCHS * -(-choice_train(choice) // training["batch_size"])
    assert "to try things out" in choice.lines[-1]
    assert "by heart" in "".join(choice.lines)


def choice_train(choice):
    line = next(line for line in choice.lines if line.startswith("training:"))
    return int(line.split(" epochs of ")[1].split()[0])


def test_classes_are_used_where_there_are_enough_of_each(tmp_path):
    for name in ("cat", "dog"):
        save(tmp_path / "d" / name, 24)
        save(tmp_path / "small" / name, 5)
    choice = chosen(str(tmp_path / "d"))
    assert choice.values["model"]["condition"] == "labels"
    assert choice.values["training"]["condition_dropout"] == 0.1
    choice = chosen(str(tmp_path / "small"))
    assert "condition" not in choice.values["model"]
    assert any("classes are not used" in line for line in choice.lines)


def test_levels_decide_the_distribution_and_grey_in_colour_files_is_grey(tmp_path):
    assert chosen(save(tmp_path / "a", 9)).values["model"]["likelihood"] == "logistic-mixture"
    assert chosen(save(tmp_path / "b", 9), levels=4).values["model"]["likelihood"] == "categorical"
    assert chosen("digits").values["data"]["levels"] == 17
    assert chosen(save(tmp_path / "c", 9, grey=True)).values["data"]["grayscale"] is True


def test_pictures_of_several_sizes_and_kinds_are_made_alike(tmp_path):
    save(tmp_path / "d", 5, (40, 20), name="a{}.png")
    save(tmp_path / "d", 4, (60, 30), colour=True, name="b{}.png")
    choice = chosen(str(tmp_path / "d"))
    assert choice.values["data"]["size"] == (40, 20)
    assert choice.values["data"]["grayscale"] is True
    assert "2 sizes" in "".join(choice.lines)


def test_large_pictures_are_reduced_to_what_the_time_allows(tmp_path):
    folder = save(tmp_path / "d", 6, (100, 200))
    assert chosen(folder, 0.01).values["data"]["size"] == (8, 16)
    assert chosen(folder, 60).values["data"]["size"][1] == 64
    assert "size" not in chosen(folder, 60, size=(10, 10)).values["data"]


@pytest.mark.parametrize("number", [1, 2])
def test_too_few_pictures_are_one_line(tmp_path, number):
    with pytest.raises(InputError, match="too few: training, choosing and testing need three"):
        chosen(save(tmp_path / "d", number))


def test_the_command_trains_what_was_chosen_and_options_change_it(tmp_path, capsys):
    folder = save(tmp_path / "d", 12)
    words = ["train", "pictures", "--data", folder, "--minutes", "0.02", "--out", str(tmp_path / "run"), "--model.blocks", "1"]
    assert main(words) == 0
    _out, err = capsys.readouterr()
    assert "model: gated-pixelcnn of 16 features" in err
    assert "use: to try things out" in err
    experiment = read_experiment(tmp_path / "run" / "config.yaml")
    assert experiment.model["blocks"] == 1
    assert experiment.recipe == "pictures"
    assert experiment.training.minutes < 0.02
    assert (tmp_path / "run" / "report.md").is_file()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "--data FOLDER"),
        (["--data", "nowhere/"], "no file or folder"),
        (["--data", "digits", "--minutes", "0"], "--minutes is 0"),
        (["--data", "digits", "--minutes", "soon"], "expected a number"),
        (["--data", "digits", "--data.levels", "many"], "expected a whole number"),
    ],
)
def test_what_cannot_be_is_one_line(words, part, capsys):
    assert main(["train", "pictures", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert part in err


def test_minutes_are_those_of_training_in_other_recipes(tmp_path, capsys):
    words = ["train", "digits", "--minutes", "0.005", "--out", str(tmp_path / "r"), "--model.blocks", "1", "--report", "none"]
    assert main([*words, "--data.limit", "64"]) == 0
    assert read_experiment(tmp_path / "r" / "config.yaml").training.minutes == 0.005
