"""Guidance is an exact law: the chain rule's, from the joint laws of both models, in log_prob and in every sampler."""

import itertools
import math

import pytest
import torch
from pairs import Some, pairs
from tiny import CONDITIONS, FEW, all_images, images, of_images, random_cond, tiny_model

import nextpixel
from nextpixel.errors import InputError
from nextpixel.likelihoods import LIKELIHOODS, Guided, make_likelihood
from nextpixel.sampling.draw import METHODS
from nextpixel.scan.raster import Draw, Keep, Naive, Score, raster

KINDS = CONDITIONS[1:]
each_model = pytest.mark.parametrize("name", nextpixel.MODELS)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)
STRENGTHS = (-1.0, 0.0, 0.5, 1.0, 2.0, 7.5)


def conditionals(nats, order, levels):
    """p(symbol | earlier ones) at each turn, a table with an axis for each symbol so far, from the joint law of all images."""
    turns = order.flatten().argsort()
    joint = nats.exp().view([levels] * len(turns)).permute(*turns.tolist())
    marginals = [joint.sum(tuple(range(t, len(turns)))) if t < len(turns) else joint for t in range(len(turns) + 1)]
    laws = [marginals[t + 1] / marginals[t][..., None] for t in range(len(turns))]
    return laws, turns


def guided_by_hand(model, x, cond, guidance):
    """log p_s of all images, from the probabilities of all images with and without the condition."""
    order = model.order(*x.shape[2:])
    with_h, turns = conditionals(model.log_prob(x, cond), order, model.levels)
    without, _ = conditionals(model.log_prob(x, guidance=0), order, model.levels)
    symbols, total = x.flatten(1)[:, turns], 0
    for t, (p, q) in enumerate(zip(with_h, without, strict=True)):
        law = p**guidance * q ** (1 - guidance)
        law = law / law.sum(-1, keepdim=True)
        total = total + law[tuple(symbols[:, : t + 1].unbind(1))].log()
    return total


@pairs(name=nextpixel.MODELS, likelihood=LIKELIHOODS, small=[(1, 2, 3, 2), (1, 2, 2, 3), (3, 1, 2, 2), (2, 2, 1, 3)])
@torch.no_grad()
def test_guided_likelihood_is_the_chain_rule_and_sums_to_1(name, likelihood, small):
    *shape, levels = small
    model = tiny_model(name, tuple(shape), levels, "labels", likelihood=likelihood)
    x = all_images(*shape, levels)
    for guidance in STRENGTHS:
        nats = model.log_prob(x, 2, guidance)
        assert nats.exp().sum().item() == pytest.approx(1, abs=1e-10)
        torch.testing.assert_close(nats, guided_by_hand(model, x, 2, guidance), rtol=0, atol=1e-8)
    assert (model.log_prob(x, 2, 2.0) - model.log_prob(x, 2)).abs().max() > 1e-3


@pairs(name=nextpixel.MODELS, kind=Some(FEW[1:], KINDS))
@torch.no_grad()
def test_score_and_log_prob_know_the_same_law(name, kind):
    model = tiny_model(name, (3, 3, 4), levels=5, condition=kind)
    x, cond = images(model, 3), random_cond(model, 3)
    h = model.encode_condition(cond, 3, 3, 4)
    score = Score(Guided(model.likelihood, 2.5))
    raster(model, torch.cat([x, x]), score, torch.cat([h, torch.zeros_like(h)]))
    nats = model.log_prob(x, cond, guidance=2.5)
    torch.testing.assert_close(-score.nats.flatten(1).sum(1), nats.repeat(2), rtol=0, atol=1e-9)
    assert (nats - model.log_prob(x, cond)).abs().min() > 1e-4
    torch.testing.assert_close(model.bits_per_dim(x, cond, 2.5) * 36 * math.log(2), -nats, rtol=0, atol=1e-9)


