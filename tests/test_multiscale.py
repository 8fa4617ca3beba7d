"""Multi-scale beyond the contract that test_contract.py holds its preset to: the chain rule over stages, any architectures as
stages, what each stage is told, and the passes of a scan."""

import copy
import itertools
import pickle

import pytest
import torch
from tiny import all_images, images, jacobian, largest_gap, random_cond, reach, scan, tiny_model, turns

import nextpixel
from nextpixel import MODELS, Labels, MultiScale, SpatialMap
from nextpixel.errors import InputError
from nextpixel.layers.conditioning import Upsampler
from nextpixel.models.base import RasterModel
from nextpixel.sampling.draw import METHODS
from nextpixel.scan.raster import Draw, raster

NAME = MultiScale.name
STAGES = [name for name in MODELS if name != NAME]


def stage(stride, name, **settings):
    sizes = {key: value for key, value in MODELS[name].presets["tiny"].items() if key not in ("shape", "levels", "mixtures")}
    return {"stride": stride, "name": name, **sizes, **settings}


# Channels, condition and constructor arguments; the contract's own tests take two stages, 2x2, Gated PixelCNN then PixelCNN.
VARIANTS = {
    **{f"{name}-first": (1, "none", {"stages": [stage(2, name), stage(1, "pixelcnn")]}) for name in STAGES},
    **{f"{name}-last": (2, "labels", {"stages": [stage(2, "gated-pixelcnn"), stage(1, name)]}) for name in STAGES},
    "three": (1, "spatial-map", {"stages": [stage(4, "pixelcnn"), stage(2, "gated-pixelcnn"), stage(1, "pixelcnn")]}),
    "three-rgb-embedding": (
        3,
        "none",
        {"stages": [stage(s, "gated-pixelcnn") for s in (4, 2, 1)], "inputs": "embedding", "embedding_features": 2},
    ),
    "thirds": (1, "vector", {"stages": [stage(3, "gated-pixelcnn"), stage(1, "gated-pixelcnn")]}),
    "one": (1, "labels", {"stages": [stage(1, "gated-pixelcnn")]}),
    "mixture": (
        3,
        "spatial-map",
        {"stages": [stage(2, "pixelcnn++"), stage(1, "pixelcnn++")], "likelihood": "logistic-mixture", "mixtures": 2},
    ),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def variant_model(variant, size=(4, 3), levels=3, **overrides):
    channels, condition, arguments = VARIANTS[variant]
    return tiny_model(NAME, (channels, *size), levels, condition, **arguments, **overrides)


def three_stages(shape=(1, 6, 5), **overrides):
    return tiny_model(NAME, shape, stages=VARIANTS["three"][2]["stages"], **overrides)


# --- the variants keep the contract --------------------------------------------------------------------------------------


@each_variant
@torch.no_grad()
def test_probabilities_of_all_images_sum_to_1(variant):
    channels, size = VARIANTS[variant][0], {1: (3, 3), 2: (1, 4), 3: (1, 3)}[VARIANTS[variant][0]]
    model = variant_model(variant, size, levels=2)
    cond = random_cond(model, 1)
    p = model.log_prob(all_images(channels, *size, 2), None if cond is None else cond[0]).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-10)
    assert p.std() > 1e-6, "a uniform law would prove nothing"


@pytest.mark.parametrize("size", [(5, 7), (9, 2), (1, 1)], ids=str)
@each_variant
def test_step_is_forward(variant, size):
    model = variant_model(variant)
    x, cond = images(model, 2, size), random_cond(model, 2, size)
    with torch.no_grad():
        assert largest_gap(model, x, scan(model, x, cond), cond) < 1e-10


@each_variant
def test_every_method_draws_the_same_images(variant):
    model = variant_model(variant, (5, 3))
    cond = random_cond(model, 3)
    cached, *others = (model.sample(3, cond=cond, seed=9, method=method) for method in METHODS)
    assert all(torch.equal(cached, other) for other in others)
    assert len(cached.unique(dim=0)) == 3


