"""Training: schedule and averages by their formulas, and whole runs from a recipe to a report."""

import itertools
import json
import math
import multiprocessing
import os
import re
import shutil
import time
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from runs import column, experiment, interrupted, last, quiet, raised_at, same_bits

import nextpixel
from nextpixel.data.images import Images
from nextpixel.data.splits import load
from nextpixel.errors import InputError
from nextpixel.identities.images import EmbeddedImages
from nextpixel.identities.triplets import build_embedding
from nextpixel.layers.pointwise import dropout
from nextpixel.likelihood_run import INITIAL_IMAGES, begin_with, build, train
from nextpixel.machine import count_flops
from nextpixel.models import MODELS
from nextpixel.models.pixelcnn_pp import PixelCNNpp
from nextpixel.models.start import start_head
from nextpixel.recipes import KINDS, make_experiment, read_config, read_experiment, read_recipe, recipe_names
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.reports.report import draw_curve, read_curve
from nextpixel.training import loop as loops
from nextpixel.training import metrics
from nextpixel.training.objective import Likelihood
from nextpixel.training.optimisation import Average, learning_rate_factor
from nextpixel.training.processes import precision


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    return train(experiment(), out, console=quiet()), out


def test_a_run_of_three_steps_has_a_curve_too(tmp_path):
    tiny = experiment(epochs=3, batch_size=2000, warmup=0)
    train(tiny, tmp_path / "run", console=quiet(), report="short")
    assert len(column(tmp_path / "run", "train/bits_per_dim")) == 1
    assert (tmp_path / "run" / "samples" / "curve.png").stat().st_size > 0


def test_a_run_leaves_everything_behind(finished):
    _, out = finished
    for name in ("config.yaml", "metrics.csv", "report.md", "marginal.npz", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (out / name).stat().st_size > 0
    for name in ("samples", "completions", "epoch-0001", "epoch-0002"):
        assert Image.open(out / "samples" / f"{name}.png").size[0] >= 64
    assert not list(out.rglob("*.partial*"))
    assert len(column(out, "val/bits_per_dim")) == 2
    assert column(out, "step") == [9, 19, 29, 39, 43, 49, 59, 69, 79, 87]
    assert json.loads((out / "progress.json").read_text(encoding="utf-8"))["finished"] is True


def test_training_learns_and_the_report_says_so(finished):
    result, out = finished
    assert result.test.bits_per_dim < 0.8 < {b.name: b.bits_per_dim for b in result.baselines}["uniform"]
    report = (out / "report.md").read_text()
    assert f"{result.test.bits_per_dim:.4f} ± " in report
    assert "test, weights not averaged" in report
    assert "thresholded" in report
    assert "thresholded" in (out / "model" / "README.md").read_text()


def test_the_saved_model_is_the_evaluated_one(finished):
    result, out = finished
    model = nextpixel.load(out)
    images = load(read_experiment(out / "config.yaml").data).test
    nats = -model.log_prob(images.tensor())
    assert nats.mean().item() == pytest.approx(result.test.nats_per_image, rel=1e-5)


def test_the_config_reproduces_the_run(finished, tmp_path):
    _, out = finished
    again = read_experiment(out / "config.yaml")
    train(again, tmp_path / "again", console=quiet(), report="none")
    assert column(tmp_path / "again", "train/bits_per_dim") == pytest.approx(column(out, "train/bits_per_dim"), rel=1e-4)


def test_resuming_a_finished_run_changes_nothing_but_more_epochs_do(finished, tmp_path):
    out = tmp_path / "run"
    whole = {"schedule": "constant", "epochs": 1, "sample_every": 0}
    train(experiment(**whole), out, console=quiet(), report="none")
    before = last(out)
    train(experiment(**whole), out, resume=True, console=quiet(), report="none")
    assert same_bits(before, last(out))
    train(experiment(**{**whole, "epochs": 2}), out, resume=True, console=quiet(), report="none")
    assert len(column(out, "val/bits_per_dim")) == 2
    (out / "report.md").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"the run is finished .epoch 2 of 2.: give more --training.epochs"):
        train(experiment(**{**whole, "epochs": 2}), out, resume=True, console=quiet())
    straight = tmp_path / "straight"
    train(experiment(**{**whole, "epochs": 2}), straight, console=quiet(), report="none")
    assert same_bits(last(out), last(straight))