@each_model
@torch.no_grad()
def test_log_prob_at_strength_1_is_the_model_and_at_0_the_unconditional_one(name):
    model = tiny_model(name, (3, 3, 4), condition="combination")
    x, cond = images(model, 3), random_cond(model, 3)
    nothing = torch.zeros(3, model.condition.features, 1, 1, dtype=torch.float64)
    unconditional = model.likelihood.log_prob(model.network(model.encode(x), nothing), x).flatten(1).sum(1)
    assert torch.equal(model.log_prob(x, cond, 1.0), model.log_prob(x, cond))
    for given in (None, cond):  # the unconditional model needs none
        torch.testing.assert_close(model.log_prob(x, given, 0.0), unconditional, rtol=0, atol=1e-12)
    for s, expected in ((1, model.log_prob(x, cond)), (0, unconditional)):  # and so do the limits of the general case
        torch.testing.assert_close(model.log_prob(x, cond, s + 1e-9), expected, rtol=0, atol=1e-6)


@each_likelihood
@torch.no_grad()
def test_the_likelihood_of_many_places_is_computed_in_parts(likelihood, monkeypatch):
    model = tiny_model("gated-pixelcnn", (3, 5, 7), 5, "labels", likelihood=likelihood)
    x, cond = images(model, 3), [0, 1, 2]
    whole = model.log_prob(x, cond, 3.0)
    for chunk in (1, 60, 5 * 105):
        monkeypatch.setattr("nextpixel.likelihoods.guided.CHUNK", chunk)
        torch.testing.assert_close(model.log_prob(x, cond, 3.0), whole, rtol=0, atol=1e-10)


@each_likelihood
def test_the_guided_likelihood_has_a_gradient(likelihood):
    model = tiny_model("gated-pixelcnn", (3, 2, 2), 3, "vector", likelihood=likelihood)
    cond = random_cond(model).requires_grad_()
    assert torch.autograd.gradcheck(lambda cond: model.log_prob(images(model), cond, 2.0), (cond,))


# --- sampling and completion -----------------------------------------------------------------------------------------------


@pairs(name=nextpixel.MODELS, kind=Some(FEW[1:], KINDS), guidance=[0.0, 0.5, 3.0])
def test_every_method_draws_the_same_images(name, kind, guidance):
    model = tiny_model(name, (3, 2, 3), condition=kind)
    x, known, cond = images(model), images(model, seed=8) == 0, random_cond(model)
    cached, *others = ({"cond": cond, "seed": 9, "method": method, "guidance": guidance} for method in METHODS)
    sampled, completed = model.sample(2, **cached), model.complete(x, known, n=2, **cached)
    for other in others:
        assert torch.equal(sampled, model.sample(2, **other))
        assert torch.equal(completed, model.complete(x, known, n=2, **other))
    both = known.repeat_interleave(2, 0)
    assert torch.equal(completed[both], x.repeat_interleave(2, 0)[both].to(completed.dtype))


@each_likelihood
@each_model
def test_strength_1_draws_the_plain_sampler_s_images_and_0_those_without_a_condition(name, likelihood):
    model = tiny_model(name, (3, 4, 5), 17, "combination", likelihood=likelihood)
    cond = random_cond(model, 4)
    plain = model.sample(4, cond, seed=5)
    assert torch.equal(model.sample(4, cond, seed=5, guidance=1.0), plain)
    noise = torch.rand(plain.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    h = model.encode_condition(cond, 4, 4, 5).detach()

    def scan(law, h):
        n = len(h) // 4
        start = torch.zeros(4 * n, 3, 4, 5, dtype=torch.long)
        return raster(model, start, Draw(law, noise.repeat(n, 1, 1, 1)), h).to(torch.uint8)

    unconditional = scan(model.likelihood, torch.zeros_like(h))
    for given in (None, cond):
        assert torch.equal(model.sample(4, given, seed=5, guidance=0.0), unconditional)
    assert not torch.equal(unconditional, plain)
    # The general case too: both halves draw the image of the one that counts.
    both = torch.cat([h, torch.zeros_like(h)])
    for s, expected in ((1.0, plain), (0.0, unconditional)):
        assert torch.equal(scan(Guided(model.likelihood, s), both), expected.repeat(2, 1, 1, 1))


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 2), 3), ((3, 1, 2), 2)], ids=str)
@each_likelihood
@pytest.mark.parametrize("name", ["gated-pixelcnn", "multiscale"])
def test_guided_samples_follow_the_guided_likelihood(name, likelihood, shape, levels):
    model, n = tiny_model(name, shape, levels, "labels", likelihood=likelihood), 2_000
    x = all_images(*shape, levels)
    with torch.no_grad():
        expected = model.log_prob(x, 1, 2.0).exp() * n
    weights = levels ** torch.arange(x[0].numel() - 1, -1, -1)
    drawn = model.sample(n, 1, guidance=2.0, method="cached")  # as all draw, and the quickest for so many so small images
    counts = torch.bincount((drawn.long().flatten(1) * weights).sum(1), minlength=len(x))
    rare = expected < 5  # one cell, as the test asks for
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None].clamp(min=1e-9)])
    freedom = len(observed) - 1
    assert freedom > 5
    assert ((observed - expected) ** 2 / expected).sum() < freedom + 5 * (2 * freedom) ** 0.5


