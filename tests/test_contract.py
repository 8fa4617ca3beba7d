"""What every architecture promises, held against each class of `nextpixel.MODELS`: a new one is tested by being registered.

Two independent proofs carry the rest. Causality: the Jacobian is zero where it must be, and not where it must not. The scan:
stepping gives what forward gives. Likelihoods that sum to 1 and samples that follow them are what these two are good for.
"""

import copy
import itertools
import json
import pickle
import re

import numpy as np
import pytest
import safetensors.torch
import torch
from pairs import pairs
from tiny import CONDITIONS, all_images, images, largest_gap, of_images, random_cond, reach, scan, tiny_model, turns

import nextpixel
from nextpixel.errors import InputError, Notice
from nextpixel.layers.masked import MaskedConv2d
from nextpixel.models.base import RasterModel
from nextpixel.sampling.draw import METHODS
from nextpixel.scan.raster import Draw, Keep, Naive, Score, raster

MODELS = list(nextpixel.MODELS)
INPUTS = ["intensity", "embedding"]
CHANNELS = [1, 2, 3]
TURNED = [(3, 4), (4, 3)]
SIZES = [(1, 1), (1, 6), (6, 1), (2, 2), (5, 7)]
each_model = pytest.mark.parametrize("name", MODELS)
each_condition = pytest.mark.parametrize("condition", CONDITIONS)


# --- causality -----------------------------------------------------------------------------------------------------------


@pairs(name=MODELS, channels=CHANNELS, inputs=INPUTS, size=TURNED)
def test_jacobian_is_zero_except_before_the_place(name, channels, inputs, size):
    found, earlier = reach(name, (channels, *size), inputs=inputs)
    assert (found[~earlier] == 0).all()
    # The positive control: the neighbours just before and just above on the place's grid reach every colour, from every channel.
    for i, j in itertools.product(*map(range, size)):
        step = next(s for s in tiny_model(name).strides if i % s == j % s == 0)
        assert j < step or (found[:, i, j, :, i, j - step] > 0).all()
        assert i < step or (found[:, i, j, :, i - step, j] > 0).all()
        within = found[:, i, j, :, i, j]  # at one place R reaches G and B, and G reaches B
        assert torch.equal(within > 0, earlier[:, i, j, :, i, j])


@each_condition
@each_model
def test_a_condition_leaves_the_jacobian_causal(name, condition):
    found, earlier = reach(name, (3, 3, 2), condition)
    assert (found[~earlier] == 0).all()
    assert (found[:, 2, 1, :, 1, 1] > 0).all()


@pairs(name=MODELS, channels=CHANNELS, condition=CONDITIONS[1:])
def test_the_condition_reaches_every_place_and_channel(name, channels, condition):
    gaps = []
    for seed in range(3):  # a ReLU that is dead in one model hides nothing
        model = tiny_model(name, (channels, 3, 4), condition=condition, seed=seed)
        x = images(model, 8)
        gap = (model(x, random_cond(model, 8, seed=6)) - model(x, random_cond(model, 8, seed=7))).abs()
        gaps.append(gap.unflatten(1, (model.colours, -1)).amax((0, 2)))
    assert torch.stack(gaps).amax(0).min() > 1e-6


@pairs(name=MODELS, channels=CHANNELS, size=SIZES)
def test_the_order_is_that_of_the_passes(name, channels, size):
    model = tiny_model(name, (channels, 3, 4))
    order = model.order(*size)
    assert torch.equal(order, turns(model, *size))
    assert order.flatten().sort().values.tolist() == list(range(order.numel()))
    if model.strides == (1,):
        assert torch.equal(order, torch.arange(order.numel()).view(*size, channels).permute(2, 0, 1))


