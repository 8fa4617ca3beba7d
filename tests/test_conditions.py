"""Conditions reach every layer, upsampled maps lie where they should, and "unconditional" means h = 0 everywhere.

The contract's own tests hold every architecture to every kind of condition; guidance has a file of its own.
"""

import copy
import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from pairs import Some, pairs
from tiny import CONDITIONS, FEW, images, of_images, random_cond, tiny_condition, tiny_model

import nextpixel
from nextpixel import Combination, Labels, SpatialMap, Vector
from nextpixel.conditions import CONDITIONS as CONDITIONS_BY_NAME
from nextpixel.conditions import default_cond, encoder_of, make_condition
from nextpixel.errors import InputError
from nextpixel.layers.conditioning import ConditionBias, Upsampler
from nextpixel.layers.pixelcnn_pp import LeftResnet, UpperResnet
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.sampling.draw import METHODS
from nextpixel.training.objective import Likelihood
from nextpixel.training.processes import Agreement

KINDS = CONDITIONS[1:]
each_model = pytest.mark.parametrize("name", nextpixel.MODELS)
each_kind = pytest.mark.parametrize("kind", KINDS)


def normal(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.double().parameters():
            p.normal_(0, 0.5, generator=generator)
    return module


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- every layer -----------------------------------------------------------------------------------------------------------


def biases(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, ConditionBias)}


@pairs(name=nextpixel.MODELS, kind=KINDS, channels=[1, 3])
@torch.no_grad()
def test_the_condition_alone_in_any_layer_changes_the_first_pixel(name, kind, channels):
    reached = {}
    for seed in range(4):  # a ReLU that is dead in one model hides nothing in the next
        model = tiny_model(name, (channels, 3, 4), condition=kind, seed=seed)
        x, conds = images(model, 8), [random_cond(model, 8, seed=s) for s in (6, 7)]
        parts = list(zip(*(model.parts(x, model.encode_condition(cond, 8, 3, 4)) for cond in conds), strict=True))
        for k, (stride, ((part, one), (_, other))) in enumerate(zip(model.strides, parts, strict=True)):
            inputs = model.encode(x[:, :, ::stride, ::stride])
            weights = {key: layer.conv.weight.clone() for key, layer in biases(part).items()}
            for key, weight in weights.items():
                for other_key, layer in biases(part).items():
                    layer.conv.weight.copy_(weight if other_key == key else 0)
                gap = (part.network(inputs, one) - part.network(inputs, other)).abs().amax((0, 1))
                # The right-to-left half of a BiLSTM is shifted down: the first pixel that it can reach is that of row 1.
                row = 1 if key.endswith("condition_right") and part.name == "diagonal-bilstm" else 0
                assert (gap[:row] == 0).all()
                reached[k, key] = max(reached.get((k, key), 0), gap[row, 0].item())
        if min(reached.values()) > 1e-6:
            break
    assert min(reached.values()) > 1e-6, reached


@each_model
def test_every_layer_has_its_condition(name):
    model = tiny_model(name, condition="vector", **{"gated-pixelcnn": {"blocks": 4}}.get(name, {}))

    def expected(part):
        if part.name == "pixelcnn++":
            return sum(isinstance(module, UpperResnet | LeftResnet) for module in part.modules())
        # The last gated layer hands nothing up on its vertical stack; the BiLSTM has two directions.
        per_model = {"pixelcnn": part.blocks + 1, "gated-pixelcnn": 2 * part.blocks - 1, "row-lstm": part.blocks}
        return {**per_model, "diagonal-bilstm": 2 * part.blocks}[part.name]

    parts = [part for part, _ in model.parts(images(model), model.encode_condition(random_cond(model), 2, 3, 4))]
    assert [len(biases(part)) for part in parts] == [expected(part) for part in parts]
    assert min(len(biases(part)) for part in parts) > 1


# --- upsampled maps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "steps"),
    [
        (28, [(7, 7), (2, 2), (2, 2)]),
        ((4, 6), [(2, 3), (2, 2)]),
        ((1, 6), [(1, 3), (1, 2)]),
        ((31, 1), [(31, 1)]),
        ([2, 3], [(2, 3)]),
        (1, [(1, 1)]),
    ],
    ids=str,
)
def test_a_factor_is_as_many_transposed_convolutions_as_it_has_primes(factor, steps):
    condition = SpatialMap(2, factor, maps=3)
    network = condition.upsampler
    assert [layer.stride for layer in (network.grow, *network.grow_further)] == steps
    assert network.factor == condition.factor
    assert condition.features == 3


