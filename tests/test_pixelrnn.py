"""PixelRNN beside plain double loops that share no code with it, its options, and the contexts that the paper promises.

The reference visits one place after the other, looks its neighbours up by their coordinates, and knows no lines and no packing.
"""

import itertools

import pytest
import torch
from pairs import Some, pairs
from tiny import CONDITIONS, FEW, all_images, images, largest_gap, random_cond, reach, scan, tiny_model

import nextpixel
from nextpixel.errors import InputError
from nextpixel.inspection import model_context
from nextpixel.layers.diagonal_lstm import DiagonalBiLSTMLayer
from nextpixel.layers.grid import colour_groups
from nextpixel.layers.lstm import RowLSTMLayer
from nextpixel.layers.recurrence import Diagonals, Rows, diagonals, lstm, rows

SIZES = [(3, 5), (4, 4), (5, 3), (1, 4), (4, 1), (1, 1), (2, 7), (7, 2)]
each_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
CONDITIONED = ["none", "vector", "map"]
NETWORKS = ["row-lstm", "diagonal-bilstm"]
each_network = pytest.mark.parametrize("name", NETWORKS)
BOTH = [True, False]
OPTIONS = [
    pytest.param({"residual": residual, "skip": skip}, id=f"residual{residual}-skip{skip}")
    for residual, skip in itertools.product(BOTH, repeat=2)
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def normal(layer):
    """In float64, every parameter non-zero, the masked ones too."""
    layer = layer.double()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return layer


def cell(gates, c):
    """Equation 3, with a tanh for g: (B, 4F) and (B, F) to h and c."""
    o, f, i, g = gates.chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def outside(states, i, j, edge):
    return states.get((i, j), edge)


def double_loop(inputs, size, neighbours, before, h_edge, c_edge):
    """h (B, F, H, W) from gates' inputs (B, 4F, H, W); `neighbours` are (weight, row offset, column offset) of earlier h."""
    h, c = {}, {}
    for i, j in itertools.product(range(size[0]), range(size[1])):
        gates = inputs[:, :, i, j]
        for weight, di, dj in neighbours:
            inside = 0 <= j + dj < size[1]
            edge = h_edge if inside and i + di < 0 else torch.zeros_like(h_edge)
            gates = gates + outside(h, i + di, j + dj, edge) @ weight.T
        c_before = c.get((i + before[0], j + before[1]), c_edge if i + before[0] < 0 else torch.zeros_like(c_edge))
        h[i, j], c[i, j] = cell(gates, c_before)
    rows = [torch.stack([h[i, j] for j in range(size[1])], 2) for i in range(size[0])]
    return torch.stack(rows, 2)


def masked_products(conv, x, columns):
    """Input-to-state by its definition: place by place, only the maps of colours up to the output's own at the place itself."""
    batch, features, height, width = x.shape
    maps = conv.out_features
    colour_in = [c for c, g in enumerate(colour_groups(features, conv.colours)) for _ in range(g.start, g.stop)]
    colour_out = [c for c, g in enumerate(colour_groups(maps // 4, conv.colours)) for _ in range(g.start, g.stop)] * 4
    out = conv.bias[None, :, None, None].expand(batch, maps, height, width).clone()
    for i, j, o, f, v in itertools.product(range(height), range(width), range(maps), range(features), range(columns)):
        column = j + v - (columns - 1)
        if column >= 0 and (v < columns - 1 or colour_in[f] <= colour_out[o]):
            out[:, o, i, j] += conv.weight[o, f, 0, v] * x[:, f, i, column]
    return out


def encoded(condition, size, batch=2):
    """An encoded condition of 3 maps."""
    if condition == "none":
        return None
    return torch.randn(batch, 3, *(size if condition == "map" else (1, 1)), dtype=torch.float64)


def bias_of(condition, h, size):
    return 0 if condition is None else torch.einsum("oc,bchw->bohw", condition.conv.weight[:, :, 0, 0], h.expand(-1, -1, *size))


def row_lstm_by_hand(layer, x, h):
    size, k = x.shape[2:], layer.kernel_size
    gates = masked_products(layer.input_to_state, x, k // 2 + 1) + bias_of(layer.condition, h, size)
    above = [(layer.state_to_state[:, v], -1, v - k // 2) for v in range(k)]
    edges = [edge.expand(len(x), -1) for edge in (layer.h_above, layer.c_above)]
    return double_loop(gates, size, above, (-1, 0), *edges)


def diagonal_bilstm_by_hand(layer, x, h, image):
    size, zeros = x.shape[2:], x.new_zeros(len(x), layer.features)
    maps = []
    for k, (conv, condition) in enumerate(
        ((layer.to_left_state, layer.condition_left), (layer.to_right_state, layer.condition_right))
    ):
        gates = masked_products(conv, x, 1) + bias_of(condition, h, size)
        before, above = layer.state_to_state[k].split(layer.features, 1)
        if k:
            gates = gates + torch.einsum("oc,bchw->bohw", layer.image_to_right_state.weight[:, :, 0, 0], image)
            gates = gates.flip(3)
        y = double_loop(gates, size, [(before, 0, -1), (above, -1, 0)], (0, -1), zeros, zeros)
        maps.append(y.flip(3) if k else y)
    left, right = maps
    shifted = torch.zeros_like(right)
    shifted[:, :, 1:] = right[:, :, :-1]
    return left + shifted


def row_layer(colours, condition, kernel_size=3):
    return normal(RowLSTMLayer(5, 4, kernel_size, colours, 0 if condition == "none" else 3))


def diagonal_layer(colours, condition):
    return normal(DiagonalBiLSTMLayer(5, 4, colours, 0 if condition == "none" else 3, image_features=2))


# --- the parallel path against the double loop ----------------------------------------------------------------------------


@pairs(size=SIZES, colours=[1, 3], condition=CONDITIONED, kernel_size=[1, 3, 5])
def test_row_lstm_is_the_double_loop(size, colours, condition, kernel_size):
    layer, x = row_layer(colours, condition, kernel_size), torch.randn(2, 5, *size, dtype=torch.float64)
    h = encoded(condition, size)
    torch.testing.assert_close(layer(x, h), row_lstm_by_hand(layer, x, h), rtol=0, atol=1e-12)


@pairs(size=SIZES, colours=[1, 3], condition=CONDITIONED)
def test_diagonal_bilstm_is_the_double_loop(size, colours, condition):
    layer, x = diagonal_layer(colours, condition), torch.randn(2, 5, *size, dtype=torch.float64)
    h, image = encoded(condition, size), torch.randn(2, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x, h, image), diagonal_bilstm_by_hand(layer, x, h, image), rtol=0, atol=1e-12)


@each_size
@pytest.mark.parametrize("kind", ["row", "diagonal"])
def test_gradients_are_those_of_the_double_loop(kind, size):
    x, image = torch.randn(2, 5, *size, dtype=torch.float64).requires_grad_(), torch.randn(2, 2, *size, dtype=torch.float64)
    layer, extra = (row_layer(3, "vector"), ()) if kind == "row" else (diagonal_layer(3, "vector"), (image,))
    h = encoded("vector", size).requires_grad_()
    by_hand = row_lstm_by_hand if kind == "row" else diagonal_bilstm_by_hand
    wanted = [x, h, *layer.parameters()]
    direction = torch.randn(2, 4, *size, dtype=torch.float64)
    found = torch.autograd.grad((layer(x, h, *extra) * direction).sum(), wanted, allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad((by_hand(layer, x, h, *extra) * direction).sum(), wanted, allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=0, atol=1e-12)
    assert sum(theirs is not None and theirs.abs().max() > 1e-3 for theirs in expected) > 4


def test_a_second_derivative_is_refused_rather_than_wrong():
    weight = torch.zeros(1, 8, 6, dtype=torch.float64, requires_grad=True)
    lines = Rows(2, 2, 3)
    inputs = torch.randn(1, 8, lines.size, 1, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(lstm(inputs, weight, lines).sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


def test_a_float32_lstm_stays_float32_under_autocast():
    layer, x = RowLSTMLayer(5, 4), torch.randn(2, 5, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, None)
    assert y.dtype is torch.float32
    torch.testing.assert_close(y, layer(x, None), rtol=0, atol=0.02)


@each_size
@pytest.mark.parametrize("kind", ["row", "left", "right"])
def test_packed_maps_come_back(kind, size):
    lines = Rows(*size, 5) if kind == "row" else Diagonals(*size, mirrored=kind == "right")
    x = torch.randn(3, *size, 2)
    packed = lines.pack(x)
    assert packed.shape == (3, lines.size, 2)
    assert torch.equal(lines.unpack(packed), x)
    # Every place once, in lines that never overlap.
    places = sorted(start + n for start, count, _, _ in lines.lines for n in range(count))
    assert len(places) == len(set(places)) == size[0] * size[1]


# --- the clocks -----------------------------------------------------------------------------------------------------------


@pairs(kind=["row", "diagonal"], size=SIZES, colours=[1, 3], condition=CONDITIONED)
def test_layer_step_is_forward(kind, size, colours, condition):
    layer = row_layer(colours, condition) if kind == "row" else diagonal_layer(colours, condition)
    x, image = torch.randn(2, 5, *size, dtype=torch.float64), torch.randn(2, 2, *size, dtype=torch.float64)
    h = encoded(condition, size)
    with torch.no_grad():
        expected = layer(x, h) if kind == "row" else layer(x, h, image)
        cache = layer.start(2, size[1], h)
        for i in range(size[0]):
            finished = () if kind == "row" else (image[:, :, max(0, i - 1)].transpose(1, 2),)
            layer.begin_row(cache, i, *finished)
            for j in range(size[1]):
                for c, (group_in, group_out) in enumerate(zip(colour_groups(5, colours), colour_groups(4, colours), strict=True)):
                    for _ in range(2):  # a repeated step is harmless
                        y = layer.step(cache, x[:, group_in, i, j], j, c)
                    torch.testing.assert_close(y, expected[:, group_out, i, j], rtol=0, atol=1e-12)


# --- the networks ---------------------------------------------------------------------------------------------------------


@pairs(
    name=NETWORKS,
    channels=[1, 3],
    condition=Some(FEW, CONDITIONS),
    blocks=[1, 3],
    connections=[*itertools.product(BOTH, repeat=2)],
)
def test_step_is_forward_with_every_connection(name, channels, condition, blocks, connections):
    residual, skip = connections
    model = tiny_model(name, (channels, 4, 5), condition=condition, blocks=blocks, residual=residual, skip=skip)
    x, cond = images(model, 2), random_cond(model, 2)
    assert largest_gap(model, x, scan(model, x, cond), cond) < 1e-10
    assert torch.equal(model.sample(2, cond, seed=1), model.sample(2, cond, seed=1, method="naive"))


@pytest.mark.parametrize("options", OPTIONS)
@each_network
def test_every_connection_is_causal_and_used(name, options):
    found, earlier = reach(name, (3, 3, 4), blocks=2, **options)
    assert (found[~earlier] == 0).all()
    model = tiny_model(name, (3, 3, 4), blocks=2, **options).train()
    model.log_prob(images(model, 4)).sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("options", OPTIONS)
@each_network
def test_probabilities_sum_to_1_with_every_connection(name, options):
    model = tiny_model(name, (3, 1, 2), levels=2, **options)
    assert model.log_prob(all_images(3, 1, 2, 2)).exp().sum().item() == pytest.approx(1, abs=1e-10)


@each_network
def test_a_fresh_network_remembers(name):
    biases = [
        p
        for key, p in nextpixel.MODELS[name](**nextpixel.MODELS[name].presets["tiny"]).named_parameters()
        if key.endswith("state.bias")
    ]
    assert len(biases) == {"row-lstm": 2, "diagonal-bilstm": 4}[name]
    for bias in biases:
        output, forget, write, new = bias.chunk(4)
        assert (forget == 1).all()
        assert (torch.cat([output, write, new]) < 1).all()


@each_network
def test_the_first_scan_of_a_size_leaves_it_fit_for_gradients(name):
    model = tiny_model(name, (1, 3, 4))
    rows.cache_clear()
    diagonals.cache_clear()
    with torch.inference_mode():
        model(images(model))
    model.train().log_prob(images(model)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "preset"),
    [(name, preset) for name in ("row-lstm", "diagonal-bilstm") for preset in nextpixel.MODELS[name].presets],
)
def test_parameters_are_those_of_the_layers_in_the_paper(name, preset):
    cls = nextpixel.MODELS[name]
    sizes = cls.presets[preset]
    with torch.device("meta"):
        model = cls(**sizes)
    (c, h, blocks) = sizes["shape"][0], sizes["features"], sizes["blocks"]
    head, params = sizes["head_features"], model.likelihood.params
    residual = sizes.get("residual", True)
    first = c * 2 * h * 4 * 7 + 2 * h  # of a 7x7 kernel, the row of the place and the three above it
    total, into = first, 2 * h
    for k in range(blocks):
        if name == "row-lstm":
            total += into * 4 * h * 2 + 4 * h + 4 * h * h * 3 + 2 * h
        else:
            total += 2 * (into * 4 * h + 4 * h + 4 * h * 2 * h) + (c * 4 * h if k == 0 else 0)
        total += h * 2 * h if residual else 0
        into = 2 * h if residual else h
    total += into * head + head + head * params + params
    assert sum(p.numel() for p in model.parameters()) == total


# --- the context ----------------------------------------------------------------------------------------------------------


def test_row_lstm_sees_a_triangle():
    model = nextpixel.RowLSTM(shape=(1, 9, 11), levels=2, features=6, blocks=2, first_kernel_size=3)
    i, j = 6, 5
    reached = model_context(model, (i, j)).reached
    # To the right one column more with each row further up, from the first convolution's one; to the left far more, since each
    # input-to-state map also reads the place to its left.
    rows, columns = torch.arange(9)[:, None], torch.arange(11)
    up, ahead = i - rows, columns - j
    # One column of the first convolution, and one of each of the two layers' windows.
    expected = (up >= 0) & (-ahead <= up + 3) & torch.where(up == 0, ahead < 0, ahead <= up)
    assert torch.equal(torch.from_numpy(reached), expected)


@pytest.mark.parametrize("place", [(8, 0), (8, 5), (8, 10), (4, 1), (1, 0)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_diagonal_bilstm_sees_everything(blocks, place):
    model = nextpixel.DiagonalBiLSTM(shape=(1, 9, 11), levels=2, features=6, blocks=blocks, first_kernel_size=3)
    context = model_context(model, place)
    assert (context.reached == context.past).all()


# --- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nextpixel.RowLSTM(shape=(1, 4, 4), kernel_size=2), "kernel_size must be odd, not 2"),
        (lambda: nextpixel.RowLSTM(shape=(1, 4, 4), blocks=0), "blocks must be at least 1, not 0"),
        (lambda: nextpixel.DiagonalBiLSTM(shape=(1, 4, 4), features=0), "features must be at least 1, not 0"),
        (lambda: nextpixel.DiagonalBiLSTM(shape=(3, 4, 4), features=2), "2 features cannot be cut into 3 colour groups"),
        (lambda: nextpixel.DiagonalBiLSTM(shape=(1, 4, 4), first_kernel_size=4), "kernel_size must be odd, not 4"),
    ],
)
def test_sizes_that_make_no_network_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