@pairs(name=MODELS, channels=CHANNELS, inputs=INPUTS, size=TURNED)
def test_later_symbols_change_nothing(name, channels, inputs, size):
    model = tiny_model(name, (channels, *size), inputs=inputs)
    x = images(model, 1)
    order = turns(model, *size)
    turn = torch.arange(order.numel())[:, None, None, None]
    other = (x + images(model, len(turn)) % (model.levels - 1) + 1) % model.levels
    changed = torch.where(order >= turn, other, x)  # image t differs from x in every symbol from turn t on
    assert ((changed != x).flatten(1).sum(1) == order.numel() - turn.flatten()).all()
    gap = (model(changed) - model(x)).abs().unflatten(1, (model.colours, -1)).amax(2)
    assert gap[order[: model.colours] <= turn].max() < 1e-12
    assert gap[0, -1, -1, -1] > 1e-6


# --- the scan ------------------------------------------------------------------------------------------------------------


@pairs(name=MODELS, channels=CHANNELS, inputs=INPUTS, condition=CONDITIONS, batch=[1, 3])
def test_step_is_forward(name, channels, inputs, condition, batch):
    model = tiny_model(name, (channels, 4, 3), condition=condition, inputs=inputs)
    x, cond = images(model, batch), random_cond(model, batch)
    assert largest_gap(model, x, scan(model, x, cond), cond) < 1e-10


@pairs(name=MODELS, channels=[1, 3], condition=["none", "spatial-map", "upsampled", "combination"], size=SIZES)
def test_step_is_forward_at_any_size(name, channels, condition, size):
    model = tiny_model(name, (channels, 4, 3), condition=condition)
    weights = copy.deepcopy(model.state_dict())
    x, cond = images(model, 1, size), random_cond(model, 1, size)
    assert largest_gap(model, x, scan(model, x, cond), cond) < 1e-10
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items()), "a scan changed the weights"


@pairs(name=MODELS, channels=CHANNELS)
def test_repeated_steps_are_harmless(name, channels):
    model = tiny_model(name, (channels, 3, 4))
    x = images(model)
    assert largest_gap(model, x, scan(model, x, repeats=3)) < 1e-10


@each_condition
@each_model
def test_two_scans_of_one_model_do_not_disturb_each_other(name, condition):
    model = tiny_model(name, (3, 3, 4), condition=condition)
    x, y = images(model, 2, seed=5), images(model, 3, seed=6)
    cond_x, cond_y = random_cond(model, 2, seed=5), random_cond(model, 3, seed=6)
    first, second = zip(*zip(scan(model, x, cond_x), scan(model, y, cond_y), strict=True), strict=True)
    assert largest_gap(model, x, first, cond_x) < 1e-10
    assert largest_gap(model, y, second, cond_y) < 1e-10


@pairs(name=MODELS, inputs=INPUTS)
def test_step_is_forward_in_float32(name, inputs):
    model = tiny_model(name, (3, 5, 4), levels=17, inputs=inputs).float()
    x = images(model)
    assert largest_gap(model, x, scan(model, x)) < 1e-4


# --- the likelihood ------------------------------------------------------------------------------------------------------


SMALL = [(1, 2, 3, 2), (1, 3, 2, 2), (1, 2, 2, 3), (2, 1, 3, 2), (2, 2, 1, 3), (3, 1, 2, 2), (3, 1, 1, 4)]


@pairs(name=MODELS, small=SMALL, inputs=INPUTS, condition=CONDITIONS)
def test_probabilities_of_all_images_sum_to_1(name, small, inputs, condition):
    *shape, levels = small
    model = tiny_model(name, tuple(shape), levels, condition, inputs=inputs)
    x = all_images(*shape, levels)
    cond = random_cond(model, 1)
    p = model.log_prob(x, of_images(cond, lambda part: part[0])).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-10)
    assert p.std() > 1e-6, "a uniform law would prove nothing"


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 2), 3), ((3, 1, 2), 2)], ids=str)
@each_model
def test_samples_follow_the_likelihood(name, shape, levels):
    model, n = tiny_model(name, shape, levels), 4_000
    x = all_images(*shape, levels)
    expected = model.log_prob(x).exp() * n
    weights = levels ** torch.arange(x[0].numel() - 1, -1, -1)
    drawn = model.sample(n, method="cached")  # as all methods draw, and the quickest for so many so small images
    counts = torch.bincount((drawn.long().flatten(1) * weights).sum(1), minlength=len(x))
    # Images expected less than 5 times are one cell, as the test asks for.
    rare = expected < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None].clamp(min=1e-9)])
    freedom = len(observed) - 1
    assert freedom > 10
    assert ((observed - expected) ** 2 / expected).sum() < freedom + 5 * (2 * freedom) ** 0.5


