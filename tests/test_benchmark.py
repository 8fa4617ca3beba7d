"""The benchmark: what it counts is counted right, its figures follow from its rounds, and its files can be read."""

import json
import math

import pytest
import torch
from PIL import Image
from tiny import tiny_model

import nextpixel
from nextpixel.bench import report, suite
from nextpixel.bench.suite import naive_places
from nextpixel.cli import main
from nextpixel.errors import InputError
from nextpixel.machine import count_flops, peak, timed


def times(**changes):
    values = {"forward": [1.0, 2.0, 4.0], "cached": [2.0, 2.0, 12.0], "naive": [200.0, 100.0, 600.0], "flops": 10, "peak": 20.0}
    return suite.Times(**{"label": "m", "parameters": 3, "shape": (1, 8, 8), "batch": 4, **values, **changes})


def test_flops_are_those_of_the_convolutions_by_hand():
    model = nextpixel.GatedPixelCNN((1, 5, 6), levels=3, features=4, blocks=1, first_kernel_size=3, head_features=7)
    with torch.inference_mode():
        counted = count_flops(lambda: model(torch.zeros(2, 1, 5, 6, dtype=torch.long)))
    # One row of three above and the link to it, two places of the row itself, the way out, the head.
    places, last = 2 * 5 * 6, model.likelihood.params
    assert counted == 2 * places * (3 * 8 + 8 * 8 + 2 * 8 + 4 * 4 + 4 * 7 + 7 * last)


@pytest.mark.parametrize("name", list(nextpixel.MODELS))
def test_every_architecture_has_flops_forwards_and_more_of_them_backwards(name):
    model = tiny_model(name, (1, 6, 6))
    x = torch.zeros(2, 1, 6, 6, dtype=torch.long)
    forward = count_flops(lambda: model(x))
    both = count_flops(lambda: model(x).sum().backward())
    assert forward > 2 * 72
    assert 2 * forward < both < 3.5 * forward


def test_the_peak_is_that_of_a_product(monkeypatch):
    seconds = iter([0.5, 0.1, 0.4])
    monkeypatch.setattr("nextpixel.machine.timed", lambda function, device: function() is not None and next(seconds))
    assert peak(torch.float32, n=8, rounds=3) == pytest.approx(2 * 8**3 / 0.4)


def test_figures_follow_from_the_rounds():
    found = times()
    assert found.passes == 2  # the median of 2, 1 and 3, not the ratio of the medians, which is 1
    assert found.speed_up == 50
    assert found.over_floor == 2.0 / (10 / 20)
    assert found.share_of_peak == 10 / 2.0 / 20
    step = suite.Step("m", batch=4, precision="32-true", flops=100, peak=200.0, seconds=[1.0, 3.0, 2.0])
    assert (step.milliseconds_per_image, step.flops_per_second) == (500, 50)
    plain = suite.as_plain(found)
    assert (plain["passes"], plain["cached"]) == (2, [2.0, 2.0, 12.0])
    assert "speed_up" not in suite.as_plain(times(naive=[]))
    compiled = times(compiled=[1.0, 1.0, 1.0])
    assert (compiled.passes, compiled.speed_up, compiled.over_floor) == (0.5, 200, 1.0 / (10 / 20))


def test_rows_have_a_cell_for_each_column():
    assert len(report.sampling_rows([times()])[0]) == len(report.SAMPLING) == len(report.sampling_rows([times(naive=[])])[0])
    assert report.sampling_rows([times()])[0] == ("m", "4", "2.0000", "25%", "2.0000", "", "2.00", "4.00", "200.0", "50")
    assert report.size_rows([times()])[0] == ("m", "4", "8x8", "2.0000", "2.0000", "", "2.00", "200.0")
    assert report.size_rows([times(compiled=[1.0] * 3)])[0] == ("m", "4", "8x8", "2.0000", "2.0000", "1.0000", "0.50", "200.0")
    assert len(report.size_rows([times()])[0]) == len(report.SIZES)
    step = suite.Step("m", batch=4, precision="32-true", flops=4 * 10**9, peak=4e9, seconds=[2.0])
    assert report.training_rows([step])[0] == ("m", "4", "32-true", "500.00", "2", "50%")


@pytest.mark.parametrize("name", list(nextpixel.MODELS))
def test_the_slice_of_the_naive_sampler_runs_as_many_forward_passes_as_the_sampler(name):
    model, passes = tiny_model(name, (3, 4, 4)), []
    network = model.network
    model.network = lambda *args: passes.append(1) or network(*args)
    model.sample(1, method="naive")
    whole = len(passes)
    passes.clear()
    naive_places(model, 1, places=16)
    assert len(passes) >= 16
    # A multi-scale scan steps over places of coarser grids again.
    assert whole >= len(passes) if name == "multiscale" else whole == len(passes)