def test_a_finished_run_whose_best_epoch_is_long_past_goes_on_where_it_ended(tmp_path, monkeypatch):
    out, values = tmp_path / "run", iter((0.5, 0.7, 0.8, 0.9))
    monkeypatch.setattr(Likelihood, "validate", lambda *_: {"val/bits_per_dim": next(values)})
    train(experiment(epochs=3, sample_every=0), out, console=quiet(), report="none")
    assert last(out)["place"]["epoch"] == 3
    assert torch.load(out / "checkpoints" / "best.ckpt", weights_only=True)["words"] == "epoch 1 of 3"
    train(experiment(epochs=4, sample_every=0), out, resume=True, console=quiet(), report="none")
    assert column(out, "val/bits_per_dim") == [0.5, 0.7, 0.8, 0.9]


def test_a_run_has_a_model_from_its_first_checkpoint_on_and_says_that_it_is_not_finished(tmp_path, monkeypatch):
    out, real = tmp_path / "run", Likelihood.forward

    def forward(self, batch):
        progress = json.loads((out / "progress.json").read_text(encoding="utf-8"))
        assert progress["finished"] is False
        assert progress["step"] in (0, 44)
        assert nextpixel.load(out).name == "gated-pixelcnn"
        return real(self, batch)

    monkeypatch.setattr(Likelihood, "forward", forward)
    train(experiment(epochs=2, sample_every=0), out, console=quiet(), report="none")
    assert json.loads((out / "progress.json").read_text(encoding="utf-8"))["finished"] is True


# --- budgets -----------------------------------------------------------------------------------------------------------------


def test_a_run_of_some_steps_ends_within_an_epoch_and_validates_there(tmp_path):
    out = tmp_path / "run"
    train(experiment(steps=50, sample_every=0), out, console=quiet(), report="none")
    state = last(out)
    assert (state["place"]["step"], state["place"]["epoch"], state["place"]["batch"]) == (50, 1, 6)
    assert len(column(out, "val/bits_per_dim")) == 2
    assert column(out, "lr")[-1] < 1e-3 * 0.02 * 2  # the schedule ends where the run ends


def test_a_run_of_some_minutes_ends_with_them_and_its_schedule_too(tmp_path):
    out, begun = tmp_path / "run", time.monotonic()
    train(experiment(minutes=0.05, sample_every=0), out, console=quiet(), report="none")
    assert time.monotonic() - begun > 3
    assert len(column(out, "val/bits_per_dim")) >= 1
    assert column(out, "lr")[-1] < 0.3 * max(column(out, "lr"))
    state = last(out)
    assert state["elapsed"] >= 3
    train(experiment(minutes=0.05, sample_every=0), out, resume=True, console=quiet(), report="none")
    assert same_bits(state, last(out))