@pairs(name=MODELS, channels=CHANNELS, condition=CONDITIONS)
def test_score_is_the_likelihood_symbol_by_symbol(name, channels, condition):
    model = tiny_model(name, (channels, 3, 4), levels=5, condition=condition)
    x, cond = images(model, 3), random_cond(model, 3)
    score = Score(model.likelihood)
    assert torch.equal(raster(model, x.clone(), score, model.encode_condition(cond, 3, 3, 4)), x)
    assert score.nats.shape == x.shape
    assert (score.nats >= 0).all()
    assert score.nats.isfinite().all()
    torch.testing.assert_close(-score.nats.flatten(1).sum(1), model.log_prob(x, cond), rtol=0, atol=1e-10)


@each_model
def test_bits_per_dim(name):
    model = tiny_model(name, (3, 3, 4))
    x = images(model)
    torch.testing.assert_close(model.bits_per_dim(x) * 36, -model.log_prob(x) / torch.log(torch.tensor(2.0).double()))


@each_model
def test_images_may_have_any_integer_type(name):
    model = tiny_model(name, levels=2)
    x = images(model)
    for dtype in (torch.uint8, torch.int16, torch.uint16, torch.int32, torch.bool):
        assert torch.equal(model.log_prob(x.to(dtype)), model.log_prob(x))


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.int64, np.dtype(">i4"), bool])
def test_arrays_of_numpy_are_taken_wherever_tensors_are(condition, kind):
    model = tiny_model("gated-pixelcnn", levels=2, condition=condition).eval()
    x, cond = images(model), random_cond(model)
    array = x.numpy().astype(kind)
    array.setflags(write=False)
    conds = (
        tuple(c.numpy() for c in cond) if isinstance(cond, tuple) else cond.numpy() if isinstance(cond, torch.Tensor) else cond
    )
    assert torch.equal(model.log_prob(array, conds), model.log_prob(x, cond))
    assert torch.equal(model.log_prob(array[::-1][::-1], conds), model.log_prob(x, cond))
    assert torch.equal(model.bits_per_dim(array, conds), model.bits_per_dim(x, cond))
    known = torch.zeros_like(x[:1], dtype=torch.bool)
    known[..., :2, :] = True
    assert torch.equal(model.complete(array, known.numpy(), cond=conds), model.complete(x, known, cond=cond))
    if condition != "encoded":  # which reads the image, so that no decoder has it
        assert nextpixel.compress(model, array, conds) == nextpixel.compress(model, x, cond)


@pytest.mark.parametrize("given", ["text", None, np.array(["a"]), np.array([None])])
def test_what_is_no_array_is_named(given):
    model = tiny_model("gated-pixelcnn")
    for call in (model.log_prob, model.bits_per_dim, lambda x: model.complete(x, np.ones((1, 1, 3, 4), bool))):
        with pytest.raises(InputError, match="images must be"):
            call(given)


# --- sampling and completion ---------------------------------------------------------------------------------------------


@pairs(name=MODELS, channels=CHANNELS, inputs=INPUTS, condition=CONDITIONS)
def test_every_method_draws_the_same_images(name, channels, inputs, condition):
    model = tiny_model(name, (channels, 3, 4), condition=condition, inputs=inputs)
    x, known, cond = images(model), images(model, seed=8) == 0, random_cond(model)
    cached, *others = ({"cond": cond, "seed": 9, "method": method} for method in METHODS)
    sampled, completed = model.sample(2, **cached), model.complete(x, known, n=2, **cached)
    for other in others:
        assert torch.equal(sampled, model.sample(2, **other))
        assert torch.equal(completed, model.complete(x, known, n=2, **other))