def test_seconds_are_those_of_each_work_and_the_naive_slice_stands_for_all_places(monkeypatch):
    seconds = {"forward": 1.0, "cached": 3.0, "compiled": 2.0, "naive": 0.5}
    monkeypatch.setattr(suite, "timed", lambda function, device: next(of_name))
    of_name = iter([*seconds.values()] * 3)
    case = suite.cases(["pixelcnn"], "tiny", size=(4, 6))[0]
    (found,) = suite.measure_sampling(case, [2], rounds=2, places=4)
    assert (found.forward, found.cached, found.compiled) == ([1.0] * 2, [3.0] * 2, [2.0] * 2)
    assert found.naive == [0.5 * 24 / 4] * 2
    assert found.shape == (1, 4, 6)


def test_timing_calls_once_and_measures():
    calls = []
    assert 0 <= timed(lambda: calls.append(1)) < 1
    assert calls == [1]


def test_cases():
    names = [case.name for case in suite.cases([])]
    assert names == list(nextpixel.MODELS)
    assert all(case.settings["shape"][1:] == (5, 7) for case in suite.cases([], preset="tiny", size=(5, 7)))
    assert suite.cases(["pixelcnn++"], "paper")[0].settings == nextpixel.PixelCNNpp.presets["paper"]
    with pytest.raises(InputError, match="unknown model 'pixelcnm': expected one of pixelcnn"):
        suite.cases(["pixelcnm"])
    with pytest.raises(InputError, match=r"pixelcnn has no preset 'mnis': expected one of .*mnist"):
        suite.cases(["pixelcnn"], "mnis")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_training_step_trains(precision, monkeypatch):
    monkeypatch.setattr(suite, "precision", lambda settings: precision)
    kept = []

    def optimise(model, settings):
        kept.append(model)
        kept.append([p.detach().clone() for p in model.parameters()])
        return torch.optim.SGD(model.parameters(), 0.1)

    monkeypatch.setattr(suite, "optimise", optimise)
    step = suite.measure_training(suite.cases(["pixelcnn"], "tiny")[0], batch=3, rounds=2)
    assert (step.precision, step.batch, len(step.seconds)) == (precision, 3, 2)
    model, before = kept
    assert all((a != b).any() for a, b in zip(model.parameters(), before, strict=True))
    assert step.flops > 2 * suite.measure_sampling(suite.cases(["pixelcnn"], "tiny")[0], [3], 1, naive=False).__next__().flops


def test_the_verb_from_end_to_end(tmp_path, capsys):
    options = "--preset tiny --batch [1,3] --training_batch 4 --sizes [4,6] --size_batch 2 --rounds 2"
    assert main(f"bench pixelcnn row-lstm {options} --out {tmp_path / 'b'}".split()) == 0
    printed = capsys.readouterr().out
    for words in (
        "GFLOP/s in bf16",
        "pixelcnn tiny   batch 3",
        "over floor",
        "speed-up",
        "ms per image",
        "image 6x6",
        "bench.md",
    ):
        assert words in printed
    found = json.loads((tmp_path / "b" / "bench.json").read_text())
    assert [(line["label"], line["batch"], len(line["cached"])) for line in found["sampling"]] == [
        (f"{name} tiny", batch, 2) for name in ("pixelcnn", "row-lstm") for batch in (1, 3)
    ]
    assert [line["shape"] for line in found["sizes"]] == [[1, 4, 4], [1, 6, 6]] * 2
    assert all(line["naive"][0] > 0 and math.isfinite(line["speed_up"]) for line in found["sampling"])
    assert len(found["training"]) == 2
    table = (tmp_path / "b" / "bench.md").read_text()
    assert table.count("| pixelcnn tiny |") == 5
    for name in ("bench", "sizes"):
        assert min(Image.open(tmp_path / "b" / f"{name}.png").size) > 200


def test_without_naive_sampler_and_training(tmp_path):
    command = "bench pixelcnn --preset tiny --batch [2] --training_batch 0 --rounds 1 --no_naive --size 3x4"
    assert main([*command.split(), "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    assert (found["training"], found["sizes"], found["sampling"][0]["shape"]) == ([], [], [1, 3, 4])
    assert not (tmp_path / "sizes.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("nothing", "unknown model 'nothing'"),
        ("pixelcnn --preset paper", "pixelcnn has no preset 'paper'"),
        ("pixelcnn --rounds 0", "--rounds is 0: expected from 1 to 16384"),
        ("pixelcnn --batch [0]", r"--batch is [0]: expected numbers from 1 to 16384"),
        ("pixelcnn --size 3", "is no pair of numbers"),
    ],
)
def test_bad_commands(options, message, tmp_path, capsys):
    assert main([*f"bench {options}".split(), "--out", str(tmp_path / "b")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "b").exists()
