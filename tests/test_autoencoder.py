"""The PixelCNN autoencoder: codes hold what they should, training uses them, and the report compares with a plain autoencoder."""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tiny import images, random_cond, tiny_model

import nextpixel
from nextpixel import Combination, Encoded, Labels
from nextpixel.cli import main
from nextpixel.conditions import cond_of, encoder_of
from nextpixel.conditions.encoded import halvings
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load
from nextpixel.errors import InputError
from nextpixel.likelihood_run import CODE, build, train
from nextpixel.recipes import Experiment
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.reports.sections import Reconstruction, reconstruct, reconstruction_section
from nextpixel.scoring.autoencoder import ConvAutoencoder, _batches, squared_error
from nextpixel.scoring.baselines import PixelMarginal
from nextpixel.scoring.evaluation import evaluate, what_it_means

SIZES = {"features": 12, "blocks": 2, "kernel_size": 3, "first_kernel_size": 3, "head_features": 12}


# --- the encoder -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "strides", "smallest"),
    [
        ((28, 28), [(2, 2)] * 3, (4, 4)),
        ((8, 8), [(2, 2)], (4, 4)),
        ((3, 4), [], (3, 4)),
        ((9, 5), [(2, 2), (2, 1)], (3, 3)),
        ((1, 64), [(1, 2)] * 4, (1, 4)),
    ],
    ids=str,
)
def test_sides_are_halved_while_they_are_longer_than_4(size, strides, smallest):
    assert halvings(size) == (strides, smallest)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 11), (2, 5, 16), (1, 1, 9)], ids=str)
def test_every_symbol_of_an_image_reaches_every_number_of_its_code(shape):
    model = tiny_model("pixelcnn", shape, condition="encoded")
    x = images(model, 1)
    changed = x.repeat(x.numel(), 1, 1, 1).flatten(1)
    changed.diagonal().copy_((x.flatten() + 1) % model.levels)
    with torch.no_grad():
        codes = model.condition.encode(torch.cat([x, changed.view(-1, *shape)]))
    assert codes.shape == (1 + x.numel(), 5)
    assert (codes[1:] - codes[0]).abs().amin() > 1e-9


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 11), (1, 3, 4)], ids=str)
@torch.no_grad()
def test_a_code_is_what_the_docstring_says(shape):
    condition = tiny_model("pixelcnn", shape, levels=5, condition="encoded").condition
    weights = list(condition.parameters())
    x = images(tiny_model("pixelcnn", shape, levels=5), 3)
    y = x / 2.0 - 1  # intensities: 0..4 as -1..1
    for stride, weight, bias in zip([1, *halvings(shape[1:])[0]], weights[:-2:2], weights[1:-2:2], strict=True):
        y = torch.nn.functional.conv2d(y.double(), weight, bias, stride, padding=1).clamp(min=0)
    torch.testing.assert_close(condition.encode(x), y.flatten(1) @ weights[-2].T + weights[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 7, 11), (1, 17, 6)], ids=str)
@pytest.mark.parametrize("name", nextpixel.MODELS)
def test_the_likelihoods_gradient_reaches_the_encoder(name, shape):
    model = tiny_model(name, shape, condition="encoded").train()
    x = images(model, 4)
    model.log_prob(x, x).sum().backward()
    found = {key: p.grad is not None and p.grad.any().item() for key, p in model.condition.named_parameters()}
    assert len(found) == 2 * (1 + len(halvings(shape[1:])[0]) + 1)
    assert all(found.values()), found