@each_variant
def test_jacobian_is_zero_except_before_the_place(variant):
    channels, condition, arguments = VARIANTS[variant]
    found, earlier = reach(NAME, (channels, 3, 4), condition, **arguments)
    assert (found[~earlier] == 0).all()
    if len(arguments["stages"]) > 1:
        assert (found[:, 0, 1, :, 0, 0] > 0).all()
        assert "thirds" in variant or (found[:, 0, 1, :, 2, 2] > 0).all(), "a fine place knows the whole small image around it"


@each_variant
def test_gradients_reach_every_parameter(variant):
    model = variant_model(variant, (6, 5)).train()
    model.log_prob(images(model, 4), random_cond(model, 4)).sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


# --- the chain rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (2, 7), (1, 6)], ids=str)
@torch.no_grad()
def test_log_prob_is_that_of_the_small_image_and_of_the_other_pixels_given_it(size):
    model = tiny_model(NAME, (2, 4, 4), levels=5)
    x = images(model, 3, size)
    small = x[:, :, ::2, ::2]
    first, second = model.networks
    told = model.upsamplers[0](model.encode(small), size)
    nats = model.likelihood.log_prob(second(x, told), x)
    by_hand = first.log_prob(small)
    for i, j in itertools.product(*map(range, size)):
        if i % 2 or j % 2:
            by_hand = by_hand + nats[:, i, j]
    torch.testing.assert_close(model.log_prob(x), by_hand, rtol=0, atol=1e-10)
    by_stage = model.log_prob_by_stage(x)
    torch.testing.assert_close(by_stage[:, 0], first.log_prob(small), rtol=0, atol=1e-10)
    torch.testing.assert_close(by_stage.sum(1), by_hand, rtol=0, atol=1e-10)


@torch.no_grad()
def test_three_stages_by_hand():
    model = three_stages((1, 6, 5), levels=4)
    x = images(model, 3)
    grids = [x[:, :, ::4, ::4], x[:, :, ::2, ::2], x]
    expected = [model.networks[0].log_prob(grids[0])]
    for k in (1, 2):
        told = model.upsamplers[k - 1](model.encode(grids[k - 1]), grids[k].shape[2:])
        nats = model.likelihood.log_prob(model.networks[k](grids[k], told), grids[k])
        nats[:, ::2, ::2] = 0
        expected.append(nats.sum((1, 2)))
    torch.testing.assert_close(model.log_prob_by_stage(x), torch.stack(expected, 1), rtol=0, atol=1e-10)
    torch.testing.assert_close(model.log_prob(x), sum(expected), rtol=0, atol=1e-10)


@torch.no_grad()
def test_pixels_of_the_coarser_grid_are_kept_and_cost_nothing_again(monkeypatch):
    model = tiny_model(NAME, (3, 5, 4))
    x, fine = images(model, 3), model.networks[1]
    before = model.log_prob(x), model.log_prob_by_stage(x), model.sample(3, seed=1, method="cached")
    whole, one = fine.network, fine.step
    nonsense = torch.nan  # in place of what the finer stage says of a pixel that it does not choose

    def network(inputs, h=None):
        params = whole(inputs, h).clone()
        params[:, :, ::2, ::2] = nonsense
        return params

    def step(cache, x, i, j, c=0):
        params = one(cache, x, i, j, c)
        return torch.full_like(params, nonsense) if i % 2 == j % 2 == 0 else params

    monkeypatch.setattr(fine, "network", network)
    monkeypatch.setattr(fine, "step", step)
    after = model.log_prob(x), model.log_prob_by_stage(x), model.sample(3, seed=1, method="cached")
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@torch.no_grad()
def test_the_pixels_that_a_finer_stage_draws_are_none_of_the_coarser_ones_business():
    model = three_stages()
    x = images(model)
    order, by_stage = turns(model, 6, 5)[0], model.log_prob_by_stage(x)
    chosen = [order < 4, order < 9, order < 30]  # 2x2 places, then 3x3, then all
    for k, grid in enumerate(chosen[:2]):
        changed = torch.where(grid, x, (x + 1) % model.levels)
        assert torch.equal(model.log_prob_by_stage(changed)[:, : k + 1], by_stage[:, : k + 1])
        assert not torch.isclose(model.log_prob_by_stage(changed)[:, k + 1 :], by_stage[:, k + 1 :]).any()