@pairs(name=MODELS, channels=CHANNELS)
def test_what_a_sampler_is_told_is_forward_of_the_finished_image(name, channels):
    model = tiny_model(name, (channels, 5, 4))
    x = images(model, 3)  # symbols that the scan replaces, and must not read before it has
    draw, told = Draw(model.likelihood, torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).double()), []

    def choose(params, x, i, j, c):
        told.append((c if model.colours > 1 else 0, i, j, params.clone()))
        return draw(params, x, i, j, c)

    raster(model, x, choose)
    with torch.no_grad():
        assert largest_gap(model, x, told if model.colours > 1 else told[::channels]) < 1e-10


@each_model
def test_sampling_is_reproducible_and_follows_the_seed(name):
    model = tiny_model(name, (3, 3, 4))
    assert torch.equal(model.sample(3, seed=1), model.sample(3, seed=1))
    assert not torch.equal(model.sample(3, seed=1), model.sample(3, seed=2))
    assert len(model.sample(4).unique(dim=0)) == 4


@each_model
def test_near_temperature_0_every_symbol_is_the_likeliest(name):
    model = tiny_model(name, (3, 3, 4), levels=5)
    regrets = []

    def regret(params, x, i, j, c):
        law, symbol = model.likelihood.pmf(params, x[:, :, i, j], c), x[:, c, i, j]
        regrets.append(law.amax(1) - law.gather(1, symbol[:, None]).squeeze(1))
        return symbol

    raster(model, model.sample(2, temperature=1e-6).long(), regret)
    assert torch.stack(regrets).max() == 0
    raster(model, model.sample(2).long(), regret)
    assert torch.stack(regrets).max() > 0.1


@pairs(name=MODELS, training=[True, False])
def test_sampling_keeps_the_mode_and_the_weights(name, training):
    model = tiny_model(name).train(training)
    weights = copy.deepcopy(model.state_dict())
    model.sample(1)
    model.complete(images(model), torch.tensor(False))
    assert model.training is training
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


@pairs(name=MODELS, channels=[1, 3], size=SIZES)
def test_samples_of_any_size(name, channels, size):
    model = tiny_model(name, (channels, 4, 3))
    x = model.sample(1, size=size)
    assert x.shape == (1, channels, *size)
    assert torch.equal(x, model.sample(1, size=size, method="naive"))
    assert model.log_prob(x).isfinite().all()


@pytest.mark.parametrize(("levels", "dtype"), [(2, torch.uint8), (256, torch.uint8), (257, torch.int64)])
@each_model
def test_samples_are_symbols(name, levels, dtype):
    model = tiny_model(name, (1, 3, 4), levels)
    x = model.sample(5)
    assert x.dtype is dtype
    assert x.shape == (5, 1, 3, 4)
    assert 0 <= int(x.min()) < int(x.max()) < levels


@pairs(name=MODELS, channels=[1, 3], condition=CONDITIONS, n=[1, 3])
def test_completion_keeps_the_known_and_reads_nothing_else(name, channels, condition, n):
    model = tiny_model(name, (channels, 3, 4), levels=5, condition=condition)
    x, cond = images(model), random_cond(model)
    known = torch.rand(x.shape, generator=torch.Generator().manual_seed(10)) < 0.5
    completed = model.complete(x, known, n, cond)
    assert completed.shape == (2 * n, *x.shape[1:])
    for b, k in itertools.product(range(2), range(n)):
        assert torch.equal(completed[b * n + k][known[b]], x[b][known[b]].to(completed.dtype))
    garbage = torch.where(known, x, torch.where(x % 2 == 0, -1000, 1000))  # not even symbols
    assert torch.equal(model.complete(garbage, known, n, cond), completed)
    assert len(model.complete(x, known, 8, cond).unique(dim=0)) > 5


@each_condition
@each_model
def test_n_completions_are_those_of_n_copies(name, condition):
    model = tiny_model(name, (3, 3, 4), condition=condition)
    x, known, cond = images(model), images(model, seed=8) == 0, random_cond(model)
    copies = [of_images(t, lambda t: t.repeat_interleave(3, 0)) for t in (x, known, cond)]
    assert torch.equal(model.complete(x, known, 3, cond), model.complete(copies[0], copies[1], 1, copies[2]))