def test_the_learning_rate_of_a_run_by_the_clock():
    settings = TrainingSettings(warmup=100, schedule="cosine")
    assert learning_rate_factor(settings, 0, None, 100, done=0.0) == pytest.approx(0.01)
    assert learning_rate_factor(settings, 9, None, 100, done=0.25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate_factor(settings, 500, None, 100, done=1.0) == 0


def test_settings_that_do_not_fit_a_short_run_adapt_with_a_word(tmp_path):
    console = Console(record=True, file=open(os.devnull, "w"), width=200)  # noqa: SIM115
    short = experiment(epochs=1, eval_every=2, sample_every=3, warmup=500)
    train(short, tmp_path / "run", console=console, report="none")
    text = console.export_text()
    assert "the warm-up takes 11 steps instead of 500" in text
    assert "validation comes once, at the end: --training.eval_every is 2, of 1 epochs" in text
    assert len(column(tmp_path / "run", "val/bits_per_dim")) == 1


def test_checkpoints_come_by_the_clock(tmp_path, monkeypatch):
    saved, real = [], loops.write_checkpoint

    def write_checkpoint(path, state):
        saved.append(state["place"]["step"] if path.name == "last.ckpt" else None)
        real(path, state)

    monkeypatch.setattr(loops, "write_checkpoint", write_checkpoint)
    train(experiment(epochs=1, save_every=1e-9, sample_every=0), tmp_path / "run", console=quiet(), report="none")
    assert set(range(44)) <= set(saved)


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_that_load_data_change_nothing(workers, tmp_path):
    data = {"flip": True, "binarize": "stochastic", "limit": 320}
    runs = [tmp_path / str(number) for number in (0, workers)]
    for out, number in zip(runs, (0, workers), strict=True):
        train(experiment(data=data, epochs=2, sample_every=0, workers=number), out, console=quiet(), report="none")
    assert same_bits(*map(last, runs))
    assert not multiprocessing.active_children()


def test_processes_that_load_data_end_with_an_interrupted_run(tmp_path, monkeypatch):
    with raised_at(monkeypatch, Likelihood, "forward", 3):
        interrupted(experiment(workers=2, data={"limit": 320}), tmp_path / "run")
    assert not multiprocessing.active_children()


def test_a_run_is_logged_where_it_is_asked_for(tmp_path, monkeypatch):
    train(experiment(epochs=1, sample_every=0, log="tensorboard"), tmp_path / "run", console=quiet(), report="none")
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    monkeypatch.setitem(metrics.LOGGERS, "wandb", "no_such_package")
    with pytest.raises(InputError, match=r"--training.log wandb needs the package no_such_package: pip install"):
        train(experiment(log="wandb"), tmp_path / "other", console=quiet())


def test_a_checkpoint_of_another_architecture_is_refused(finished, tmp_path):
    _, out = finished
    for other in (experiment("pixelcnn", epochs=3), experiment(epochs=3)):
        other.model["features"] = 9
        with pytest.raises(InputError, match=r"last.ckpt (is of another architecture|has .* expects)"):
            train(other, out, resume=True, console=quiet())


def test_an_infinite_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    real, calls = Likelihood.forward, iter(range(1000))

    def forward(self, batch):
        if next(calls) == 50:
            with torch.no_grad():
                next(self.network.parameters()).fill_(math.nan)
        return real(self, batch)

    monkeypatch.setattr(Likelihood, "forward", forward)
    with pytest.raises(
        InputError, match=r"the loss is nan at step 50: training stopped; .*last.ckpt is the last good checkpoint"
    ):
        train(experiment(sample_every=0), tmp_path / "run", console=quiet())
    state = last(tmp_path / "run")
    assert state["place"]["step"] == 44
    assert all(weight.isfinite().all() for weight in state["weights"].values())


def test_a_full_folder_is_not_overwritten(finished, tmp_path):
    _, out = finished
    with pytest.raises(InputError, match="is not empty: give another folder, or --resume"):
        train(experiment(), out, console=quiet())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: expected a folder"):
        train(experiment(), tmp_path / "file", console=quiet())
    with pytest.raises(InputError, match="cannot be written to"):
        train(experiment(), tmp_path / "file" / "below", console=quiet())


@pytest.mark.parametrize(("name", "condition"), list(zip(nextpixel.MODELS, itertools.cycle([None, "labels"]), strict=False)))
def test_every_architecture_trains(name, condition, tmp_path):
    tiny = experiment(name, epochs=1, ema=0.0, precision="float32", sample_every=0)
    tiny.model["condition"] = condition
    result = train(tiny, tmp_path / name, console=quiet(), report="short")
    assert result.test_last_weights is None
    assert result.test.bits_per_dim < 0.8
    assert json.loads((tmp_path / name / "model" / "config.json").read_text())["model"] == name


# --- stages, one by one ----------------------------------------------------------------------------------------------------


def in_stages(**training):
    return experiment("multiscale", **{"epochs": 1, "precision": "float32", "sample_every": 0, **training})


def untrained(whole):
    return build(whole, load(whole.data).train)


def weights_of(out):
    return nextpixel.load(out).state_dict()


def of_stage(weights, k):
    return {key: value for key, value in weights.items() if key.startswith((f"networks.{k}.", f"upsamplers.{k - 1}."))}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_stages_train_one_by_one(ema, tmp_path):
    first = train(in_stages(stage=0, ema=ema), tmp_path / "first", console=quiet(), report="short")
    start = str(tmp_path / "first")
    second = train(in_stages(stage=1, start=start, ema=ema), tmp_path / "second", console=quiet(), report="short")
    torch.manual_seed(0)
    begun = untrained(in_stages())
    start_head(begun, load(in_stages().data).train.tensor())
    fresh, one, two = begun.state_dict(), weights_of(tmp_path / "first"), weights_of(tmp_path / "second")
    assert fresh.keys() == one.keys() == two.keys() == of_stage(one, 0).keys() | of_stage(one, 1).keys()
    for key in of_stage(one, 0):
        assert not torch.equal(one[key], fresh[key])
        assert torch.equal(two[key], one[key]), f"training stage 1 has changed {key}"
    for key in of_stage(one, 1):
        assert torch.equal(one[key], fresh[key]), f"training stage 0 has changed {key}"
        assert not torch.equal(two[key], one[key])

    # The figure of a run of one stage is its share, and the report's that of the whole image.
    images = load(in_stages().data)
    model, x = nextpixel.load(tmp_path / "second"), images.validation.tensor()
    with torch.no_grad():
        shares = -model.log_prob_by_stage(x).mean(0) / (64 * math.log(2))
        whole = model.bits_per_dim(x).mean()
    assert column(tmp_path / "first", "val/bits_per_dim") == pytest.approx([shares[0].item()], rel=1e-4)
    assert column(tmp_path / "second", "val/bits_per_dim") == pytest.approx([shares[1].item()], rel=1e-4)
    assert shares.sum().item() == pytest.approx(whole.item(), rel=1e-5)
    nats = -model.log_prob(images.test.tensor())
    assert second.test.nats_per_image == pytest.approx(nats.mean().item(), rel=1e-5)
    assert second.test.bits_per_dim < first.test.bits_per_dim
    assert re.search(rf"Training: stage 1 alone, beginning with the weights of {start}, ", (second.out / "report.md").read_text())


@pytest.mark.parametrize("inputs", ["intensity", "embedding"])
def test_the_losses_of_the_stages_add_up_to_the_whole(inputs):
    settings = in_stages()
    settings.model["inputs"] = inputs
    batch = load(settings.data).train.__getitems__(list(range(16)))

    def loss(stage):
        torch.manual_seed(0)
        module = Likelihood(untrained(settings), TrainingSettings(stage=stage))
        value = module.bits_per_dim(batch)
        value.backward()
        return value.item(), {name: p.grad for name, p in module.network.named_parameters() if p.grad is not None}

    (whole, gradients), (first, of_first), (second, of_second) = loss(None), loss(0), loss(1)
    assert first + second == pytest.approx(whole, rel=1e-6)
    assert first > 0.1
    assert second > 0.1
    # What one stage trains, the other does not: the table of embeddings, which both read, is the first one's.
    assert not of_first.keys() & of_second.keys()
    assert {**of_first, **of_second}.keys() == gradients.keys()
    table = {name for name in gradients if name.startswith("encode")}
    assert len(table) == (inputs == "embedding")
    assert table <= of_first.keys()
    for name, gradient in {**of_first, **of_second}.items():
        if name not in table:
            torch.testing.assert_close(gradient, gradients[name])


def test_a_run_of_one_stage_goes_on_after_ctrl_c(tmp_path, monkeypatch):
    out, start = tmp_path / "run", tmp_path / "start"
    untrained(in_stages()).save(start)
    with raised_at(monkeypatch, Likelihood, "forward", 7):
        interrupted(in_stages(stage=1, start=str(start)), out)
    begun = nextpixel.load(start).state_dict()
    shutil.rmtree(start)  # which a run that goes on does not read again
    train(read_experiment(out / "config.yaml"), out, resume=True, console=quiet(), report="none")
    assert all(torch.equal(weights_of(out)[key], value) for key, value in of_stage(begun, 0).items())


def test_any_model_may_begin_with_the_weights_of_another(finished, tmp_path):
    _, out = finished
    begun = weights_of(out)
    model = untrained(experiment())
    begin_with(model, str(out))
    assert all(torch.equal(value, begun[key]) for key, value in model.state_dict().items())
    result = train(
        experiment(epochs=1, start=str(out), lr=1e-9, ema=0.0, sample_every=0), tmp_path / "run", console=quiet(), report="short"
    )
    assert result.test.bits_per_dim == pytest.approx(finished[0].test.bits_per_dim, abs=1e-4)
    larger = MODELS["gated-pixelcnn"](**{**model.config, "shape": (1, 9, 7)})
    begin_with(larger, str(out))
    assert all(torch.equal(value, begun[key]) for key, value in larger.state_dict().items())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gated-pixelcnn", {"stage": 0}, r"--training.stage is 0, but this gated-pixelcnn has no stages"),
        ("multiscale", {"stage": 2}, r"--training.stage is 2, but this multiscale has the stages 0 to 1"),
        ("multiscale", {"stage": -1}, r"--training.stage is -1: expected at least 0"),
        ("gated-pixelcnn", {"start": "nowhere"}, r"nowhere does not exist: expected a model's folder"),
    ],
)
def test_stages_and_starts_that_are_refused(name, settings, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        train(experiment(name, **settings), tmp_path / "run", console=quiet())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_start_of_another_architecture_is_refused(finished):
    out = str(finished[1])
    with pytest.raises(InputError, match=rf"--training.start {out} is a gated-pixelcnn, but this run trains a pixelcnn"):
        begin_with(untrained(experiment("pixelcnn")), out)
    config = nextpixel.load(out).config
    alone = MODELS["gated-pixelcnn"](**{**config, "features": 24, "blocks": 1, "head_features": 7, "first_kernel_size": 3})
    with pytest.raises(InputError, match=rf"--training.start {out}: none of its weights fits this gated-pixelcnn"):
        begin_with(alone, out)


@pytest.mark.parametrize("changes", [{}, {"levels": 3}, {"shape": (3, 8, 8)}, {"blocks": 4}, {"condition": nextpixel.Labels(4)}])
def test_a_start_gives_the_weights_that_fit_and_says_which(finished, changes):
    out = str(finished[1])
    other = nextpixel.load(out)
    model = MODELS["gated-pixelcnn"](**{**other.config, **changes})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    line = begin_with(model, out)
    given = other.state_dict()
    taken = [name for name, value in before.items() if name in given and given[name].shape == value.shape]
    for name, value in model.state_dict().items():
        assert torch.equal(value, given[name] if name in taken else before[name])
    if changes:
        left = next(name for name in before if name not in taken)
        assert f"begins with {len(taken)} of {len(before)} weights of {out} (" in line
        assert f"anew: {left}" in line
    else:
        assert line == f"begins with the weights of {out}"


def test_data_dependent_initialisation_comes_first_and_is_not_repeated(tmp_path, monkeypatch):
    real, initialised, starts = PixelCNNpp.initialise, [], []

    def initialise(self, x, cond=None):
        assert (self.first.u.gain == 1).all()
        real(self, x, cond)
        initialised.append((x, cond, self.first.u.gain.tolist()))

    real_begin = loops.Loop._begin

    @torch.no_grad()
    def begin(self, state):
        real_begin(self, state)
        (x, cond, _), model = initialised[0], self.objective.network
        starts.append((model.first.u.gain.tolist(), model.bits_per_dim(x, cond).mean().item()))

    def conditional(epochs):
        whole = experiment("pixelcnn++", epochs=epochs, batch_size=64, sample_every=0, precision="float32", schedule="constant")
        whole.model["condition"] = "labels"
        return whole

    monkeypatch.setattr(PixelCNNpp, "initialise", initialise)
    monkeypatch.setattr(loops.Loop, "_begin", begin)
    out = tmp_path / "run"
    result = train(conditional(1), out, console=quiet(), report="short")
    x, labels, gain = initialised[0]
    images = load(conditional(1).data).train
    spread = images.__getitems__([k * len(images) // INITIAL_IMAGES for k in range(INITIAL_IMAGES)])
    assert torch.equal(x, spread[0])
    assert torch.equal(labels, spread[1])
    assert len(starts) == 1
    assert starts[0][0] == gain
    assert 1 not in gain

    assert result.test.bits_per_dim < starts[0][1] - 0.1
    assert result.test_last_weights.bits_per_dim < starts[0][1] - 0.1
    report = (out / "report.md").read_text()
    for name, likelihood in (("averaged weights", result.test), ("weights not averaged", result.test_last_weights)):
        assert re.search(rf"test, {name}.* {likelihood.bits_per_dim:.4f} ± ", report)

    # A model that goes on is not initialised again, but starts where it had ended.
    result = train(conditional(2), out, resume=True, console=quiet(), report="short")
    assert len(initialised) == 1
    assert len(starts) == 2
    assert starts[1][1] < starts[0][1] - 0.1
    assert len(column(out, "val/bits_per_dim")) == 2
    losses = column(out, "train/bits_per_dim")
    assert losses[-1] < losses[0]


def test_the_average_follows_its_formula():
    torch.manual_seed(0)
    module = torch.nn.BatchNorm1d(2)  # has buffers, which are copied
    average = Average(module, decay=0.5)
    expected = None
    for n in range(12):
        with torch.no_grad():
            module.weight.normal_()
            module.running_mean.normal_()
        average.update(module)
        decay = min(0.5, (1 + n) / (10 + n)) if n else 0
        expected = module.weight.detach() * (1 - decay) + (decay * expected if n else 0)
        assert torch.equal(average.network.running_mean, module.running_mean)
    torch.testing.assert_close(average.network.weight, expected)
    assert not average.network.training
    assert not average.network.weight.requires_grad
    again = Average(module, decay=0.5)
    again.load_state_dict(average.state_dict())
    assert again.updates == 12
    assert torch.equal(again.network.weight, average.network.weight)


def test_accumulated_batches_take_the_steps_of_large_ones(tmp_path):
    # 1437 images: 22 steps of 64, in one batch or in two.
    weights = []
    for size, accumulate in ((64, 1), (32, 2)):
        out = tmp_path / f"{accumulate}"
        settings = {"epochs": 1, "batch_size": size, "accumulate": accumulate, "precision": "float32", "lr": 1e-3}
        train(experiment(**settings), out, console=quiet(), report="short")
        weights.append(nextpixel.load(out).state_dict())
        assert "22 steps of 64 images" in (out / "report.md").read_text()
    initial = build(experiment(), load(experiment().data).train).state_dict()
    for name, one in weights[0].items():
        torch.testing.assert_close(one, weights[1][name], rtol=1e-3, atol=2e-4)
        assert (one - initial[name]).abs().max() > 2e-3, name


def test_the_gradient_is_limited_to_the_norm_that_is_asked_for(tmp_path, monkeypatch):
    norms = []
    step = torch.optim.Adam.step

    def spy(self, closure=None):
        found = step(self, closure)
        norms.append(torch.stack([p.grad.norm() for group in self.param_groups for p in group["params"]]).norm().item())
        return found

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    for clip in (0.01, 0.0):
        norms.clear()
        train(experiment(epochs=1, batch_size=400, clip=clip), tmp_path / f"{clip}", console=quiet(), report="none")
        assert len(norms) == 3
        assert max(norms) <= 0.01 * (1 + 1e-4) if clip else min(norms) > 0.02


def test_the_speed_of_a_run_counts_arithmetic_and_waiting(tmp_path, monkeypatch):
    slow = Images.__getitems__

    def wait(self, indices):
        time.sleep(0.05 if self.training else 0)
        return slow(self, indices)

    monkeypatch.setattr(Images, "__getitems__", wait)
    monkeypatch.setattr("nextpixel.reports.report.peak", lambda dtype, device: 1e9)
    out = tmp_path / "run"
    train(experiment(epochs=1, batch_size=100), out, console=quiet(), report="short")
    report = (out / "report.md").read_text()
    rate, speed, share, waited = (
        float(re.search(rf"([\d.e-]+){unit}", report)[1])
        for unit in (" images per second", " GFLOP/s, ", "% of the 1 GFLOP/s", "% of the time waiting for data")
    )
    model = nextpixel.load(out)
    x = torch.zeros(1, 1, 8, 8, dtype=torch.long)
    by_hand = count_flops(lambda: model.log_prob(x).sum().backward()) * rate
    assert speed * 1e9 == pytest.approx(by_hand, rel=0.02)
    assert share == pytest.approx(100 * speed, rel=0.02)
    assert 20 < waited <= 100  # of fourteen batches, each of which took 50 ms to load


def test_schedules():
    constant = TrainingSettings(schedule="constant", warmup=4)
    assert [learning_rate_factor(constant, step, 100) for step in (0, 1, 3, 50)] == [0.25, 0.5, 1, 1]
    exponential = TrainingSettings(schedule="exponential", warmup=0, lr_decay=0.9)
    assert learning_rate_factor(exponential, 10, 100) == pytest.approx(0.9**10)
    cosine = TrainingSettings(schedule="cosine", warmup=0)
    assert learning_rate_factor(cosine, 25, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_precision(monkeypatch):
    assert precision(TrainingSettings(precision="float32")) == "32-true"
    assert precision(TrainingSettings(precision="bf16")) == "bf16-mixed"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for amx, avx512, expected in ((True, False, "bf16-mixed"), (False, True, "bf16-mixed"), (False, False, "32-true")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx512=avx512: avx512, raising=False)
        assert precision(TrainingSettings()) == expected


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_build_their_models(name):
    recipe = read_recipe(name)
    channels = 3 if "cifar" in name or "imagenet" in name else 1
    shape = (channels, 8, 8)

    class Pictures(EmbeddedImages):
        dim = 64

        def __init__(self):
            self.shape, self.levels = shape, recipe["data"]["levels"]

        @property
        def classes(self):
            return 10 if name.endswith("-class") else None

    whole = make_experiment(recipe)
    whole.data.check()
    whole.training.check()
    with torch.device("meta"):
        model = (build_embedding if recipe["model"]["name"] in KINDS else build)(whole, Pictures())
    assert model.shape == shape
    condition = getattr(model, "condition", None)  # an embedding network has none
    found = None if condition is None else condition.name
    assert found == {"class": "labels", "autoencoder": "encoded", "portraits": "vector"}.get(name.split("-")[-1])
    assert recipe["about"].strip().endswith(".")


def test_config_files_that_are_refused(tmp_path):
    path = tmp_path / "config.yaml"
    for text, message in (
        ("a: [", "is not YAML"),
        ("3", "must hold the sections recipe, about, model, data, training"),
        ("modle: {}", "unknown setting 'modle', expected one of recipe, about, model, data, training"),
        ("model: 5", "section model is '5', expected settings by name"),
        ("data: [1]", "section data is .*, expected settings by name"),
        ("training: {3: 4}", "section training is .*, expected settings by name"),
        ("recipe: {}", "section recipe is '{}', expected a text"),
        ("[" * 5000, "is not YAML"),
        ("training: {epohs: 3}", "section training: unknown setting 'epohs', expected one of epochs, steps"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_config(path)
    with pytest.raises(InputError, match=r"cannot read .*nowhere.yaml: No such file"):
        read_config(tmp_path / "nowhere.yaml")


def test_settings_of_training_are_of_the_declared_types():
    for settings, message in (
        ({"epochs": "3"}, r"--training.epochs is '3': expected int"),
        ({"lr": "fast"}, r"--training.lr is 'fast': expected float"),
        ({"betas": 0.9}, r"--training.betas is 0.9: expected tuple"),
        ({"schedule": "linear"}, r"--training.schedule is 'linear': expected 'constant' . 'cosine'"),
        ({"save_every": float("nan")}, r"--training.save_every is nan: expected a number above 0"),
        ({"minutes": 0.0}, r"--training.minutes is 0.0: expected a number above 0"),
        ({"steps": 0}, r"--training.steps is 0: expected a number above 0"),
    ):
        with pytest.raises(InputError, match=message):
            TrainingSettings(**settings).check()


def test_experiments_survive_yaml(tmp_path):
    before = experiment()
    before.data.size = (7, 9)
    before.save(tmp_path / "config.yaml")
    assert read_experiment(tmp_path / "config.yaml") == before
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["data"]["size"] == [7, 9]


def test_models_that_cannot_be_built():
    class Pictures:
        shape, levels, classes = (1, 8, 8), 2, None

    with pytest.raises(InputError, match="unknown model 'pixelrmm': expected one of pixelcnn"):
        build(experiment("pixelrmm"), Pictures)
    wrong = experiment()
    wrong.model["kernel_size"] = 4
    with pytest.raises(InputError, match=r"gated-pixelcnn: kernel_size must be odd, .* not 4"):
        build(wrong, Pictures)
    conditional = experiment()
    conditional.model["condition"] = "labels"
    with pytest.raises(InputError, match="needs labelled images, but digits has no labels"):
        build(conditional, Pictures)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_loss_is_the_loss(name):
    model = MODELS[name](**{**MODELS[name].presets["tiny"], "likelihood": "logistic-mixture"})
    x = torch.randint(model.levels, (4, *model.shape), generator=torch.Generator().manual_seed(0))
    model.initialise(x)
    model.eval()  # no dropout: its random numbers differ
    found = {}
    for compiled in (False, True):
        module = Likelihood(model, TrainingSettings(compile=compiled))
        model.zero_grad()
        loss = module.loss((x, None))
        loss.backward()
        found[compiled] = [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    torch.testing.assert_close(found[True], found[False], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_compiled_dropout_follows_its_law():
    compiled = torch.compile(lambda x: dropout(x, 0.5, True))
    x = torch.ones(8, 16, 32, 33).to(memory_format=torch.channels_last).requires_grad_()
    y = compiled(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach()), "forward and backward have drawn other masks"
    dropped = (y == 0).double().permute(0, 2, 3, 1).flatten()
    sigma = 0.5 / dropped.numel() ** 0.5
    assert abs(dropped.mean() - 0.5) < 5 * sigma
    for byte in range(4):  # of one random number
        assert abs(dropped[byte::4].mean() - 0.5) < 10 * sigma
    assert not torch.equal(compiled(x), y)


def test_the_curve_is_drawn_from_the_metrics(tmp_path):
    metrics, picture = tmp_path / "metrics.csv", tmp_path / "curve.png"
    lines = [f"{step},{8 - step / 100}," for step in range(9, 300, 10)] + ["299,,5.25"]
    metrics.write_text("step,train/bits_per_dim,val/bits_per_dim\n" + "\n".join(lines) + "\n")
    assert read_curve(metrics, "train/bits_per_dim") == ([*range(9, 300, 10)], [8 - step / 100 for step in range(9, 300, 10)])
    assert read_curve(metrics, "val/bits_per_dim") == ([299], [5.25])
    draw_curve(metrics, picture)
    plain = Image.open(picture).tobytes()
    draw_curve(metrics, picture, {"published": 5.0})
    published = Image.open(picture).tobytes()
    assert published != plain
    draw_curve(metrics, picture, {"another": 5.0})
    assert Image.open(picture).tobytes() != published, "the line has no name"
    metrics.write_text("step,val/bits_per_dim\n299,5.25\n")
    with pytest.raises(InputError, match=r"has no train/bits_per_dim: nothing to draw"):
        draw_curve(metrics, picture)
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.csv: No such file"):
        draw_curve(tmp_path / "nowhere.csv", picture)


def test_a_run_from_scratch_starts_at_the_shares_of_symbols_and_one_that_goes_on_does_not(tmp_path):
    experiment = make_experiment(read_recipe("digits"))
    experiment.model |= {"features": 8, "blocks": 1, "head_features": 8}
    experiment.training = replace(experiment.training, steps=1, lr=1e-9, warmup=0, ema=0.0)
    train(experiment, tmp_path / "run", console=quiet(), report="none")
    x = load(experiment.data).train.tensor()
    shares = torch.bincount(x.flatten(), minlength=17) / x.numel()
    bias = nextpixel.load(tmp_path / "run").head.last.bias
    assert torch.allclose(bias.softmax(0), shares, atol=1e-4)
    again = replace(experiment, training=replace(experiment.training, start=str(tmp_path / "run"), lr=1.0))
    train(again, tmp_path / "again", console=quiet(), report="none")
    final = nextpixel.load(tmp_path / "again").head.last.bias
    assert (final - bias).abs().max() > 0.5
    third = replace(experiment, training=replace(experiment.training, start=str(tmp_path / "again")))
    train(third, tmp_path / "third", console=quiet(), report="none")
    assert torch.allclose(nextpixel.load(tmp_path / "third").head.last.bias, final, atol=1e-5)