@each_model
def test_many_images_are_scanned_as_few_are(name, monkeypatch):
    model = tiny_model(name, condition="combination")
    x, known, cond = images(model, 5), images(model, 5, seed=8) == 0, random_cond(model, 5)
    rows = []
    whole = model.complete(x, known, cond=cond, guidance=2.0, progress=lambda done, total: rows.append(done))
    assert len(rows) == model.scan_rows(5)
    monkeypatch.setattr("nextpixel.sampling.draw.SCAN_BATCH", 2)
    assert torch.equal(model.complete(x, known, cond=cond, guidance=2.0), whole)
    copies = [of_images(t, lambda t: t.repeat_interleave(3, 0)) for t in (x, known, cond)]
    assert torch.equal(model.complete(x, known, 3, cond, guidance=2.0), model.complete(*copies[:2], 1, copies[2], guidance=2.0))


@each_likelihood
def test_a_guided_scan_can_be_driven_by_hand(likelihood):
    model = tiny_model("pixelcnn", (3, 3, 4), condition="labels", likelihood=likelihood)
    x, known = images(model), images(model, seed=8) == 0
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = model.encode_condition([1, 2], 2, 3, 4)
    both, h = torch.cat([x, x]), torch.cat([h, torch.zeros_like(h)])
    choose = Keep(torch.cat([known, known]), Draw(Guided(model.likelihood, 2.0), torch.cat([noise, noise]), 0.5))
    for scanned in (model, Naive(model)):
        found = raster(scanned, both.clone(), choose, h)
        assert torch.equal(found[:2], found[2:])
        assert torch.equal(found[:2], model.complete(x, known, 1, [1, 2], 0, 0.5, guidance=2.0).long())


def test_stronger_guidance_makes_images_more_typical_of_their_condition():
    model = tiny_model("gated-pixelcnn", (1, 4, 5), 5, "labels")
    gains = []
    for guidance in (0.0, 1.0, 3.0):
        x = model.sample(200, 1, guidance=guidance)
        gains.append((model.log_prob(x, 1) - model.log_prob(x, guidance=0)).mean().item())
    assert gains[0] < 0 < gains[1] < gains[2]