@each_model
def test_completion_of_nothing_known_is_a_sample_and_of_everything_the_image(name):
    model = tiny_model(name, (3, 3, 4))
    x = images(model)
    assert torch.equal(model.complete(x, torch.tensor(False), seed=5), model.sample(2, seed=5))
    assert torch.equal(model.complete(x, torch.tensor(True), seed=5), x.to(torch.uint8))


@each_model
def test_many_images_are_scanned_as_few_are(name, monkeypatch):
    model = tiny_model(name, condition="vector")
    x, known, cond = images(model, 5), images(model, 5, seed=8) == 0, random_cond(model, 5)
    rows = []
    whole = model.complete(x, known, cond=cond, progress=lambda done, total: rows.append(done))
    assert rows == list(range(1, sum(len(range(0, 3, stride)) for stride in model.strides) + 1))
    assert len(rows) == model.scan_rows(5)
    monkeypatch.setattr("nextpixel.sampling.draw.SCAN_BATCH", 2)
    assert torch.equal(model.complete(x, known, cond=cond), whole)


@each_model
def test_the_loop_can_be_driven_by_hand(name):
    model = tiny_model(name, (3, 3, 4))
    x, known = images(model), images(model, seed=8) == 0
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    choose = Keep(known, Draw(model.likelihood, noise))
    assert torch.equal(raster(model, x.clone(), choose), raster(Naive(model), x.clone(), choose))
    assert torch.equal(raster(model, x.clone(), choose), model.complete(x, known, seed=0).long())


# --- training, files, copies ---------------------------------------------------------------------------------------------


@pairs(name=MODELS, channels=[1, 3], inputs=INPUTS, condition=CONDITIONS)
def test_gradients_reach_every_parameter_and_no_masked_weight(name, channels, inputs, condition):
    model = tiny_model(name, (channels, 3, 4), condition=condition, inputs=inputs).train()
    model.log_prob(images(model, 4), random_cond(model, 4)).sum().backward()
    dead = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []
    masked = [module for module in model.modules() if isinstance(getattr(module, "mask", None), torch.Tensor)]
    assert len(masked) == sum(isinstance(module, MaskedConv2d) for module in model.modules())
    assert all((module.weight.grad[module.mask == 0] == 0).all() for module in masked)