@torch.no_grad()
def test_an_image_and_its_code_are_the_same_condition():
    model = tiny_model("gated-pixelcnn", (1, 9, 6), condition="encoded")
    x, likeness = images(model, 3), random_cond(model, 3)
    codes = model.condition.encode(likeness)
    assert codes.dtype is torch.float64
    assert torch.equal(model.encode_condition(likeness, 3, 9, 6), codes[:, :, None, None])
    assert torch.equal(model.log_prob(x, codes), model.log_prob(x, likeness))
    alone = model.log_prob(x, likeness[1])
    torch.testing.assert_close(alone, model.log_prob(x, codes[1]), rtol=0, atol=1e-12)
    assert alone[1].item() == pytest.approx(model.log_prob(x, likeness)[1].item(), abs=1e-12)
    assert (alone - model.log_prob(x, likeness)).abs()[[0, 2]].min() > 1e-9
    assert torch.equal(model.sample(3, codes), model.sample(3, likeness.to(torch.uint8)))
    # Codes between two images, and pictures of another size than the encoder's
    between = torch.lerp(codes[0], codes[1], torch.linspace(0, 1, 5, dtype=torch.float64)[:, None])
    assert model.sample(5, between).shape == (5, 1, 9, 6)
    assert model.sample(2, likeness[0], size=(4, 13)).shape == (2, 1, 4, 13)
    assert torch.equal(model.sample(2, likeness[0], guidance=0), model.sample(2, guidance=0))


def test_codes_keep_the_weights_precision_under_autocast():
    model = tiny_model("gated-pixelcnn", (1, 8, 8), condition="encoded").float()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.encode_condition(images(model), 2, 8, 8).dtype is torch.float32


def test_the_config_leaves_shape_and_levels_to_the_model(tmp_path):
    model = tiny_model("gated-pixelcnn", (1, 9, 6), condition="encoded")
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["condition"]
    assert config == {"name": "encoded", "features": 5, "maps": 6}
    loaded, x = nextpixel.load(tmp_path), images(model)
    assert (loaded.condition.shape, loaded.condition.levels) == ((1, 9, 6), 3)
    assert torch.equal(loaded.condition.encode(x), model.condition.encode(x))


def test_what_an_image_is_conditioned_on():
    x, labels = torch.zeros(2, 1, 8, 8, dtype=torch.long), torch.tensor([3, 7])
    assert cond_of(None, x, labels) is None
    assert cond_of(Labels(10), x, labels) is labels
    assert cond_of(Encoded(2), x, None) is x
    both = Combination(Labels(10), Encoded(2))
    assert cond_of(both, x, labels) == (labels, x)
    assert encoder_of(both) is both.parts[1]
    assert encoder_of(Labels(10)) is encoder_of(None) is None
    with pytest.raises(InputError, match="needs a condition, but the data have no labels"):
        cond_of(both, x, None)


