"""Models in the package, by name: every verb takes them, their files are checked, and a folder of that name comes first."""

import json
import shutil

import numpy as np
import pytest
import torch

import nextpixel
from nextpixel import bundled
from nextpixel.cli import main
from nextpixel.errors import InputError, Notice

NAMES = bundled.list_models()


def test_some_are_there():
    assert {"digits", "digits-class"} <= set(NAMES)
    assert nextpixel.list_models("digits*") == ["digits", "digits-class"]
    assert nextpixel.list_models("*nothing*") == []


@pytest.mark.parametrize("name", NAMES)
def test_each_loads_draws_and_has_facts_that_are_its_own(name):
    facts, model = bundled.facts(name), nextpixel.load(name)
    assert (facts.architecture, facts.parameters) == (model.name, sum(p.numel() for p in model.parameters()))
    assert 0 < facts.steps <= facts.of
    assert facts.figure > 0 < facts.standard_error
    card = (bundled.HOME / name / "model" / "README.md").read_text(encoding="utf-8")
    for text in (facts.command, facts.data, facts.licence, f"{facts.figure} ± {facts.standard_error}", facts.not_for):
        assert text in card
    cond = None if model.condition is None or model.condition.source != "label" else 1
    assert model.sample(2, cond, size=(4, 5)).shape == (2, model.shape[0], 4, 5)
    config = (bundled.HOME / name / "config.yaml").read_text(encoding="utf-8")
    assert "/" not in config.split("source:")[1].split("\n")[0].replace("ylecun/", "").replace("uoft-cs/", "")


def test_together_they_are_small():
    assert sum(bundled.facts(name).bytes for name in NAMES) < 45e6


def test_digits_is_evaluated_to_its_figure(capsys):
    assert main(["evaluate", "digits"]) == 0
    out = capsys.readouterr().out
    facts = bundled.facts("digits")
    found = float(next(line for line in out.splitlines() if line.split()[:1] == ["test"]).split()[1])
    assert found == pytest.approx(facts.figure, abs=2e-4)


def test_verbs_take_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "digits-class", "--label", "3", "-n", "2", "--out", "a.npy"]) == 0
    model = nextpixel.load("digits-class")
    np.testing.assert_array_equal(np.load("a.npy"), model.sample(2, 3).numpy())
    assert main(["complete", "digits", "--image", "a.npy", "-n", "2", "--known", "top:0.5", "--out", "b.npy"]) == 0
    assert main(["interpolate", "digits-class", "--from", "1", "--to", "2", "-n", "1", "--steps", "2", "--out", "c.npy"]) == 0
    assert main(["compress", "digits", "a.npy", "--out", "d.npx"]) == 0
    assert main(["decompress", "d.npx", "--model", "digits", "--out", "e"]) == 0
    assert len(list(tmp_path.glob("e/*.png"))) == 2
    assert main(["inspect", "digits", "--out", "f.png"]) == 0


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = nextpixel.PixelCNN((1, 4, 4), levels=2, features=4, blocks=1)
    own.save("digits")
    with pytest.warns(Notice, match="digits is the folder here, not the bundled model of that name"):
        assert nextpixel.load("digits").name == "pixelcnn"
    assert main(["sample", "digits", "-n", "2", "--out", "a.npy"]) == 0
    assert capsys.readouterr().err.count("digits is the folder here") == 1
    np.testing.assert_array_equal(np.load("a.npy"), nextpixel.load("./digits").sample(2).numpy())


@pytest.mark.parametrize("verb", ["sample", "evaluate", "complete --image a.npy", "compress"])
def test_an_unknown_name_has_its_nearest(verb, tmp_path, monkeypatch, refuse):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.zeros((1, 8, 8), int))
    first, *rest = verb.split()
    further = ["a.npy", "--out", "x.npx"] if first == "compress" else []
    refused = refuse([first, "digit-class", *rest, *further])
    assert "digit-class does not exist" in refused
    assert "nearest: digits-class, digits" in refused


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    home = tmp_path / "bundled"
    shutil.copytree(bundled.HOME / "digits", home / "digits")
    monkeypatch.setattr(bundled, "HOME", home)
    assert nextpixel.load("digits").name == "gated-pixelcnn"
    weights = home / "digits" / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match=r"model.safetensors has been changed \(SHA-256 is another\)"):
        nextpixel.load("digits")
    weights.unlink()
    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors of the bundled model digits: No such file"):
        nextpixel.load("digits")


def test_the_verb_models(tmp_path, capsys, refuse):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for name in NAMES:
        assert name in out
    assert main(["models", "*class", "--json", "-"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == nextpixel.list_models("*class")
    assert listed[0]["bytes"] > 1e4
    assert main(["models", "--json", str(tmp_path / "x.json")]) == 0
    assert len(json.loads((tmp_path / "x.json").read_text())) == len(NAMES)
    assert "exists" in refuse(["models", "--json", tmp_path / "x.json"])
    assert "no bundled model fits digit (nearest: digits, digits-class" in refuse(["models", "digit"])


def test_a_training_begins_with_a_bundled_model(tmp_path, capsys):
    tiny = "--training.steps 2 --training.batch_size 8 --data.limit 32 --report none"
    assert main(f"train digits-class --training.start digits {tiny} --out {tmp_path / 'run'}".split()) == 0
    assert "of 57 weights of digits (96% of the numbers)" in capsys.readouterr().out
    assert torch.isfinite(nextpixel.load(tmp_path / "run").log_prob(torch.zeros(1, 1, 8, 8, dtype=torch.long), 1)).all()