@pairs(name=MODELS, inputs=INPUTS, condition=CONDITIONS)
def test_save_and_load(name, inputs, condition, tmp_path):
    model = tiny_model(name, (3, 3, 4), condition=condition, inputs=inputs)
    model.train().save(tmp_path)
    loaded = nextpixel.load(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert not loaded.training
    x, cond = images(model), random_cond(model)
    assert torch.equal(loaded.log_prob(x, cond), model.eval().log_prob(x, cond))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_left_out_with_a_notice(prefix, tmp_path):
    model = tiny_model("pixelcnn")
    model.save(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    safetensors.torch.save_file({prefix + name: tensor for name, tensor in weights.items()}, tmp_path / "model.safetensors")
    with pytest.warns(Notice, match=re.escape(repr(prefix))):
        loaded = nextpixel.load(tmp_path)
    assert torch.equal(loaded.log_prob(images(model)), model.eval().log_prob(images(model)))


@each_condition
@each_model
def test_config_is_json_and_builds_the_same_network(name, condition):
    model = tiny_model(name, (3, 3, 4), condition=condition, inputs="embedding")
    twin = type(model)(**json.loads(json.dumps(model.config)))
    assert twin.config == model.config
    assert [(key, p.shape) for key, p in twin.state_dict().items()] == [(key, p.shape) for key, p in model.state_dict().items()]


@pytest.mark.parametrize(("name", "preset"), [(name, preset) for name, cls in nextpixel.MODELS.items() for preset in cls.presets])
def test_presets_can_be_built(name, preset):
    with torch.device("meta"):
        model = nextpixel.MODELS[name](**nextpixel.MODELS[name].presets[preset])
        x = torch.zeros(2, model.shape[0], 4, 5, dtype=torch.long)  # any size will do, and a small one is quick
        assert model(x).shape == (2, model.likelihood.params, 4, 5)


@each_model
def test_registered_under_its_own_name(name):
    assert nextpixel.MODELS[name].name == name
    assert "tiny" in nextpixel.MODELS[name].presets


@each_condition
@each_model
def test_copies_are_the_same_model(name, condition):
    model = tiny_model(name, (3, 3, 4), condition=condition)
    x, cond = images(model), random_cond(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.log_prob(x, cond), model.log_prob(x, cond))
        assert twin.config == model.config
    assert type(model).__name__ in repr(model)


# --- bad input: one line that names what was given and what was expected ---------------------------------------------------

ONES = torch.ones(2, 1, 3, 4, dtype=torch.long)
TRUE = torch.tensor(True)


@pytest.mark.parametrize(
    ("condition", "call", "message"),
    [
        ("none", lambda m: m.log_prob(ONES.float()), r"integers 0\.\.2, not torch\.float32"),
        ("none", lambda m: m.log_prob(ONES.expand(2, 3, 3, 4)), r"\(B, 1, H, W\), not \(2, 3, 3, 4\)"),
        ("none", lambda m: m.log_prob(ONES[0]), r"\(B, 1, H, W\), not \(1, 3, 4\)"),
        ("none", lambda m: m.log_prob(ONES[:0]), r"\(B, 1, H, W\), not \(0, 1, 3, 4\)"),
        ("none", lambda m: m.log_prob(ONES * 3), r"symbols 0\.\.2, but these have 3\.\.3"),
        ("none", lambda m: m.log_prob(-ONES), r"symbols 0\.\.2, but these have -1\.\.-1"),
        ("none", lambda m: m.log_prob(ONES, 1), r"takes no condition, but one was given"),
        ("none", lambda m: m.sample(1, cond=1), r"takes no condition, but one was given"),
        ("labels", lambda m: m.log_prob(ONES), r"needs a condition .*labels.* none was given"),
        ("labels", lambda m: m.sample(1), r"needs a condition .*labels.* none was given"),
        ("labels", lambda m: m.log_prob(ONES, 4), r"from 0 to 3, not 4 to 4"),
        ("labels", lambda m: m.log_prob(ONES, [0, -1]), r"from 0 to 3, not -1 to 0"),
        ("labels", lambda m: m.log_prob(ONES, [0, 1, 2]), r"2 integer labels, not torch\.int64 of \(3,\)"),
        ("labels", lambda m: m.log_prob(ONES, 0.5), r"2 integer labels, not torch\.float32"),
        ("vector", lambda m: m.log_prob(ONES, torch.zeros(2, 4)), r"\(5,\) or \(2, 5\), not \(2, 4\)"),
        ("spatial-map", lambda m: m.log_prob(ONES, torch.zeros(2, 2, 4, 3)), r"\(2, 2, 3, 4\), not \(2, 2, 4, 3\)"),
        ("none", lambda m: m.sample(0), r"n must be at least 1, not 0"),
        ("none", lambda m: m.complete(ONES, TRUE, n=0), r"n must be at least 1, not 0"),
        ("none", lambda m: m.sample(1, temperature=0), r"temperature must be at least 1e-06, not 0"),
        ("none", lambda m: m.sample(1, temperature=float("nan")), r"temperature must be at least 1e-06, not nan"),
        ("none", lambda m: m.sample(1, temperature=float("inf")), r"temperature must be at least 1e-06, not inf"),
        ("none", lambda m: m.sample(1, method="magic"), r"'compiled', 'naive' or 'fixed-point', not 'magic'"),
        ("none", lambda m: m.sample(1, size=(0, 4)), r"at least 1, not \(0, 4\)"),
        ("none", lambda m: m.complete(ONES, ONES), r"bool mask, not torch\.int64"),
        ("none", lambda m: m.complete(ONES, TRUE.expand(5, 5)), r"known \(5, 5\) does not fit images \(2, 1, 3, 4\)"),
        ("none", lambda m: m.complete(ONES * 7, TRUE), r"symbols 0\.\.2, but these have 7\.\.7"),
        ("none", lambda m: type(m)(shape=(1, 0, 4)), r"each at least 1, not \(1, 0, 4\)"),
        ("none", lambda m: type(m)(shape=(3, 4)), r"\(channels, height, width\).* not \(3, 4\)"),
        ("none", lambda m: type(m)(shape=(1, 3, 4), levels=1), r"from 2 to (8192|65536), not 1"),
        (
            "none",
            lambda m: type(m)(shape=(1, 3, 4), likelihood="magic"),
            r"unknown likelihood 'magic': expected one of categorical",
        ),
        ("none", lambda m: type(m)(shape=(1, 3, 4), inputs="magic"), r"'intensity' or 'embedding', not 'magic'"),
        (
            "none",
            lambda m: type(m)(shape=(1, 3, 4), condition={"name": "magic"}),
            r"unknown condition 'magic': expected one of labels",
        ),
        ("none", lambda m: type(m)(shape=(1, 3, 4), condition={"name": "labels", "features": 0}), r"features >= 1, not 0"),
    ],
)
@each_model
def test_bad_input_is_named_in_one_line(name, condition, call, message):
    with pytest.raises(InputError, match=message) as error:
        call(tiny_model(name, condition=condition))
    assert "\n" not in str(error.value)


def spoil_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"holds no model: expected config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"cannot read .*config\.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"must hold a JSON object, not list"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"cannot read .*model\.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"), r"cannot read .*model\.safetensors"),
        (
            lambda folder: spoil_config(folder, model="magic"),
            r"'magic' model: expected one of " + re.escape(", ".join(nextpixel.MODELS)),
        ),
        (lambda folder: spoil_config(folder, magic=1), r"does not describe a .* of this version: .*magic"),
        (lambda folder: spoil_config(folder, inputs="embedding"), r"of another architecture .* it lacks encode"),
        (lambda folder: spoil_config(folder, condition=None), r"of another architecture .* has an unknown"),
        (lambda folder: spoil_config(folder, shape=[3, 3, 4]), r"has .* of \(.*\): .* expects \("),
    ],
    ids=range(10),
)
@each_model
def test_a_folder_that_holds_no_model_is_named_in_one_line(name, spoil, message, tmp_path):
    tiny_model(name, condition="labels").save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        nextpixel.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_does_not_exist_is_not_looked_up_on_the_hub(tmp_path):
    with pytest.raises(InputError, match="does not exist: expected a model's folder"):
        nextpixel.load(tmp_path / "nowhere")