ONES = torch.ones(2, 1, 9, 6, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.log_prob(ONES), r"needs a condition .*encoded.* none was given"),
        (lambda m: m.log_prob(ONES, ONES[:, :, :8]), r"images \(1, 9, 6\) or \(2, 1, 9, 6\), or codes .*, not \(2, 1, 8, 6\)"),
        (lambda m: m.log_prob(ONES, ONES[:1]), r"or \(2, 1, 9, 6\), or codes .*, not \(1, 1, 9, 6\)"),
        (lambda m: m.log_prob(ONES, ONES.expand(2, 3, 9, 6)), r"images \(1, 9, 6\) or .*, not \(2, 3, 9, 6\)"),
        (lambda m: m.log_prob(ONES, ONES.double()), r"images of integers 0\.\.2, not torch\.float64"),
        (lambda m: m.log_prob(ONES, ONES * 3), r"symbols 0\.\.2, but these have 3\.\.3"),
        (lambda m: m.log_prob(ONES, -ONES), r"symbols 0\.\.2, but these have -1\.\.-1"),
        (lambda m: m.log_prob(ONES, torch.zeros(2, 4)), r"codes \(5,\) or \(2, 5\), not \(2, 4\)"),
        (lambda m: m.log_prob(ONES, torch.zeros(3, 5)), r"codes \(5,\) or \(2, 5\), not \(3, 5\)"),
        (lambda m: m.log_prob(ONES, 3), r"codes \(5,\) or \(2, 5\), not \(\)"),
        (lambda m: m.log_prob(ONES, "cat"), r"cond must be numbers, not str"),
        (lambda m: m.log_prob(ONES[:, :, :8], ONES[:, :, :8]), r"cond must be images \(1, 9, 6\)"),
        (lambda m: m.condition.encode(ONES[0]), r"images \(B, 1, 9, 6\), not \(1, 9, 6\)"),
        (lambda m: Encoded(5).encode(ONES), r"belongs to no model yet"),
        (lambda m: Encoded(5)(ONES, 2, 9, 6), r"belongs to no model yet"),
        (lambda m: Encoded(0), r"encoded needs features >= 1, not 0"),
        (lambda m: Encoded(5, 2.5), r"encoded needs maps >= 1, not 2\.5"),
        (
            lambda m: nextpixel.PixelCNN((1, 8, 8), levels=2, condition=m.condition),
            r"of \(1, 9, 6\) images with 3 levels: it cannot also serve \(1, 8, 8\) images with 2",
        ),
        (lambda m: nextpixel.PixelCNN((1, 9, 6), levels=2, condition=m.condition), r"serve \(1, 9, 6\) images with 2"),
        (lambda m: nextpixel.PixelCNN((1, 8, 6), levels=3, condition=m.condition), r"serve \(1, 8, 6\) images with 3"),
    ],
)
def test_bad_input_is_named_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call(tiny_model("gated-pixelcnn", (1, 9, 6), condition="encoded"))
    assert "\n" not in str(error.value)


# --- training --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load(DataSettings(source="digits", levels=2, binarize="threshold"))


def learn_alone(digits, steps):
    """A small decoder like the run's, trained for as long, that is told nothing."""
    torch.manual_seed(0)
    model = nextpixel.GatedPixelCNN((1, 8, 8), levels=2, **SIZES)
    optimizer, x = torch.optim.Adam(model.parameters(), 0.02), digits.train.tensor()
    for _ in range(steps):
        batch = x[torch.randint(len(x), (64,))]
        optimizer.zero_grad()
        model.bits_per_dim(batch).mean().backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def autoencoder(finished):
    return nextpixel.load(finished[1])


@pytest.mark.slow
def test_a_code_tells_more_than_nothing(digits, autoencoder):
    unconditional = evaluate(learn_alone(digits, steps=260), digits.test).bits_per_dim
    assert evaluate(autoencoder, digits.test).bits_per_dim < 0.9 * unconditional


@torch.no_grad()
def test_evaluation_gives_each_image_its_own_code(digits, autoencoder):
    x = digits.test.tensor()
    found = evaluate(autoencoder, digits.test, batch_size=50).nats
    np.testing.assert_allclose(found, -autoencoder.log_prob(x, x).numpy(), rtol=1e-5)
    np.testing.assert_allclose(
        evaluate(autoencoder, digits.test, guidance=0.0).nats, -autoencoder.log_prob(x, guidance=0.0).numpy(), rtol=1e-5
    )
    # 0.59 and 0.43 after these steps; a code that is ignored makes no difference.
    assert autoencoder.bits_per_dim(x, x.roll(1, 0)).mean() > autoencoder.bits_per_dim(x, x).mean() + 0.1


def test_samples_are_like_the_image_whose_code_they_are_given(digits, autoencoder):
    x = digits.test.tensor()
    own, other = (autoencoder.sample(len(x), cond).long() != x for cond in (x, x.roll(1, 0)))
    # Places that differ: 0.29 and 0.32 after these steps. The noise is the same, so a code that is ignored makes no difference.
    assert own.float().mean() < other.float().mean() - 0.02


