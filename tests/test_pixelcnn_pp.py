"""PixelCNN++ beyond the contract that test_contract.py holds its preset to: its variants, its short-cuts, its sizes and its
data-dependent initialisation."""

import copy
import itertools

import pytest
import torch
from tiny import all_images, images, largest_gap, random_cond, reach, scan, tiny_model

from nextpixel import PixelCNNpp
from nextpixel.errors import InputError
from nextpixel.layers.shifted import WeightNormConv2d

NAME = PixelCNNpp.name

# Channels, condition and constructor arguments; the contract's own tests take 3 resolutions, 1 block and the mixture.
VARIANTS = {
    "stages-1": (1, "none", {"stages": 1}),
    "stages-1-blocks-2": (3, "spatial-map", {"stages": 1, "blocks": 2}),
    "stages-2": (2, "spatial-map", {"stages": 2}),
    "stages-4": (1, "spatial-map", {"stages": 4}),
    "blocks-2-embedding": (3, "labels", {"blocks": 2, "inputs": "embedding", "embedding_features": 2}),
    "no-short-cuts": (3, "spatial-map", {"short_cuts": False}),
    "no-short-cuts-stages-2": (1, "vector", {"short_cuts": False, "stages": 2, "blocks": 2}),
    "mixtures-1": (3, "none", {"mixtures": 1}),
    "categorical": (1, "spatial-map", {"likelihood": "categorical"}),
    "categorical-rgb": (3, "spatial-map", {"likelihood": "categorical"}),
    "categorical-rgb-embedding": (3, "none", {"likelihood": "categorical", "inputs": "embedding", "stages": 2}),
    "categorical-rgb-plain": (3, "labels", {"likelihood": "categorical", "stages": 1, "short_cuts": False}),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def variant_model(variant, size=(3, 4), levels=3, **overrides):
    channels, condition, arguments = VARIANTS[variant]
    return tiny_model(NAME, (channels, *size), levels, condition, **arguments, **overrides)


# --- the variants keep the contract --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 3), (9, 6)], ids=["4x3", "9x6"])
@each_variant
def test_step_is_forward(variant, size):
    model = variant_model(variant)
    x, cond = images(model, 2, size), random_cond(model, 2, size)
    with torch.no_grad():
        assert largest_gap(model, x, scan(model, x, cond), cond) < 1e-10


@each_variant
def test_jacobian_is_zero_except_before_the_place(variant):
    channels, condition, arguments = VARIANTS[variant]
    whole = arguments.get("short_cuts", True) or arguments.get("stages") == 1
    found, earlier = reach(NAME, (channels, 3, 4 if whole else 5), condition, **arguments)
    assert (found[~earlier] == 0).all()
    if whole:
        assert (found[earlier] > 0).all(), "there is no blind spot"
    else:  # only what the coarsest resolution knows, of which each place has the size of the tick
        tick = 2 ** (arguments.get("stages", 3) - 1)
        assert (found[:, 0, tick, :, 0, :tick] > 0).all()


@each_variant
def test_cached_and_naive_draw_the_same_images(variant):
    model = variant_model(variant)
    cond = random_cond(model, 3)
    cached, naive = (model.sample(3, cond=cond, seed=9, method=method) for method in ("cached", "naive"))
    assert torch.equal(cached, naive)
    assert len(cached.unique(dim=0)) == 3


@each_variant
@torch.no_grad()
def test_probabilities_of_all_images_sum_to_1(variant):
    channels, size = VARIANTS[variant][0], {1: (2, 3), 2: (1, 3), 3: (2, 1)}[VARIANTS[variant][0]]
    model = variant_model(variant, size, levels=2)
    cond = random_cond(model, 1)
    p = model.log_prob(all_images(channels, *size, 2), None if cond is None else cond[0]).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-10)
    assert p.std() > 1e-6, "a uniform law would prove nothing"


@each_variant
def test_gradients_reach_every_parameter(variant):
    size = (5, 6)  # more than one place at the coarsest of three resolutions
    model = variant_model(variant, size).train()
    model.log_prob(images(model, 4), random_cond(model, 4)).sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("likelihood", ["logistic-mixture", "categorical"])
def test_autocast_rounds_the_logits_of_a_softmax_and_not_the_means_of_a_mixture(likelihood):
    model = tiny_model(NAME, (3, 4, 4), 5, likelihood=likelihood).float()
    x = images(model)
    with torch.autocast("cpu", torch.bfloat16):
        params = model(x)
        assert model.log_prob(x).dtype is torch.float32
    if likelihood == "categorical":
        assert params.dtype is torch.bfloat16
    else:
        assert params.dtype is torch.float32
        assert (params != params.bfloat16()).double().mean() > 0.9


# --- what is built ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "parameters"), [("paper", 53_659_080), ("small", 1_519_320)])
def test_presets_have_the_parameters_that_they_say(preset, parameters):
    with torch.device("meta"):
        model = PixelCNNpp(**PixelCNNpp.presets[preset])
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert [len(stage.u) for stage in model.up] == [model.blocks] * 3
    assert [len(stage.ul) for stage in reversed(model.down)] == [model.blocks, model.blocks + 1, model.blocks + 1]
    assert model.dropout == 0.5