# --- the law of a place ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("levels", [2, 3, 256])
@each_likelihood
def test_the_law_is_its_formula_and_temperature_comes_after_it(likelihood, levels, channels):
    law = make_likelihood(likelihood, channels, levels)
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(8, law.params, generator=generator, dtype=torch.float64)
    known = torch.randint(levels, (4, channels), generator=generator).repeat(2, 1)
    for guidance, c in itertools.product(STRENGTHS, range(channels)):
        guided = Guided(law, guidance)
        p, q = law.pmf(params, known, c).chunk(2)
        expected = p**guidance * q ** (1 - guidance)
        for temperature in (1.0, 0.5, 3.0):
            tempered = (expected / expected.amax(1, keepdim=True)) ** (1 / temperature)
            found = guided.pmf(params, known, c, temperature)
            torch.testing.assert_close(found, (tempered / tempered.sum(1, keepdim=True)).repeat(2, 1), rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(guided.log_pmf(params, known, c).exp(), guided.pmf(params, known, c), rtol=1e-9, atol=1e-15)


@pairs(
    likelihood=LIKELIHOODS,
    levels=[2, 3, 256],
    dtype=[torch.float32, torch.float64, torch.bfloat16],
    guidance=[-1e6, -3.0, 0.5, 7.5, 1e6],
)
def test_extreme_params_and_strengths_stay_a_law(likelihood, levels, dtype, guidance):
    law = make_likelihood(likelihood, 2, levels)
    params = torch.randn(40, law.params, generator=torch.Generator().manual_seed(0)).mul(100).to(dtype)
    known = torch.randint(levels, (20, 2), generator=torch.Generator().manual_seed(1)).repeat(2, 1)
    guided, noise = Guided(law, guidance), torch.rand(20, generator=torch.Generator().manual_seed(2)).double().repeat(2)
    for c, temperature in itertools.product((0, 1), (1e-6, 1.0)):
        pmf = guided.pmf(params, known, c, temperature)
        assert pmf.isfinite().all()
        torch.testing.assert_close(pmf.sum(1), torch.ones(40, dtype=torch.float64))
        symbols = guided.draw(params, known, c, noise, temperature)
        assert torch.equal(*symbols.chunk(2))
        assert (pmf.gather(1, symbols[:, None]) > 0).all()
    assert guided.log_prob(params[..., None, None], known[..., None, None]).isfinite().all()


@each_likelihood
def test_the_logarithm_of_a_law(likelihood):
    for levels in (2, 3, 256):
        law = make_likelihood(likelihood, 2, levels)
        params = torch.randn(4, law.params, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        known = torch.randint(levels, (4, 2), generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(law.log_pmf(params, known, 1).exp(), law.pmf(params, known, 1), rtol=1e-12, atol=1e-15)
        half = params.bfloat16()
        assert torch.equal(law.log_pmf(half, known, 1), law.log_pmf(half.float(), known, 1))


# --- bad input -------------------------------------------------------------------------------------------------------------

ONES = torch.ones(2, 1, 3, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        ("none", lambda m: m.sample(1, guidance=2.0), r"guidance 2\.0 needs a model with a condition, but this one takes none"),
        ("none", lambda m: m.sample(1, guidance=0.0), r"guidance 0\.0 needs a model with a condition"),
        ("none", lambda m: m.complete(ONES, torch.tensor(True), guidance=2.0), r"guidance 2\.0 needs a model with a condition"),
        ("none", lambda m: m.log_prob(ONES, guidance=2.0), r"guidance 2\.0 needs a model with a condition"),
        ("labels", lambda m: m.sample(1, 0, guidance=math.nan), r"guidance must be from -1e\+06 to 1e\+06, not nan"),
        ("labels", lambda m: m.sample(1, 0, guidance=math.inf), r"guidance must be from -1e\+06 to 1e\+06, not inf"),
        ("labels", lambda m: m.complete(ONES, torch.tensor(True), 1, 0, guidance=math.nan), r"guidance must be .* not nan"),
        ("labels", lambda m: m.log_prob(ONES, 0, -math.inf), r"guidance must be .* not -inf"),
        ("labels", lambda m: m.bits_per_dim(ONES, 0, 2e6), r"guidance must be .* not 2000000\.0"),
        ("labels", lambda m: m.sample(1, guidance=2.0), r"needs a condition .*labels.* none was given"),
        ("labels", lambda m: m.log_prob(ONES, guidance=2.0), r"needs a condition .*labels.* none was given"),
        ("labels", lambda m: m.sample(1, 7, guidance=0.0), r"from 0 to 3, not 7 to 7"),
        ("combination", lambda m: m.sample(1, 7, guidance=2.0), r"tuple of 3 parts \(labels, spatial-map, vector\), not int"),
    ],
)
@each_model
def test_bad_input_is_named_in_one_line(name, kind, call, message):
    with pytest.raises(InputError, match=message) as error:
        call(tiny_model(name, condition=kind))
    assert "\n" not in str(error.value)