# --- the plain autoencoder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 11), (1, 3, 4), (2, 1, 9)], ids=str)
def test_the_plain_decoder_answers_every_pixel(shape):
    torch.manual_seed(0)
    model = ConvAutoencoder(shape, levels=5, dim=3, maps=4)
    x = torch.randint(5, (2, *shape))
    y = model(x)
    assert y.shape == x.shape
    squared_error(y, x, 5).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    ups = [layer for layer in model.upsampler.modules() if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert [up.stride for up in ups] == (halvings(shape[1:])[0][::-1] or [(1, 1)])
    maps = model.first[0](model.encoder.encode(x)).relu().view(2, 4, *model.encoder.smallest)
    assert torch.equal(y, model.last[-1](model.upsampler(maps, shape[1:]).relu()))
    # Through the code alone: the same code, the same answer.
    model.encoder.encode = lambda x: torch.zeros(len(x), 3)
    y = model(x)
    assert torch.equal(y[0], y[1])


def test_the_plain_autoencoder_learns(digits):
    before = torch.random.get_rng_state()
    model = ConvAutoencoder.fit(digits.train, dim=10, maps=16, steps=300, lr=0.005)
    one, twin = (ConvAutoencoder.fit(digits.train, dim=10, maps=16, steps=5, lr=0.005) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before), "fitting a baseline moves the random numbers of the run"
    x = digits.test.tensor()
    mean = digits.train.tensor().double().mean(0)
    with torch.no_grad():
        error = squared_error(model(x), x, 2).mean()
        assert error < 0.7 * squared_error(mean.expand(x.shape), x, 2).mean()
        assert torch.equal(one(x), twin(x))
        assert error < 0.7 * squared_error(model(x.roll(1, 0)), x, 2).mean()


def test_the_plain_autoencoder_is_fitted_by_adam_along_a_cosine(digits):
    model = ConvAutoencoder.fit(digits.train, dim=3, maps=4, steps=5, batch_size=20, lr=0.02, seed=7, progress=False)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        twin, batches = ConvAutoencoder((1, 8, 8), 2, 3, 4), list(_batches(len(digits.train), 20, 5))
    optimizer = torch.optim.Adam(twin.parameters())
    for t, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 + math.cos(math.pi * t / 5)) / 2
        optimizer.zero_grad()
        x = digits.train.tensor(batch)
        (twin(x) - x).square().mean().backward()
        optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert not model.training


def test_squared_error_is_that_of_brightness():
    x, brightness = torch.tensor([[[[0, 4]]], [[[2, 2]]]]), torch.tensor([[[[0.5, 1.0]]], [[[0.5, 0.0]]]])
    assert squared_error(brightness, x, levels=5).tolist() == [0.125, 0.125]


def test_batches_take_every_image_once_before_any_twice():
    batches = list(_batches(10, 3, 7))
    assert [len(batch) for batch in batches] == [3] * 7
    for first in (0, 3):
        assert len({k for batch in batches[first : first + 3] for k in batch}) == 9
    assert [sorted(batch) for batch in _batches(2, 3, 2)] == [[0, 1]] * 2
    assert list(_batches(2, 3, 0)) == []
    torch.manual_seed(0)
    first, second = _batches(60, 60, 2)
    assert first != second
    assert first != sorted(first)


# --- reconstructions -------------------------------------------------------------------------------------------------------