def test_weights_of_another_architecture_are_refused(tmp_path):
    for name, other in itertools.permutations(nextpixel.MODELS, 2):
        tiny_model(name).save(tmp_path / name)
        tiny_model(other).save(tmp_path / other)
        (tmp_path / name / "model.safetensors").replace(tmp_path / other / "model.safetensors")
        refused = (
            rf"another architecture than this {re.escape(other)}|a {re.escape(other)} of .* describes more weights than there"
        )
        with pytest.raises(InputError, match=refused):
            nextpixel.load(tmp_path / other)


ABSTRACT = [(RasterModel, {"network", "start", "begin_row", "step"}), (nextpixel.AutoregressiveModel, {"network", "parts"})]


@pytest.mark.parametrize(("kind", "methods"), ABSTRACT)
def test_a_model_that_lacks_a_method_cannot_be_constructed(kind, methods):
    """The error names what is missing: nothing fails later, in the middle of a scan."""
    whole = type("Whole", (kind,), {"__init__": lambda self: None, **dict.fromkeys(methods, lambda self: None)})
    whole()
    for method in methods:
        lacking = type("Lacking", (kind,), {name: value for name, value in vars(whole).items() if name in methods - {method}})
        with pytest.raises(TypeError, match=f"abstract class Lacking with abstract method {method}"):
            lacking((1, 2, 2), 2, "categorical", "intensity", 4, None)
