"""`nextpixel compare`, and figures as JSON."""

import json

import numpy as np
import pytest
import torch
from made_runs import make_run

import nextpixel
from nextpixel.cli import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    for name, seed in (("a", 1), ("b", 2)):
        model = make_run(folder / name, "pixelcnn", condition=None)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        model.save(folder / name / "model")
        (folder / name / "metrics.csv").write_text("step,train/bits_per_dim,val/bits_per_dim\n1,3,\n2,,2.5\n4,,2.1\n")
    np.savez(folder / "x.npz", images=np.random.default_rng(0).integers(model.levels, size=(30, 8, 8)), levels=model.levels)
    make_run(folder / "labelled", "pixelcnn")
    return folder


def test_differences_are_of_pairs(runs, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["compare", runs / "a", runs / "b", "--data", runs / "x.npz", "--out", out]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((out / "comparison.json").read_text())
    x = torch.from_numpy(np.load(runs / "x.npz")["images"])[:, None]
    with torch.no_grad():
        bits = [nextpixel.load(runs / name).bits_per_dim(x).double() for name in "ab"]
    for row, own in zip(rows, bits, strict=True):
        assert row["bits_per_dim"] == pytest.approx(own.mean().item(), rel=1e-5)
        assert row["standard_error"] == pytest.approx(own.std().item() / 30**0.5, rel=1e-4)
    assert rows[1]["difference"] == pytest.approx((bits[1] - bits[0]).mean().item(), rel=1e-3)
    assert rows[1]["paired_standard_error"] == pytest.approx((bits[1] - bits[0]).std().item() / 30**0.5, rel=1e-3)
    assert rows[0]["difference"] == 0
    assert "30 images; differences are to" in printed
    assert (out / "curves.png").stat().st_size > 1000


def test_names_and_own_data(capsys):
    assert main(["compare", "digits", "digits", "--most", "20", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["difference"] for row in rows] == [0, 0]
    assert rows[0]["images"] == 20


def test_what_cannot_be_compared(runs, tmp_path, refuse):
    assert "expected at least two runs" in refuse(["compare", runs / "a"])
    other = nextpixel.PixelCNN((3, 8, 8), levels=4, features=6, blocks=1)
    (tmp_path / "c").mkdir()
    other.save(tmp_path / "c" / "model")
    (tmp_path / "c" / "config.yaml").write_text((runs / "a" / "config.yaml").read_text())
    assert "nothing to compare" in refuse(["compare", runs / "a", tmp_path / "c"])
    assert "nowhere does not exist" in refuse(["compare", runs / "a", "nowhere"])
    assert "--most is 0" in refuse(["compare", runs / "a", runs / "b", "--most", 0])