def test_reconstructions_are_measured_as_their_names_say(digits, tmp_path):
    model = tiny_model("pixelcnn", (1, 8, 8), levels=4, condition=Combination(Labels(10), Encoded(3, 4))).float()
    splits = load(DataSettings(source="digits", levels=4))
    marginal, settings = PixelMarginal.fit(splits.train), TrainingSettings(batch_size=20, lr=0.02, seed=7)
    found = reconstruct(model, splits, marginal, settings, 5, tmp_path)
    x, labels = splits.test.__getitems__([k * len(splits.test) // 64 for k in range(64)])
    own, other = (labels, x), (labels.roll(1, 0), x.roll(1, 0))
    nothing = torch.tensor(False)
    drawn, others = (model.complete(x, nothing, 6, cond, 7).view(64, 6, 1, 8, 8).double() for cond in (own, other))
    plain = ConvAutoencoder.fit(splits.train, 3, 4, 5, 20, 0.02, 7, progress=False)
    mean = torch.from_numpy(marginal.pmf @ np.arange(4)).expand(64, 1, 8, 8)
    with torch.no_grad():
        answers = 3 * plain(x).double()
        bits = [model.bits_per_dim(x, own), None, model.bits_per_dim(x, other), None, None]
    guesses = (drawn, drawn.mean(1, keepdim=True), others, answers[:, None], mean[:, None])
    for line, guess, nats in zip(found, guesses, bits, strict=True):
        error = (guess - x[:, None]).div(3).square().mean((1, 2, 3, 4))
        np.testing.assert_allclose(line.squared_error, error, rtol=1e-4, err_msg=line.name)
        if nats is None:
            assert line.bits_per_dim is None
        else:
            np.testing.assert_allclose(line.bits_per_dim, nats, rtol=1e-4)
    report = reconstruction_section(found)
    for line, short in zip(found, report.lines, strict=True):
        error = line.squared_error.std(ddof=1) / 8
        assert f"| {line.name} | {line.squared_error.mean():.4f} ± {error:.4f} |" in report.markdown
        assert short == f"squared error {line.squared_error.mean():.4f}   {line.name}"
    assert "| two | 0.5000 ± 0.5000 | n/a |" in reconstruction_section([Reconstruction("two", np.array([0.0, 1.0]))]).markdown
    assert f"{32 * 3 / 64:.4f} bits/dim" in what_it_means(model)
    assert what_it_means(tiny_model("pixelcnn", condition="labels")) == ""


# --- a run -----------------------------------------------------------------------------------------------------------------


def experiment(condition, **training):
    settings = {
        "epochs": 12,
        "eval_every": 6,
        "sample_every": 6,
        "samples": 4,
        "warmup": 10,
        "lr": 0.01,
        "ema": 0.9,
        "batch_size": 64,
        **training,
    }
    data = DataSettings(source="digits", levels=2, binarize="threshold")
    return Experiment(
        "test", "a tiny run", {"name": "gated-pixelcnn", **SIZES, "condition": condition}, data, TrainingSettings(**settings)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "autoencoder"
    whole = experiment({"name": "encoded", "features": 10, "maps": 16})
    return train(whole, out, console=Console(quiet=True)), out


def test_a_condition_by_name_has_the_smaller_of_the_papers_codes(digits):
    condition = build(experiment("encoded"), digits.train).condition
    assert (condition.given, condition.shape, condition.levels) == (CODE, (1, 8, 8), 2)


def test_the_report_says_what_its_figures_are_not(finished):
    result, out = finished
    report = (out / "report.md").read_text()
    for text in (report, (out / "model" / "README.md").read_text()):
        assert "no likelihoods of the images" in text
        assert f"{32 * 10 / 64:.4f} bits/dim" in text
    assert "each given the code of a test image" in report
    names = [line.name for line in result.reconstructions]
    assert names[3:] == ["convolutional decoder, trained by squared error", "mean training image, no code"]
    for line in result.reconstructions:
        row = re.search(rf"\| {re.escape(line.name)} \| (\d\.\d{{4}}) ± \d\.\d{{4}} \| (.*) \|", report)
        assert float(row[1]) == pytest.approx(line.squared_error.mean(), abs=1e-4)
        assert (row[2] == "n/a") == (line.bits_per_dim is None)
        assert len(line.squared_error) == 64


def test_the_figures_of_reconstructions_are_measured(finished, digits):
    result, out = finished
    model, (sample, mean_of_samples, other, plain, mean) = nextpixel.load(out), result.reconstructions
    x = digits.test.__getitems__([k * 180 // 64 for k in range(64)])[0]
    with torch.no_grad():
        np.testing.assert_allclose(sample.bits_per_dim, model.bits_per_dim(x, x), rtol=1e-4)
        np.testing.assert_allclose(other.bits_per_dim, model.bits_per_dim(x, x.roll(1, 0)), rtol=1e-4)
    brightness = digits.train.tensor().double().mean(0)
    assert mean.squared_error.mean() == pytest.approx(squared_error(brightness.expand(x.shape), x, 2).mean().item(), rel=0.01)
    # The mean of samples is nearer than they are, and a code helps both decoders.
    assert mean_of_samples.squared_error.mean() < sample.squared_error.mean() < other.squared_error.mean()
    assert plain.squared_error.mean() < 0.9 * mean.squared_error.mean()
    assert math.isfinite(result.test.bits_per_dim)


def test_the_picture_shows_original_answer_and_samples(finished, digits):
    _, out = finished
    picture = np.asarray(Image.open(out / "samples" / "reconstructions.png").convert("L"))
    side = 64 + 2
    assert picture.shape == (8 * side + 2, 8 * side + 2)
    tiles = picture[2:, 2:].reshape(8, side, 8, side)[:, :64:8, :, :64:8].transpose(0, 2, 1, 3)
    x = digits.test.__getitems__([k * 180 // 64 for k in range(8)])[0][:, 0].numpy()
    assert (tiles[:, 0] == 255 * x).all()
    assert len(np.unique(tiles[:, 1])) > 20, "the plain decoder's grey answers"
    assert set(np.unique(tiles[:, 2:])) == {0, 255}
    for name in ("samples", "completions", "epoch-0006"):
        assert (out / "samples" / f"{name}.png").stat().st_size > 0


def test_a_code_beside_labels_trains_too(tmp_path):
    parts = [{"name": "labels", "features": 10}, {"name": "encoded", "features": 2, "maps": 4}]
    whole = experiment({"name": "combination", "parts": parts}, epochs=1, eval_every=1, sample_every=1)
    result = train(whole, tmp_path / "run", console=Console(quiet=True))
    assert len(result.reconstructions) == 5


def test_the_command_line_draws_what_is_like_a_picture(finished, tmp_path, capsys):
    _, out = finished
    x = torch.randint(256, (8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    Image.fromarray(x.numpy()).save(tmp_path / "like.png")
    Image.fromarray(x.numpy()[:, :7]).save(tmp_path / "narrow.png")
    model, likeness = nextpixel.load(out), (x >= 128).long()[None]
    drawn = tmp_path / "drawn.npy"
    assert main(["sample", str(out), "-n", "5", "--like", str(tmp_path / "like.png"), "--out", str(drawn)]) == 0
    assert (np.load(drawn) == model.sample(5, likeness).numpy()).all()
    command = ["complete", str(out), "--image", str(tmp_path / "like.png"), "--out", str(tmp_path / "completed.png"), "--force"]
    assert main([*command, "--like", str(tmp_path / "like.png")]) == 0
    assert main(["inspect", str(out), "--size", "5x6", "--out", str(tmp_path / "field.png")]) == 0
    assert ", 0 leaks" in capsys.readouterr().out
    assert main(["evaluate", str(out)]) == 0
    assert "no likelihoods of the images" in " ".join(capsys.readouterr().out.split())
    assert main(["evaluate", str(out), "--guidance", "0"]) == 0
    assert "no likelihoods" not in capsys.readouterr().out
    for options, message in (
        (["sample", str(out)], "needs --like\n"),
        (["sample", str(out), "--label", "3"], "is not class-conditional"),
        (
            ["sample", str(out), "--like", str(tmp_path / "narrow.png")],
            "is 7 x 8 pixels wide and high, but the model is for 8 x 8",
        ),
        (["sample", str(out), "--like", "/nowhere.png"], "cannot read the picture /nowhere.png"),
        (command, "needs --like\n"),
    ):
        assert main(options) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