@pytest.mark.parametrize(
    ("factor", "size"), [((2, 3), (5, 7)), (4, (9, 13)), ((6, 4), (7, 12)), (8, (3, 5)), ((1, 4), (3, 9)), (1, (4, 3))], ids=str
)
def test_a_place_of_the_map_is_its_rows_and_columns_of_the_image(factor, size):
    condition = normal(SpatialMap(2, factor, maps=24))
    coarse = [-(-side // f) for side, f in zip(size, condition.factor, strict=True)]
    cond = randn(2, *coarse)

    def maps(cond):
        h = condition(cond, 3, *size)
        assert h.shape == (3, 24, *size)
        return h[0].sum(0)

    found = torch.autograd.functional.jacobian(maps, cond).abs().sum(2) > 0  # (H, W, a, b)
    for i, j, a, b in itertools.product(*map(range, (*size, *coarse))):
        # 3x3 on the image, then down to the places that the image's belong to, then 3x3 on the map.
        sides = zip((i, j), (a, b), size, condition.factor, strict=True)
        near = [
            min(abs(place - p // f) for p in range(max(own - 1, 0), min(own + 1, side - 1) + 1)) <= 1
            for own, place, side, f in sides
        ]
        assert found[i, j, a, b] == all(near)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (28, 20), (29, 57)], ids=str)
def test_a_vector_becomes_a_map_of_any_size(size):
    condition = normal(SpatialMap(5, 28, maps=3))
    vectors = randn(2, 5)
    h = condition(vectors, 2, *size)
    assert h.shape == (2, 3, *size)
    places = [-(-side // 28) for side in size]
    assert torch.equal(h, condition(vectors[..., None, None].expand(-1, -1, *places), 2, *size))
    torch.testing.assert_close(condition(vectors[1], 4, *size)[3], h[1], rtol=0, atol=1e-12)
    if min(size) > 1:
        assert h[0].std((1, 2)).min() > 1e-3, "the same at every place: the transposed convolutions do nothing"


def test_a_map_of_the_images_size_is_used_as_it_is():
    condition, cond = SpatialMap(2), randn(3, 2, 4, 5).float()
    assert torch.equal(condition(cond, 3, 4, 5), cond)
    assert torch.equal(condition(cond[0], 3, 4, 5), cond[:1].expand(3, -1, -1, -1))
    assert list(condition.parameters()) == []
    assert condition.config == {"name": "spatial-map", "features": 2}


def test_an_upsampler_is_its_formula():
    network, x = normal(Upsampler(2, 3, (3, 2), (1, 4))), randn(2, 2, 2, 3)
    y = F.conv2d(x, network.first.weight, network.first.bias, padding=1).relu()
    for layer, (rows, columns) in zip((network.grow, *network.grow_further), ((3, 2), (1, 4)), strict=True):
        blocks = torch.einsum("bfij,fouv->boiujv", y, layer.weight) + layer.bias[:, None, None, None, None]
        assert blocks.shape[3::2] == (rows, columns)
        y = blocks.flatten(4, 5).flatten(2, 3).relu()
    y = F.conv2d(y[:, :, :5, :23], network.out.weight, network.out.bias, padding=1)
    torch.testing.assert_close(network(x, (5, 23)), y, rtol=0, atol=1e-12)


def test_an_upsampler_does_not_give_a_smaller_map_than_asked_for():
    with pytest.raises(ValueError, match=r"a map of \(2, 2\) times \(4, 6\) does not fill \(8, 13\)"):
        Upsampler(1, 1, 2, (2, 3))(torch.zeros(1, 1, 2, 2), (8, 13))


@pairs(name=nextpixel.MODELS, guidance=[1.0, 2.0], method=[None, "cached", "naive"])
def test_a_scan_upsamples_once_and_without_gradients(name, guidance, method, monkeypatch):
    monkeypatch.setattr("nextpixel.sampling.draw.SCAN_BATCH", 2)
    model = tiny_model(name, condition="upsampled")
    calls = []
    model.condition.upsampler.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    model.sample(3, cond=random_cond(model, 3), method=method, guidance=guidance)
    assert calls == [False]
    model.complete(images(model), torch.tensor(False), 2, random_cond(model), method=method, guidance=guidance)
    assert calls == [False, False]


@pairs(name=Some(["gated-pixelcnn", "multiscale"], nextpixel.MODELS))  # the gradient reaches it in all: test_contract.py
def test_the_network_of_a_map_trains(name):
    torch.manual_seed(0)
    model = nextpixel.MODELS[name](
        **{**nextpixel.MODELS[name].presets["tiny"], "shape": (1, 4, 4), "levels": 2, "condition": SpatialMap(1, 4, maps=8)}
    )
    x = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]]).repeat(8, 1)[:, None, None].expand(-1, 1, 4, 4)
    cond = torch.tensor([[1.0], [-1.0]]).repeat(8, 1)
    before = copy.deepcopy(model.condition.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        loss = model.bits_per_dim(x, cond).mean()
        loss.backward()
        optimizer.step()
    # One bit tells the images apart, and only the condition knows it: without it the first pixel costs 1 / 16.
    assert loss < 0.04
    assert all(not torch.equal(before[key], value) for key, value in model.condition.state_dict().items())


# --- several at once -------------------------------------------------------------------------------------------------------


def test_a_combination_is_the_concatenation_in_order():
    vector, cond = randn(3, 2), randn(3, 2, 4, 5)
    h = Combination(Labels(3), SpatialMap(2), Vector(2)).double()([[2, 0, 1], cond, vector], 3, 4, 5)
    expected = torch.zeros(3, 7, 4, 5, dtype=torch.float64)
    for b, label in enumerate((2, 0, 1)):
        expected[b, label] = 1
        expected[b, 3:5] = cond[b]
        expected[b, 5:] = vector[b, :, None, None]
    assert torch.equal(h, expected)


def test_a_combination_without_places_has_none():
    h = Combination(Labels(3), Combination(Vector(2), Labels(2)))((1, (torch.tensor([3.0, 4.0]), 0)), 2, 4, 5)
    assert h.tolist() == [[[[v]] for v in (0, 1, 0, 3, 4, 1, 0)]] * 2


def test_conditions_survive_json():
    whole = Combination(Labels(3), Combination(SpatialMap(2, (4, 6), maps=5), Vector(2)), SpatialMap(1))
    config = json.loads(json.dumps(whole.config))
    twin = make_condition(config)
    assert twin.config == whole.config == config
    assert [(key, p.shape) for key, p in twin.state_dict().items()] == [(key, p.shape) for key, p in whole.state_dict().items()]
    assert (twin.features, len(twin.state_dict())) == (3 + 5 + 2 + 1, 8)
    # As models of the first versions have them
    for old in ({"name": "labels", "features": 3}, {"name": "vector", "features": 4}, {"name": "spatial-map", "features": 2}):
        assert make_condition(old).config == old


def test_configs_and_conditions_may_be_mixed():
    assert Combination({"name": "labels", "features": 3}, Vector(2)).features == 5


# --- every kind --------------------------------------------------------------------------------------------------------------


@each_kind
def test_a_model_draws_codes_and_saves(kind, tmp_path):
    model = tiny_model("gated-pixelcnn", (1, 3, 4), 5, condition=kind)
    condition, cond = model.condition, random_cond(model, 5)
    assert make_condition(condition.config).config == condition.config
    x, *others = (model.sample(5, cond, seed=1, method=method) for method in METHODS)
    assert all(torch.equal(x, other) for other in others)
    # What it declares of the `cond` of many images, and of h.
    of_all = condition.as_tensors(cond)
    assert (condition.length(of_all), condition.length(condition.as_tensors(of_images(cond, lambda part: part[0])))) == (5, None)
    h = model.encode_condition(cond, 5, 3, 4)
    assert torch.equal(model.encode_condition(condition.select(of_all, slice(1, 3)), 2, 3, 4), h[1:3])
    assert condition.places is (h.shape[2:] == (3, 4))
    if encoder_of(condition) is None:
        data = nextpixel.compress(model, x, cond)
        assert torch.equal(
            nextpixel.decompress(model, data, None if condition.source == "label" and not isinstance(cond, tuple) else cond), x
        )
    if condition.source == "label":
        assert condition.default(6).tolist() == [k % condition.given for k in range(6)]
    elif not condition.asks:
        assert default_cond(model, 6) is None
    else:
        with pytest.raises(InputError, match="in Python"):
            default_cond(model, 6)
    model.save(tmp_path / "model")
    assert torch.equal(nextpixel.load(tmp_path / "model").log_prob(x, cond), model.log_prob(x, cond))


def test_the_kinds_are_those_of_the_registry():
    assert {tiny_condition(kind).name for kind in KINDS} == CONDITIONS_BY_NAME.keys()


# --- unconditional: h = 0 --------------------------------------------------------------------------------------------------


@pairs(name=nextpixel.MODELS, kind=Some(FEW[1:], KINDS))
@torch.no_grad()
def test_images_that_are_not_kept_have_no_bias_in_any_layer(name, kind):
    model = tiny_model(name, (3, 3, 4), condition=kind)
    x, cond, kept = images(model, 4), random_cond(model, 4), torch.tensor([True, False, False, True])
    h = model.encode_condition(cond, 4, 3, 4, kept)
    assert torch.equal(h[kept], model.encode_condition(cond, 4, 3, 4)[kept])
    assert (h[~kept] == 0).all()
    blind = copy.deepcopy(model)
    for layer in biases(blind).values():
        layer.conv.weight[:, -model.condition.features :] = 0  # before them, a coarser stage's maps
    expected = torch.where(kept[:, None, None, None], model(x, cond), blind(x, cond))
    torch.testing.assert_close(model(x, cond, kept), expected, rtol=0, atol=1e-12)
    assert (model(x, cond) - blind(x, cond)).abs().amax((1, 2, 3)).min() > 1e-6


def with_dropout(name="gated-pixelcnn", p=0.3, kind="labels", **settings):
    return Likelihood(tiny_model(name, (1, 3, 4), condition=kind), TrainingSettings(condition_dropout=p, **settings))


def seen_h(model, monkeypatch):
    seen = []
    real = type(model).encode_condition

    def encode_condition(self, *args, **kwargs):
        seen.append(real(self, *args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(type(model), "encode_condition", encode_condition)
    return seen


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_a_training_step_drops_this_part_of_the_conditions(p, monkeypatch):
    objective = with_dropout(p=p).train()
    seen, n = seen_h(objective.network, monkeypatch), 4000
    x, labels = images(objective.network, n), random_cond(objective.network, n)
    for _ in range(2):
        objective((x, labels))
    whole = F.one_hot(labels, 4)[:, :, None, None].double()
    dropped = [(h == 0).flatten(1).all(1) for h in seen]
    for h, lost in zip(seen, dropped, strict=True):
        assert torch.equal(h[~lost], whole[~lost])
        assert abs(lost.double().mean() - p) < 5 * (p * (1 - p) / n) ** 0.5
    assert not torch.equal(*dropped), "the same images lose their condition in every step"


class Labelled:
    """Images with labels, as a split gives them."""

    def __init__(self, x, labels):
        self.x, self.labels = x, labels

    def __len__(self):
        return len(self.x)

    def __getitems__(self, indices):
        return self.x[indices], self.labels[indices]


def test_validation_and_a_dropout_of_0_keep_every_condition(monkeypatch):
    objective = with_dropout(p=0.9).eval()
    model = objective.network
    seen = seen_h(model, monkeypatch)
    batch = images(model, 20), random_cond(model, 20)
    objective.validate(model, Labelled(*batch), Agreement(Fabric(accelerator="cpu", devices=1)), lambda done, total: None)
    with_dropout(p=0.0).train()(batch)
    assert [(h == 0).flatten(1).all(1).any().item() for h in seen] == [False, False]


@pairs(name=nextpixel.MODELS, kind=Some(FEW[1:], KINDS))
@torch.no_grad()
def test_the_loss_under_dropout_is_that_of_both_kinds_of_images(name, kind):
    objective = with_dropout(name, kind=kind)
    model = objective.network
    x, kept = images(model, 4), torch.tensor([True, False, False, True])
    cond = x if kind == "encoded" else random_cond(model, 4)  # in training an autoencoder sees each image itself
    expected = torch.where(kept, model.bits_per_dim(x, cond), model.bits_per_dim(x, guidance=0)).mean()
    torch.testing.assert_close(objective.bits_per_dim((x, cond), kept), expected, rtol=0, atol=1e-12)
    if name == "multiscale":
        stages = [with_dropout(name, kind=kind, stage=k).bits_per_dim((x, cond), kept) for k in range(2)]
        torch.testing.assert_close(sum(stages), expected, rtol=0, atol=1e-12)


@pairs(kind=Some(["labels", "encoded", "combination"], KINDS))
@torch.no_grad()
def test_a_compiled_step_is_one_graph(kind):
    objective = with_dropout(kind=kind)
    x = images(objective.network, 4)
    batch = x, None if kind == "encoded" else random_cond(objective.network, 4)
    kept = torch.tensor([True, False, False, True])
    compiled = torch.compile(objective.bits_per_dim, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch, kept), objective.bits_per_dim(batch, kept))


# --- bad input -------------------------------------------------------------------------------------------------------------

ONES = torch.ones(2, 1, 3, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        ("labels", lambda m: m.log_prob(ONES, 4), r"from 0 to 3, not 4 to 4"),
        ("labels", lambda m: m.log_prob(ONES, "cat"), r"cond must be numbers, not str"),
        ("labels", lambda m: m.log_prob(ONES, torch.tensor([True, False])), r"integer labels, not torch\.bool"),
        ("vector", lambda m: m.log_prob(ONES, torch.zeros(2, 4)), r"\(5,\) or \(2, 5\), not \(2, 4\)"),
        ("vector", lambda m: m.log_prob(ONES, {"a": 1}), r"cond must be numbers, not dict"),
        ("vector", lambda m: m.log_prob(ONES), r"needs a condition .*vector.* none was given"),
        ("none", lambda m: m.log_prob(ONES, torch.zeros(2, 4)), r"takes no condition, but one was given"),
        ("upsampled", lambda m: m.log_prob(ONES, torch.zeros(2, 2, 3, 4)), r"\(2, 2, 2\) or .*, not \(2, 2, 3, 4\)"),
        ("upsampled", lambda m: m.log_prob(ONES, torch.zeros(2, 3)), r"\(2, 2, 2\) or .*, not \(2, 3\)"),
        ("combination", lambda m: m.log_prob(ONES, 3), r"tuple of 3 parts \(labels, spatial-map, vector\), not int"),
        ("combination", lambda m: m.log_prob(ONES, torch.zeros(3)), r"tuple of 3 parts .*, not Tensor"),
        ("combination", lambda m: m.log_prob(ONES, (1, 2)), r"tuple of 3 parts .*, not 2"),
        (
            "combination",
            lambda m: m.log_prob(ONES, (5, torch.zeros(2, 3, 2), torch.zeros(2))),
            r"part 0 of cond \(labels\): labels",
        ),
        ("combination", lambda m: m.sample(1, (1, torch.zeros(2, 3, 2), torch.zeros(3))), r"part 2 of cond \(vector\): .*\(3,\)"),
        ("combination", lambda m: m.sample(1, (1, torch.zeros(2, 3, 2), None)), r"part 2 of cond \(vector\): .*not NoneType"),
        ("none", lambda m: Labels(0), r"labels needs features >= 1, not 0"),
        ("none", lambda m: Vector(2.5), r"vector needs features >= 1, not 2\.5"),
        ("none", lambda m: SpatialMap(True), r"spatial-map needs features >= 1, not True"),
        ("none", lambda m: SpatialMap(2, 0), r"spatial-map needs factor >= 1, not 0"),
        ("none", lambda m: SpatialMap(2, (2, 2, 2)), r"factor of one or two numbers, not \(2, 2, 2\)"),
        ("none", lambda m: SpatialMap(2, "x"), r"factor of one or two numbers, not 'x'"),
        ("none", lambda m: SpatialMap(2, 2, 0), r"spatial-map needs maps >= 1, not 0"),
        ("none", lambda m: Combination(), r"at least one condition, but none was given"),
        ("none", lambda m: Combination(Labels(2), 3), r"part 1 of the combination: a condition must be a Condition .*, not 3"),
        ("none", lambda m: Combination(None), r"part 0 of the combination: .*, not None"),
        ("none", lambda m: make_condition({"name": "labels", "maps": 3}), r"labels has no maps: expected some of features"),
        ("none", lambda m: make_condition({"name": "spatial-map"}), r"spatial-map needs features >= 1, not None"),
        ("none", lambda m: make_condition({"name": "combination"}), r"needs a list of parts, not None"),
        ("none", lambda m: make_condition({"name": "combination", "features": 2}), r"combination has no features: .* parts"),
        (
            "none",
            lambda m: make_condition({"name": "combination", "parts": [{"name": "combination", "parts": [{"name": "magic"}]}]}),
            r"part 0 of the combination: part 0 of the combination: unknown condition 'magic': expected one of labels",
        ),
        ("none", lambda m: Likelihood(m, TrainingSettings(condition_dropout=0.1)), r"is 0\.1, but this gated-pixelcnn has no"),
        ("none", lambda m: TrainingSettings(condition_dropout=1.0).check(), r"condition_dropout is 1\.0: expected from 0 up to"),
        ("none", lambda m: TrainingSettings(condition_dropout=-0.1).check(), r"condition_dropout is -0\.1: expected from 0"),
    ],
)
def test_bad_input_is_named_in_one_line(kind, call, message):
    with pytest.raises(InputError, match=message) as error:
        call(tiny_model("gated-pixelcnn", condition=kind))
    assert "\n" not in str(error.value)


def test_conditions_are_modules_that_follow_their_model():
    model = tiny_model("gated-pixelcnn", condition="combination").float()
    assert {p.dtype for p in model.condition.parameters()} == {torch.float32}
    assert model.encode_condition(random_cond(model), 2, 3, 4).dtype is torch.float32