@torch.no_grad()
def test_one_stage_is_its_architecture():
    model = tiny_model(NAME, (2, 3, 4), stages=[stage(1, "gated-pixelcnn")])
    plain = tiny_model("gated-pixelcnn", (2, 3, 4))
    plain.load_state_dict({key.removeprefix("networks.0."): value for key, value in model.state_dict().items()})
    x = images(model)
    assert torch.equal(model.log_prob(x), plain.log_prob(x))
    assert torch.equal(model.sample(3, seed=1), plain.sample(3, seed=1))


# --- passes ----------------------------------------------------------------------------------------------------------------


def test_the_order_of_three_grids():
    order = three_stages().order(6, 5)[0].tolist()
    assert order == [
        [0, 9, 4, 10, 1],
        [11, 12, 13, 14, 15],
        [5, 16, 6, 17, 7],
        [18, 19, 20, 21, 22],
        [2, 23, 8, 24, 3],
        [25, 26, 27, 28, 29],
    ]


@pytest.mark.parametrize("size", [(6, 5), (7, 4)], ids=str)
def test_the_small_image_of_a_sample_is_what_the_first_stage_draws_alone(size):
    model = three_stages(channels := (2, *size), levels=5)
    noise = torch.rand(3, *channels, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    small = torch.zeros_like(noise[:, :, ::4, ::4], dtype=torch.long)
    raster(model.networks[0], small, Draw(model.likelihood, noise[:, :, ::4, ::4].contiguous()))
    whole = raster(model, torch.zeros_like(noise, dtype=torch.long), Draw(model.likelihood, noise))
    assert torch.equal(whole[:, :, ::4, ::4], small)
    assert torch.equal(whole, model.sample(3, seed=7).long())


def test_each_symbol_is_chosen_once_and_in_turn():
    model, visited = three_stages((2, 6, 5)), []

    def choose(params, x, i, j, c):
        visited.append((c, i, j))
        return x[:, c, i, j]

    rows = []
    raster(model, images(model), choose, progress=lambda done, total: rows.append(done))
    assert [int(model.order(6, 5)[at]) for at in visited] == list(range(60))
    assert rows == list(range(1, 2 + 3 + 6 + 1))
    assert model.scan_rows(1) == model.scan_rows(256) == 11
    assert model.scan_rows(257, (8, 8)) == 2 * (2 + 4 + 8)


def test_the_stages_are_scanners_and_the_whole_is_none():
    model = tiny_model(NAME)
    assert not isinstance(model, RasterModel)
    assert not {"start", "begin_row", "step", "row_kind"} & set(dir(model))
    assert all(isinstance(scanner, RasterModel) for scanner, _ in model.parts(images(model)))


# --- what a stage is told --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "size"), [(2, (6, 8)), (2, (5, 7)), (3, (7, 12)), (4, (9, 13))], ids=str)
def test_upsampled_places_lie_where_the_sampled_ones_were(factor, size):
    torch.manual_seed(0)
    layer = Upsampler(2, 16, factor).double()
    coarse = [-(-side // factor) for side in size]
    x = torch.randn(1, 2, *coarse, dtype=torch.float64)
    assert layer(x, size).shape == (1, 16, *size)
    found = torch.autograd.functional.jacobian(lambda x: layer(x, size)[0].sum(0), x)[:, :, 0].abs().sum(2) > 0
    for i, j, a, b in itertools.product(*map(range, (*size, *coarse))):
        # 3x3 on the fine grid, then up to the block's own place, then 3x3 on the coarse grid.
        rows = {r // factor for r in range(max(i - 1, 0), min(i + 1, size[0] - 1) + 1)}
        columns = {c // factor for c in range(max(j - 1, 0), min(j + 1, size[1] - 1) + 1)}
        assert found[i, j, a, b] == (min(abs(a - r) for r in rows) <= 1 and min(abs(b - c) for c in columns) <= 1)


@torch.no_grad()
def test_every_layer_of_a_finer_stage_takes_the_upsampled_map():
    model = tiny_model(NAME, stages=[stage(2, "pixelcnn"), stage(1, "pixelcnn")])
    x = images(model)
    expected, fine = model.log_prob_by_stage(x), model.networks[1]
    layers = [fine.first_condition, *(block.condition for block in fine.body)]
    assert len(layers) == 3
    for layer in layers:
        assert layer.conv.in_channels == model.upsampler_features
        layer.conv.weight.add_(0.5)
        changed = model.log_prob_by_stage(x)
        assert torch.equal(changed[:, 0], expected[:, 0])
        assert not torch.isclose(changed[:, 1], expected[:, 1]).any()
        layer.conv.weight.sub_(0.5)


@pytest.mark.parametrize("condition", ["labels", "vector", "spatial-map"])
@torch.no_grad()
def test_a_condition_reaches_every_stage(condition):
    model = three_stages(condition=condition)
    x = images(model, 3)
    one, other = (model.log_prob_by_stage(x, random_cond(model, 3, seed=seed)) for seed in (6, 7))
    assert ((one - other).abs() > 1e-6).all()


def test_of_a_map_a_stage_takes_the_places_of_its_grid():
    model = three_stages(condition="spatial-map")
    cond = random_cond(model, 2).requires_grad_()
    by_stage = model.log_prob_by_stage(images(model, 2), cond).sum(0)
    for k, stride in enumerate((4, 2, 1)):
        (gradient,) = torch.autograd.grad(by_stage[k], cond, retain_graph=True)
        reached = (gradient != 0).any(0).any(0)
        grid = torch.zeros(6, 5, dtype=torch.bool)
        grid[::stride, ::stride] = True
        assert torch.equal(reached, grid)


def test_the_jacobian_sees_later_rows_of_the_small_image():
    model = tiny_model(NAME, (1, 4, 4))
    found = jacobian(model, images(model, 1))[0, :, :, 0]
    assert found[0, 1, 2, 2] > 0
    assert found[0, 0].max() == 0


# --- initialisation, copies, files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["none", "labels", "spatial-map"])
def test_initialise_is_that_of_each_stage_on_its_grid(condition):
    stages = [stage(2, "pixelcnn++"), stage(1, "pixelcnn++")]
    model = tiny_model(NAME, (1, 8, 7), condition=condition, stages=stages, likelihood="logistic-mixture")
    twin = copy.deepcopy(model)
    x, cond = images(model, 8), random_cond(model, 8)
    model.initialise(x, cond)
    with torch.no_grad():
        h = None if cond is None else twin.encode_condition(cond, 8, 8, 7).expand(-1, -1, 8, 7)
        small = x[:, :, ::2, ::2]
        twin.networks[0].initialise(small, None if h is None else h[:, :, ::2, ::2])
        told = twin.upsamplers[0](twin.encode(small), (8, 7))
        twin.networks[1].initialise(x, told if h is None else torch.cat([told, h], 1))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in twin.state_dict().items())
    for network in model.networks:
        assert not torch.equal(network.first.u.gain, variant_model("mixture").networks[0].first.u.gain)
    with pytest.raises(InputError, match="integers"):
        model.initialise(x.float(), cond)


def test_the_stages_share_one_table_of_embeddings(tmp_path):
    model = tiny_model(NAME, inputs="embedding")
    assert [key for key in model.state_dict() if "encode" in key] == ["encode.table.weight"]
    model.save(tmp_path)
    twins = [
        model,
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        nextpixel.load(tmp_path),
        copy.deepcopy(model).float(),
    ]
    for twin in twins:
        assert all(network.encode is twin.encode for network in twin.networks)
        assert twin is model or twin.encode.table.weight is not model.encode.table.weight
    assert twins[-1].networks[1].encode(images(model)).dtype is torch.float32
    x = images(model)
    before = [network.encode(x) for network in model.networks]
    with torch.no_grad():
        model.encode.table.weight.add_(1)
    assert all(torch.equal(network.encode(x), old + 1) for network, old in zip(model.networks, before, strict=True))


@pytest.mark.parametrize("variant", ["three", "three-rgb-embedding", "mixture", "one"])
def test_every_parameter_belongs_to_one_stage(variant):
    model = variant_model(variant)
    shares = [{id(p) for p in model.stage_parameters(k)} for k in range(len(model.strides))]
    assert sum(map(len, shares)) == len(set().union(*shares)) == len(list(model.parameters()))
    x, cond = images(model), random_cond(model)
    for k, share in enumerate(shares):
        model.zero_grad()
        model.stage_log_prob(k, x, cond).sum().backward()
        with_gradient = {id(p) for p in model.parameters() if p.grad is not None}
        assert with_gradient - share <= {id(p) for p in model.encode.parameters()}


def test_a_model_does_not_share_its_settings_with_the_caller():
    stages = [stage(2, "pixelcnn"), stage(1, "pixelcnn")]
    model = tiny_model(NAME, stages=stages)
    stages[0]["features"] = 99
    model.config["stages"][1]["features"] = 99
    assert [settings["features"] for settings in model.stages] == [8, 8]
    assert [network.shape for network in three_stages((2, 7, 5)).networks] == [(2, 2, 2), (2, 4, 3), (2, 7, 5)]


# --- configurations that make no model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], r"stages must be a list of settings, each with a stride and a name, not \[\]"),
        (2, r"stages must be a list of settings, .* not 2"),
        (["pixelcnn"], r"stages must be a list of settings, .* not \['pixelcnn'\]"),
        ([{"name": "pixelcnn"}], r"stage 0 must have a stride and a name, not only name"),
        ([stage(2, "pixelcnn"), {}], r"stage 1 must have a stride and a name, not only nothing"),
        ([stage(2, "pixelcnn")], r"strides must fall to 1, each a divisor of the one before, not \(2,\)"),
        ([stage(1, "pixelcnn"), stage(1, "pixelcnn")], r"must fall to 1, .* not \(1, 1\)"),
        ([stage(1, "pixelcnn"), stage(2, "pixelcnn")], r"must fall to 1, .* not \(1, 2\)"),
        ([stage(3, "pixelcnn"), stage(2, "pixelcnn"), stage(1, "pixelcnn")], r"must fall to 1, .* not \(3, 2, 1\)"),
        ([stage(2.0, "pixelcnn"), stage(1, "pixelcnn")], r"must be integers of at least 1, not \(2\.0, 1\)"),
        ([stage(0, "pixelcnn"), stage(1, "pixelcnn")], r"must be integers of at least 1, not \(0, 1\)"),
        ([stage(2, "pixelcnn"), {"stride": 1, "name": "pixelrmm"}], r"stage 1 cannot be 'pixelrmm': expected one of pixelcnn, "),
        ([{"stride": 1, "name": "multiscale"}], r"stage 0 cannot be 'multiscale': expected one of pixelcnn, (?!.*multiscale)"),
        ([{"stride": 1, "name": ["pixelcnn"]}], r"stage 0 cannot be \['pixelcnn'\]: expected one of"),
        ([stage(1, "pixelcnn", dropout=0.5)], r"stage 0: pixelcnn has no dropout: expected some of features, blocks"),
        ([stage(1, "pixelcnn", levels=4)], r"stage 0: levels belongs to the whole model, not to one of its stages"),
        ([stage(2, "pixelcnn"), stage(1, "pixelcnn", features=0)], r"stage 1, pixelcnn: features must be at least 1, not 0"),
    ],
    ids=str,
)
def test_stages_that_make_no_model(stages, message):
    with pytest.raises(InputError, match=message) as error:
        MultiScale(shape=(1, 8, 8), levels=4, stages=stages)
    assert "\n" not in str(error.value)


def test_an_upsampler_needs_maps():
    with pytest.raises(InputError, match=r"upsampler_features must be at least 1, not 0"):
        tiny_model(NAME, upsampler_features=0)


def test_conditions_are_given_to_stages_as_maps():
    for condition, features in ((None, [None, 12]), (Labels(4), [4, 16]), (SpatialMap(2), [2, 14])):
        model = MultiScale(**{**MultiScale.presets["tiny"], "condition": condition})
        found = [network.condition and network.condition.features for network in model.networks]
        assert found == features