def test_short_cuts_and_stages_can_be_taken_away():
    def parameters(**options):
        return sum(p.numel() for p in tiny_model(NAME, **options).parameters())

    # One 1x1 from 2 F maps to F, with its gain and bias, in each of the 1 + 2 + 2 blocks of both streams on the way down.
    assert parameters() - parameters(short_cuts=False) == 5 * 2 * 2 * 6 * 6 + 5 * (6 + 6)
    plain = tiny_model(NAME, stages=1)
    assert len(plain.down) == len(plain.grow_u) == len(plain.grow_ul) == len(plain.shrink_u) == len(plain.shrink_ul) == 0
    assert parameters(stages=1) == parameters(stages=1, short_cuts=False) < parameters(stages=2) < parameters(stages=3)


@pytest.mark.parametrize("stages", [2, 3])
@torch.no_grad()
def test_the_way_down_takes_up_what_the_way_up_has_left_last_first(stages):
    model = tiny_model(NAME, (1, 8, 8), stages=stages, blocks=2)
    left, taken, us = {"u": [], "ul": []}, {"u": [], "ul": []}, []
    model.first.register_forward_hook(lambda layer, args, out: left["u"].append(out[0]))
    model.first.register_forward_hook(lambda layer, args, out: left["ul"].append(out[1]))
    for key, layers in (("u", model.shrink_u), ("ul", model.shrink_ul)):
        for layer in itertools.chain(layers, *(getattr(blocks, key) for blocks in model.up)):
            layer.register_forward_hook(lambda layer, args, out, key=key: left[key].append(out))
        for block in itertools.chain(*(getattr(blocks, key) for blocks in model.down)):
            block.register_forward_hook(lambda block, args, out, key=key: taken[key].append(args[1]))
    for block in itertools.chain(*(blocks.u for blocks in model.down)):
        block.register_forward_hook(lambda block, args, out: us.append(out))
    model(images(model))
    assert len(left["u"]) == len(left["ul"]) == 3 * stages
    for found, expected in zip(taken["u"], reversed(left["u"][:-1]), strict=True):
        assert [map is expected for map in found] == [True]
    for found, u, ul in zip(taken["ul"], us, reversed(left["ul"][:-1]), strict=True):
        assert [map is expected for map, expected in zip(found, (u, ul), strict=True)] == [True, True]


@torch.no_grad()
def test_without_short_cuts_the_way_down_takes_nothing_up():
    model = tiny_model(NAME, (1, 8, 8), short_cuts=False)
    x = images(model)
    before = model(x)
    # All that the finest resolution of the way up leaves goes through these two.
    for layer in (model.shrink_u[0], model.shrink_ul[0]):
        layer.register_forward_hook(lambda layer, args, out: torch.zeros_like(out))
    after = model(x)
    assert (after - before).abs().max() > 1e-6
    torch.testing.assert_close(after, model((x + 1) % 3), rtol=0, atol=0)


@torch.no_grad()
def test_a_map_enters_the_u_stream_too():
    # u of the first block has the condition of the whole row; that of the second looks two columns to the right, and ul, which
    # never does, takes it.
    model = tiny_model(NAME, (1, 3, 6), condition="spatial-map", stages=1, blocks=2)
    x, cond = images(model, 1), random_cond(model, 1)
    other = cond.clone()
    other[:, :, 1, 3] += 1
    changed = (model(x, other) - model(x, cond))[0].abs().amax(0) > 1e-9
    assert not changed[0].any()
    assert changed[1].tolist() == [False, True, True, True, True, True]
    assert changed[2].tolist() == changed[1].tolist()


