"""Sequential Monte Carlo against what enumeration gives: unbiased, right in the limit, the same with and without a cache."""

import itertools
import math

import numpy as np
import pytest
import torch
from made_runs import make_run
from tiny import images, random_cond, tiny_model

from nextpixel.cli import main
from nextpixel.errors import InputError, Notice
from nextpixel.models import MODELS
from nextpixel.sampling.draw import uniform_noise
from nextpixel.sampling.particles import _Scan, collapse, particles
from nextpixel.scan.evaluating import evaluating
from nextpixel.scan.raster import Naive


def posterior(model, x, known, cond=None):
    """Every filling (K, C, H, W), its probability given what is known, and log p(known), of one image."""
    free = ~known.expand(x.shape[1:]).flatten()
    fillings = torch.tensor(list(itertools.product(range(model.levels), repeat=int(free.sum()))))
    every = x.flatten(1).repeat(len(fillings), 1)
    every[:, free] = fillings
    log_p = model.log_prob(every.view(-1, *x.shape[1:]), cond).detach()
    return every.view(-1, *x.shape[1:]), log_p.softmax(0), log_p.logsumexp(0).item()


def peaked(name, shape, levels, condition="none", factor=3.0):
    """A model whose symbols depend on one another so much that weights become uneven."""
    model = tiny_model(name, shape, levels, condition=condition)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor if parameter.dim() > 1 else 1)
    return model.eval()


LATE = torch.tensor([[False, False, False], [True, False, True], [False, True, True]])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 2])
def test_the_estimate_is_unbiased_and_the_completions_follow_the_posterior(name, channels):
    model = peaked(name, (channels, 3, 3), 2, factor=1.7)
    known = LATE.expand(channels, 3, 3).clone()
    if channels == 2:
        known[1, 0] = True  # one channel of a place is known, and the other is not
        known[1, 1, 1] = True
    x = images(model, 1)
    every, p, log_p = posterior(model, x, known)
    repeats = 300
    found = particles(model, x.expand(repeats, -1, -1, -1), known, number=16)
    ratio = (found.log_p_known - log_p).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(repeats) + 1e-6
    # Self-normalised means of 300 runs of 16 particles, weighted by their estimates, are unbiased too.
    weights = ratio[:, None] * found.weights / ratio.sum()
    mean = (weights[..., None, None, None] * found.images).sum((0, 1))
    exact = (p[:, None, None, None] * every).sum(0)
    assert (mean - exact).abs().max() < 0.12
    assert torch.equal(found.images[:, :, known].long(), x[:, known][None].expand(repeats, 16, -1))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("condition", ["none", "labels"])
def test_caches_and_whole_passes_give_the_same_particles(name, condition, monkeypatch):
    monkeypatch.setattr("nextpixel.sampling.particles.UNEVEN", 1 - 1e-6)
    model = evaluating(peaked(name, (2, 4, 4), 3, condition))
    x, known = images(model, 2), torch.arange(4)[:, None] % 2 == 1
    known = known.expand(2, 2, 4, 4)
    cond = None if condition == "none" else random_cond(model, 2)
    made = []
    for of_model in (model, Naive(model)):
        with torch.no_grad():
            h = model.encode_condition(cond, 2, 4, 4)
            noise, starts = (
                uniform_noise(x.repeat_interleave(8, 0), 3),
                torch.rand(2, 8, generator=torch.Generator().manual_seed(1)),
            )
            made.append(_Scan(of_model, torch.where(known, x, 0), known, h, noise, starts.double(), 8).run(lambda: None))
    (first, *figures, resampled), (other, *others, again) = made
    assert resampled == again
    assert again > 0 or condition == "labels"  # whose biases may leave a tiny network no other input
    assert torch.equal(first, other)
    for figure, expected in zip(figures, others, strict=True):
        torch.testing.assert_close(figure, expected, rtol=1e-8, atol=1e-10)


def test_weights_without_resampling_are_the_likelihoods_of_what_is_known():
    model = tiny_model("gated-pixelcnn", (1, 3, 3), 2)
    x, known = images(model, 2), LATE
    found = particles(model, x, known, number=4, seed=2)
    if found.resampled == 0:
        log_p = model.log_prob(found.images.flatten(0, 1)) - model.log_prob(found.images.flatten(0, 1), known=known)
        log_p = log_p.detach().view(2, 4)
        torch.testing.assert_close(found.weights, log_p.softmax(1))
        torch.testing.assert_close(found.log_p_known, log_p.logsumexp(1) - math.log(4))
    assert found.resampled == 0