@pytest.mark.parametrize("blocks", [1, 2])
@torch.no_grad()
def test_every_block_of_both_streams_takes_the_condition(blocks):
    model = tiny_model(NAME, (1, 3, 4), condition="labels", blocks=blocks)
    x = images(model)
    expected, number = model(x, 1), 0
    for stage in (*model.up, *model.down):
        for block in (*stage.u, *stage.ul):
            weight = block.condition.conv.weight
            weight[:, 1] += 1
            assert (model(x, 1) - expected).abs().max() > 1e-9
            weight[:, 1] -= 1
            number += 1
    assert number == 2 * (6 * blocks + 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropout": -0.1}, r"dropout must be from 0 up to \(not including\) 1, not -0\.1"),
        ({"dropout": 1}, r"dropout must be from 0 up to \(not including\) 1, not 1"),
        ({"dropout": float("nan")}, r"dropout must be from 0 .* not nan"),
        ({"features": 0}, r"features must be at least 1, not 0"),
        ({"blocks": 0}, r"blocks must be at least 1, not 0"),
        ({"stages": 0}, r"stages must be at least 1, not 0"),
        ({"mixtures": 0}, r"mixtures must be at least 1, not 0"),
    ],
    ids=str,
)
def test_arguments_that_make_no_model(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        PixelCNNpp(shape=(1, 8, 8), **arguments)
    assert "\n" not in str(error.value)


def test_dropout_makes_training_random_and_only_training():
    model = tiny_model(NAME, dropout=0.5)
    x = images(model)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
    without = tiny_model(NAME, dropout=0)
    assert torch.equal(without.train()(x), model.eval()(x))


# --- any size --------------------------------------------------------------------------------------------------------------

each_stages = pytest.mark.parametrize("stages", [2, 3, 4])


@pytest.mark.parametrize(("channels", "likelihood"), [(1, "logistic-mixture"), (3, "categorical")])
@torch.no_grad()
def test_rows_below_change_nothing_at_any_size(channels, likelihood):
    model = tiny_model(NAME, (channels, 8, 8), likelihood=likelihood)
    for width in range(1, 10):
        x = images(model, 2, (9, width))
        whole = model(x)
        for height in range(1, 9):
            assert (model(x[:, :, :height]) - whole[:, :, :height]).abs().max() < 1e-12, (height, width)


@each_stages
@torch.no_grad()
def test_a_scan_is_forward_at_any_size(stages):
    model = tiny_model(NAME, (1, 8, 8), stages=stages, mixtures=1)
    for height, width in [(1, 9), (2, 7), (3, 3), (5, 6), (6, 1), (7, 5), (9, 2)]:
        x = images(model, 1, (height, width))
        assert largest_gap(model, x, scan(model, x)) < 1e-10, (height, width)


@each_stages
@torch.no_grad()
def test_images_are_padded_below_and_on_the_right_with_zeros_and_no_ones(stages):
    model, seen = tiny_model(NAME, (2, 8, 8), stages=stages), []
    model.first.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    unit = 2 ** (stages - 1)
    for height, width in [(1, 1), (3, 5), (8, 8), (9, 2)]:
        x = images(model, 2, (height, width))
        assert model(x).shape[2:] == (height, width)
        padded = seen.pop()
        assert padded.shape == (2, 3, -(-height // unit) * unit, -(-width // unit) * unit)
        assert torch.equal(padded[:, :2, :height, :width], model.encode(x))
        assert (padded[:, 2, :height, :width] == 1).all()
        padded[:, :, :height, :width] = 0
        assert not padded.any()


# --- data-dependent initialisation -----------------------------------------------------------------------------------------


def outputs(model, x, cond=None):
    """What every weight-normalised layer gives for x: {name: output}, in the order of the network."""
    found, hooks = {}, []
    for name, layer in model.named_modules():
        if isinstance(layer, WeightNormConv2d):
            hooks.append(layer.register_forward_hook(lambda layer, args, out, name=name: found.update({name: out})))
    with torch.no_grad():
        model(x, cond)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("likelihood", ["logistic-mixture", "categorical"])
@pytest.mark.parametrize("condition", ["none", "labels", "spatial-map"])
def test_initialise_normalises_every_layer_as_the_next_one_sees_it(condition, likelihood):
    model = tiny_model(NAME, (2, 16, 16), 17, condition, likelihood=likelihood, dropout=0).train()
    x, cond = images(model, 8), random_cond(model, 8)
    before = copy.deepcopy(model.state_dict())
    model.initialise(x, cond)
    found, layers = outputs(model, x, cond), dict(model.named_modules())
    assert len(found) == sum(isinstance(layer, WeightNormConv2d) for layer in layers.values()) > 40
    for name, out in found.items():
        deviation, mean = torch.std_mean(out, (0, 2, 3), correction=0)
        scale = 0.1 if name.endswith(".second") else 1.0
        assert layers[name].init_scale == scale
        assert mean.abs().max() < 1e-6, name
        assert (deviation / scale - 1).abs().max() < 1e-6, name
    # Nothing else has changed, and no hook is left behind to do it again.
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) != key.endswith((".gain", ".bias")) or key.startswith("head.out"), key
    after = copy.deepcopy(model.state_dict())
    model(images(model, 2, seed=5), random_cond(model, 2, seed=5))
    assert all(torch.equal(after[key], value) for key, value in model.state_dict().items())


def test_a_fresh_model_is_initialised_in_float32_with_dropout_and_odd_sizes():
    torch.manual_seed(0)
    model = PixelCNNpp(shape=(1, 5, 7), levels=2, features=6, blocks=1)
    model.initialise(images(model, 8))
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.bits_per_dim(images(model, 8)).isfinite().all()
    # All images alike, and black: most maps vary over the places at least, and none becomes infinite.
    model.initialise(torch.zeros(2, 1, 5, 7, dtype=torch.uint8))
    assert all(p.isfinite().all() for p in model.parameters())


def test_initialise_refuses_what_forward_refuses_and_leaves_no_hook():
    model = tiny_model(NAME, (1, 4, 4), condition="labels")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=r"needs a condition"):
        model.initialise(images(model))
    with pytest.raises(InputError, match=r"symbols 0\.\.2, but these have"):
        model.initialise(images(model) + 3, 1)
    model(images(model), 1)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn"])
def test_initialise_of_models_without_it_checks_the_images_and_does_nothing(name):
    model = tiny_model(name)
    before = copy.deepcopy(model.state_dict())
    model.initialise(images(model))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match="integers"):
        model.initialise(images(model).float())