def test_what_is_known_early_needs_one_particle():
    model = tiny_model("pixelcnn", (1, 3, 4), 3)
    x, known = images(model, 2), torch.arange(3)[:, None] < 2
    found = particles(model, x, known, number=5)
    assert found.weights.flatten().tolist() == pytest.approx([0.2] * 10)
    assert found.effective.tolist() == pytest.approx([5, 5])
    with torch.no_grad():
        earlier = model.log_prob(x) - model.log_prob(x, known=known)
    torch.testing.assert_close(found.log_p_known, earlier)


def test_completions_by_the_method_smc():
    model = peaked("gated-pixelcnn", (1, 3, 3), 2, factor=1.7)
    x = images(model, 1)
    every, p, _ = posterior(model, x, LATE)
    drawn = model.complete(x, LATE, n=2000, method="smc", particles=2000, seed=1)
    assert drawn.shape == (2000, 1, 3, 3)
    mean, exact = drawn.double().mean(0), (p[:, None, None, None] * every).sum(0)
    assert (mean - exact).abs().max() < 0.07
    blind = model.complete(x, LATE, n=2000, seed=1).double().mean(0)
    assert (blind - exact).abs().max() > 0.1
    assert torch.equal(drawn, model.complete(x, LATE, n=2000, method="smc", particles=2000, seed=1))


def test_a_model_with_known_is_compared_with_its_own_joint_law():
    model = peaked("gated-pixelcnn", (1, 3, 3), 2, "known", factor=1.5)
    x = images(model, 1)
    every, p, log_p = posterior(model, x, LATE)
    direct = model.log_prob(every, known=LATE).exp().detach()
    gap = (p * (p.log() - direct.log())).sum()  # nats: 0 where training has made the laws agree, which nothing forces
    assert direct.sum().item() == pytest.approx(1)
    assert gap > 1e-3
    found = particles(model, x.expand(50, -1, -1, -1), LATE, number=32)
    assert found.log_p_known.exp().mean().item() == pytest.approx(math.exp(log_p), rel=0.2)


def test_a_collapse_is_said(monkeypatch):
    model = tiny_model("gated-pixelcnn", (1, 6, 6), 4)
    known = torch.arange(6)[:, None] >= 3
    x = images(model, 1)
    monkeypatch.setattr("nextpixel.sampling.particles.COLLAPSED", 64.0)
    monkeypatch.setattr("nextpixel.sampling.particles.UNEVEN", 1.0)
    with pytest.warns(Notice, match=r"of 64 particles, \d+\.\d were effective at the worst place: completions are nearly copies"):
        model.complete(x, known, n=3, method="smc")
    monkeypatch.undo()
    assert collapse(particles(model, x, known.flip(0), number=8)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 1}, "particles must be at least 2, not 1"),
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"temperature": 0.5}, "method 'smc' draws at guidance 1 and temperature 1, not 1.0 and 0.5"),
    ],
)
def test_bad_input(options, message):
    model = tiny_model("gated-pixelcnn")
    with pytest.raises(InputError, match=message):
        model.complete(images(model, 1), torch.ones(3, 4, dtype=torch.bool), method="smc", **options)


def test_command(tmp_path, capsys):
    model = make_run(tmp_path / "run", condition=None)
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(model.levels, size=(2, 8, 8)))
    command = ["complete", tmp_path / "run", "--image", tmp_path / "a.npy", "--known", "bottom:0.25", "--particles", 6]
    assert main([str(word) for word in [*command, "-n", 3, "--out", tmp_path / "x.npy"]]) == 0
    out, err = capsys.readouterr()
    assert out.count(" of 6 particles are effective; known part ") == 2
    assert "come after unknown ones" not in err
    drawn = np.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(drawn[:, 0, 6:], np.load(tmp_path / "a.npy").repeat(3, 0)[:, 6:])
    assert main([str(word) for word in [*command, "--temperature", 0.5, "--out", tmp_path / "y.npy"]]) == 2
