"""The layers against plain loops that share no code with them, and their two paths against each other."""

import numpy as np
import pytest
import torch

from nextpixel.errors import InputError
from nextpixel.layers.conditioning import ConditionBias, condition_row
from nextpixel.layers.grid import colour_groups
from nextpixel.layers.masked import Head, MaskedConv2d, VerticalConv2d
from nextpixel.layers.pixelcnn_pp import FirstStreams, LeftResnet, PlaceHead, UpperResnet
from nextpixel.layers.pointwise import EmbeddingInput, IntensityInput, dropout, gated_activation
from nextpixel.layers.shifted import (
    DownRightShiftedConv2d,
    DownRightShiftedDeconv2d,
    DownShiftedConv2d,
    DownShiftedDeconv2d,
    NetworkInNetwork,
    WeightNormConv2d,
)

MASKED = [
    pytest.param(mask, kernel, colours, parts, id=f"{mask}-{kernel}-colours{colours}-parts{parts}")
    for mask in "AB"
    for kernel in (1, 3, 7, (1, 5), (5, 1), (3, 7))
    for colours in (1, 2, 3)
    for parts in (1, 2)
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def masked_layer(mask, kernel, colours, parts, bias=True):
    """5 maps to 7 (14 in two parts), no multiples of 2 or 3 colours; every weight non-zero, the masked ones too."""
    layer = MaskedConv2d(5, 7 * parts, kernel, mask, colours, parts, bias).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    return layer


def colour_of(f, features, colours):
    return f * colours // features


def masked_convolution(layer, x, kernel, mask, colours, parts):
    """The definition: every place, every offset of the kernel, and at the place itself only the colours that count."""
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    weight = layer.weight.detach().numpy()
    x = x.numpy()
    batch, features, height, width = x.shape
    maps = weight.shape[0]
    out = np.tile(layer.bias.detach().numpy()[:, None, None], (batch, 1, height, width))
    centre = np.zeros((maps, features))
    for o in range(maps):
        for f in range(features):
            ours, theirs = colour_of(o % (maps // parts), maps // parts, colours), colour_of(f, features, colours)
            centre[o, f] = theirs < ours or (mask == "B" and theirs == ours)
    for i in range(height):
        for j in range(width):
            for di in range(-(rows // 2), 1):
                for dj in range(-(columns // 2), columns // 2 + 1):
                    if not (0 <= i + di < height and 0 <= j + dj < width) or (di == 0 and dj > 0):
                        continue
                    kernel_here = weight[:, :, di + rows // 2, dj + columns // 2]
                    if (di, dj) == (0, 0):
                        kernel_here = kernel_here * centre
                    out[:, :, i, j] += x[:, :, i + di, j + dj] @ kernel_here.T
    return torch.from_numpy(out)


@pytest.mark.parametrize(("mask", "kernel", "colours", "parts"), MASKED)
def test_masked_convolution_is_its_definition(mask, kernel, colours, parts):
    layer, x = masked_layer(mask, kernel, colours, parts), torch.randn(2, 5, 4, 6, dtype=torch.float64)
    expected = masked_convolution(layer, x, kernel, mask, colours, parts)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def scanned(layer, x, row_bias=None):
    """The masked layer, place by place."""
    batch, _, height, width = x.shape
    cache = layer.start(batch, width)
    out = x.new_full((batch, layer.out_features, height, width), torch.nan)
    for i in range(height):
        layer.begin_row(cache, i, None if row_bias is None else row_bias[i])
        for j in range(width):
            for c, group in enumerate(colour_groups(layer.in_features, layer.colours)):
                out[:, cache.outputs[c], i, j] = layer.step(cache, x[:, group, i, j], j, c)
    return out


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (1, 5, 3, 1), (1, 5, 1, 3)], ids=str)
@pytest.mark.parametrize(("mask", "kernel", "colours", "parts"), MASKED)
def test_masked_convolution_step_is_forward(mask, kernel, colours, parts, shape):
    layer, x = masked_layer(mask, kernel, colours, parts), torch.randn(shape, dtype=torch.float64)
    row_bias = torch.randn(shape[2], shape[0], shape[3], layer.out_features, dtype=torch.float64)
    bias = layer.bias.clone()
    for extra in (None, row_bias):
        expected = layer(x) if extra is None else layer(x) + extra.permute(1, 3, 0, 2)
        torch.testing.assert_close(scanned(layer, x, extra), expected.detach(), rtol=0, atol=1e-12)
    assert torch.equal(layer.bias, bias), "a scan wrote to the layer's bias"


def test_a_residual_enters_the_step_of_a_layer_without_bias():
    layer, x = masked_layer("B", 1, 3, 1, bias=False), torch.randn(2, 5, 1, 1, dtype=torch.float64)
    add = torch.randn(2, 7, dtype=torch.float64)
    cache = layer.start(2, 1)
    groups = zip(colour_groups(5, 3), colour_groups(7, 3), strict=True)
    steps = [layer.step(cache, x[:, ins, 0, 0], 0, c, add=add[:, outs]) for c, (ins, outs) in enumerate(groups)]
    torch.testing.assert_close(torch.cat(steps, 1), layer(x)[:, :, 0, 0] + add, rtol=0, atol=1e-12)


def test_fresh_masked_weights_are_zero_and_the_others_within_their_bound():
    layer = MaskedConv2d(6, 8, 5, "A", colours=3)
    assert (layer.weight[layer.mask == 0] == 0).all()
    inputs = layer.mask.sum((1, 2, 3))
    scaled = layer.weight.abs().amax((1, 2, 3)) * inputs.sqrt()
    assert (scaled <= 1).all()
    assert (scaled > 0.5).all()
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize(("kernel", "first"), [(1, False), *((k, first) for k in (3, 5, 7) for first in (True, False))])
@torch.no_grad()
def test_vertical_convolution_is_its_definition_on_both_paths(kernel, first):
    layer = VerticalConv2d(3, 5, kernel, exclude_current_row=first).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    weight, r = layer.conv.weight.detach(), kernel // 2
    expected = layer.conv.bias.detach()[:, None, None].repeat(2, 1, 4, 6)
    for i in range(4):
        for j in range(6):
            for di in range(-r, 0 if first else 1):
                for dj in range(-r, r + 1):
                    if i + di >= 0 and 0 <= j + dj < 6:
                        expected[:, :, i, j] += x[:, :, i + di, j + dj] @ weight[:, :, di + r, dj + r].T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    # The first layer is given the row before the current one, the others the current one.
    rows = torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, :-1]], 2) if first else x
    cache = layer.start(2, 6)
    steps = [layer.begin_row(cache, row).clone() for row in rows.permute(2, 0, 3, 1)]
    torch.testing.assert_close(torch.stack(steps, 1).permute(0, 3, 1, 2), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("colours", [1, 2, 3])
@torch.no_grad()
def test_head_step_is_forward(colours):
    head = Head(5, 7, 6, colours).double()
    x = torch.randn(2, 5, 1, 4, dtype=torch.float64)
    expected, cache = head(x), head.start(2, 4)
    for j in range(4):
        for c, group in enumerate(colour_groups(5, colours)):
            found = head.step(cache, x[:, group, 0, j], j, c)
            exact = slice(0, colour_groups(6, colours)[c].stop)
            torch.testing.assert_close(found[:, exact], expected[:, exact, 0, j], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 4)])
def test_condition_bias_row_by_row_is_forward(size):
    layer, h = ConditionBias(2, 5).double(), torch.randn(3, 2, *size, dtype=torch.float64)
    rows = [condition_row(layer.start(h), i) for i in range(size[0])]
    torch.testing.assert_close(torch.stack(rows).permute(1, 3, 0, 2), layer(h), rtol=0, atol=1e-12)


def test_a_condition_without_places_has_one_row_for_all():
    start = ConditionBias(2, 5).start(torch.randn(3, 2, 1, 1))
    assert torch.equal(condition_row(start, 7), condition_row(start, 0))


@pytest.mark.parametrize("colours", [1, 2, 3, 4])
@pytest.mark.parametrize("features", [4, 5, 6, 7, 128])
def test_colour_groups_cut_without_gap_and_as_evenly_as_can_be(features, colours):
    groups = colour_groups(features, colours)
    assert [f for group in groups for f in range(features)[group]] == list(range(features))
    sizes = [len(range(features)[group]) for group in groups]
    assert len(sizes) == colours
    assert max(sizes) - min(sizes) <= 1
    assert all(colour_of(f, features, colours) == c for c, group in enumerate(groups) for f in range(features)[group])


def test_gated_activation():
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    expected = x[:, :3].tanh() / (1 + (-x[:, 3:]).exp())
    torch.testing.assert_close(gated_activation(x), expected)
    torch.testing.assert_close(gated_activation(x.movedim(1, -1), dim=-1), expected.movedim(1, -1))


@pytest.mark.parametrize("levels", [2, 3, 17, 256, 8192])
def test_intensity_runs_evenly_from_minus_1_to_1(levels):
    values = IntensityInput(levels)(torch.arange(levels).view(1, 1, -1))
    assert values.dtype is torch.float32
    torch.testing.assert_close(values.flatten(), torch.linspace(-1, 1, levels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.long])
def test_embedding_gives_channel_c_its_own_table_and_maps(dtype):
    layer = EmbeddingInput(channels=3, levels=5, dim=4)
    x = torch.randint(5, (2, 3, 6, 7), dtype=dtype)
    y = layer(x)
    assert y.shape == (2, 12, 6, 7)
    for c in range(3):
        table = layer.table.weight[5 * c : 5 * (c + 1)]
        assert torch.equal(y[:, 4 * c : 4 * (c + 1)], table[x[:, c].long()].movedim(-1, 1))
    assert torch.equal(layer(x[:, :, 2, 3]), y[:, :, 2, 3])


# --- the shifted, weight-normalised layers of PixelCNN++ -----------------------------------------------------------------

# Layer, its kernel, and where the first row and column of the kernel lie relative to the place.
SHIFTED = [
    pytest.param(DownShiftedConv2d, (2, 3), (-1, -1), id="down-2x3"),
    pytest.param(DownShiftedConv2d, (1, 3), (0, -1), id="down-1x3"),
    pytest.param(DownShiftedConv2d, (3, 5), (-2, -2), id="down-3x5"),
    pytest.param(DownRightShiftedConv2d, (2, 2), (-1, -1), id="down-right-2x2"),
    pytest.param(DownRightShiftedConv2d, (2, 1), (-1, 0), id="down-right-2x1"),
    pytest.param(DownRightShiftedConv2d, (3, 4), (-2, -3), id="down-right-3x4"),
]
DECONVOLUTIONS = [pytest.param(DownShiftedDeconv2d, 3, -1, id="down-2x3"), pytest.param(DownRightShiftedDeconv2d, 2, 0, id="2x2")]
WEIGHT_NORMED = [
    lambda: WeightNormConv2d(3, 5, (1, 1), init_scale=0.3),
    lambda: NetworkInNetwork(3, 5),
    lambda: DownShiftedConv2d(3, 5, init_scale=0.1),
    lambda: DownShiftedConv2d(3, 5, stride=2),
    lambda: DownRightShiftedConv2d(3, 5),
    lambda: DownRightShiftedConv2d(3, 5, stride=2, init_scale=2),
    lambda: DownShiftedDeconv2d(3, 5),
    lambda: DownRightShiftedDeconv2d(3, 5),
]


def random_parameters(layer):
    """In float64, all parameters from a normal law: the biases too."""
    for p in layer.double().parameters():
        torch.nn.init.normal_(p)
    return layer


def normed_kernel(layer):
    """The kernel (out, in, rows, columns), from its definition, and the bias."""
    direction, gain = layer.direction.detach().numpy(), layer.gain.detach().numpy()
    kernel = np.stack([g * v / np.sqrt((v**2).sum()) for g, v in zip(gain, direction, strict=True)])
    return torch.from_numpy(kernel), layer.bias.detach()


def shifted_convolution(layer, x, first, stride=1):
    """The definition: every place of the output, every place of the kernel, whose first one lies `first` from the place."""
    kernel, bias = normed_kernel(layer)
    batch, _, height, width = x.shape
    out = bias[:, None, None].repeat(batch, 1, height // stride, width // stride)
    for i, j in np.ndindex(height // stride, width // stride):
        for k, m in np.ndindex(*kernel.shape[2:]):
            row, column = stride * i + first[0] + k, stride * j + first[1] + m
            if 0 <= row < height and 0 <= column < width:
                out[:, :, i, j] += x[:, :, row, column] @ kernel[:, :, k, m].T
    return out


@pytest.mark.parametrize(
    ("shape", "stride"), [((2, 3, 4, 6), 1), ((1, 3, 5, 1), 1), ((2, 3, 1, 4), 1), ((2, 3, 4, 6), 2)], ids=str
)
@pytest.mark.parametrize(("make", "kernel", "first"), SHIFTED)
@torch.no_grad()
def test_shifted_convolution_is_its_definition(make, kernel, first, shape, stride):
    layer, x = random_parameters(make(3, 5, kernel, stride)), torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(layer(x), shifted_convolution(layer, x, first, stride), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 2, 4), (1, 3, 3, 1), (2, 3, 1, 2)], ids=str)
@pytest.mark.parametrize(("make", "columns", "first"), DECONVOLUTIONS)
@torch.no_grad()
def test_shifted_deconvolution_is_its_definition(make, columns, first, shape):
    layer, x = random_parameters(make(3, 5)), torch.randn(shape, dtype=torch.float64)
    kernel, bias = normed_kernel(layer)
    assert kernel.shape == (5, 3, 2, columns)
    batch, _, height, width = shape
    expected = bias[:, None, None].repeat(batch, 1, 2 * height, 2 * width)
    for i, j in np.ndindex(height, width):
        for k, m in np.ndindex(2, columns):
            column = 2 * j + first + m
            if 0 <= column < 2 * width:
                expected[:, :, 2 * i + k, column] += x[:, :, i, j] @ kernel[:, :, k, m].T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_first_streams_shift_what_they_have_found_and_not_the_image():
    layer, x = random_parameters(FirstStreams(3, 5)), torch.randn(2, 3, 4, 6, dtype=torch.float64)
    u, ul = layer(x)
    below = shifted_convolution(layer.u, x, (-1, -1))
    above, left = shifted_convolution(layer.above, x, (0, -1)), shifted_convolution(layer.left, x, (-1, 0))
    expected_u, expected_ul = torch.zeros_like(u), torch.zeros_like(ul)
    for i, j in np.ndindex(4, 6):
        if i > 0:
            expected_u[:, :, i, j] = below[:, :, i - 1, j]
            expected_ul[:, :, i, j] += above[:, :, i - 1, j]
        if j > 0:
            expected_ul[:, :, i, j] += left[:, :, i, j - 1]
    torch.testing.assert_close(u, expected_u, rtol=0, atol=1e-12)
    torch.testing.assert_close(ul, expected_ul, rtol=0, atol=1e-12)
    # Nothing is known at the first place, not even that there is an image: the biases are not there either.
    assert (u[:, :, 0] == 0).all()
    assert (ul[:, :, 0, 0] == 0).all()
    shifted_image = torch.nn.functional.pad(x, (0, 0, 1, -1))
    assert (layer.u(shifted_image)[:, :, 0] != 0).all(), "the shifted image would bring the bias in"


def elu(x):
    return torch.where(x > 0, x, x.exp() - 1)


@pytest.mark.parametrize("condition", [0, 2])
@pytest.mark.parametrize("short_cuts", [0, 1, 2])
@pytest.mark.parametrize("make", [UpperResnet, LeftResnet])
@torch.no_grad()
def test_gated_resnet_is_its_formula(make, short_cuts, condition):
    block = random_parameters(make(3, short_cuts, 0.5, condition)).eval()
    x, h = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 2, 4, 5, dtype=torch.float64)
    parts = [torch.randn(2, 3, 4, 5, dtype=torch.float64) for _ in range(short_cuts)]
    y = block.first(torch.cat([elu(x), elu(-x)], 1))
    if short_cuts:
        kernel, bias = normed_kernel(block.short_cut)
        ordered = torch.cat([*(elu(part) for part in parts), *(elu(-part) for part in parts)], 1)
        y = y + torch.einsum("of,bfij->boij", kernel[:, :, 0, 0], ordered) + bias.view(1, -1, 1, 1)
    y = block.second(torch.cat([elu(y), elu(-y)], 1))
    if condition:
        y = y + torch.einsum("of,bfij->boij", block.condition.conv.weight[:, :, 0, 0], h)
    expected = x + y[:, :3] / (1 + (-y[:, 3:]).exp())
    found = block(x, tuple(parts), h if condition else None)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (block.first.init_scale, block.second.init_scale) == (1, 0.1)
    kernel = {UpperResnet: (2, 3), LeftResnet: (2, 2)}[make]
    assert block.first.kernel_size == block.second.kernel_size == kernel


@torch.no_grad()
def test_dropout_of_a_gated_resnet_stands_before_its_second_convolution():
    block, x = random_parameters(UpperResnet(4, 0, 0.5, 0)), torch.randn(2, 4, 6, 5, dtype=torch.float64)
    seen = []
    block.first.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    block.second.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    block.eval()(x, (), None)
    block.train()(x, (), None)
    assert torch.equal(seen[0], seen[2])
    dropped = seen[3] == 0
    assert torch.equal(seen[3], torch.where(dropped, 0, 2 * seen[1]))
    assert 0.3 < dropped.double().mean() < 0.7
    assert not dropped.flatten(2).all(2).any(), "whole maps are another model"


@pytest.mark.parametrize("make", WEIGHT_NORMED, ids=range(len(WEIGHT_NORMED)))
@torch.no_grad()
def test_weight_norm_is_direction_and_gain(make):
    layer, x = random_parameters(make()), torch.randn(2, 3, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(layer.weight, normed_kernel(layer)[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), layer.gain.abs(), rtol=0, atol=1e-12)
    before = layer(x)
    layer.direction.mul_(torch.rand(5, 1, 1, 1, dtype=torch.float64) + 7)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-12)
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.weight.dtype is torch.float32


@pytest.mark.parametrize("make", WEIGHT_NORMED, ids=range(len(WEIGHT_NORMED)))
@torch.no_grad()
def test_initialise_normalises_the_output_of_every_map(make):
    layer, x = random_parameters(make()), torch.randn(4, 3, 8, 6, dtype=torch.float64) * 3 + 1
    direction = layer.direction.clone()
    layer.initialise(x)
    deviation, mean = torch.std_mean(layer(x), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(deviation, torch.full_like(deviation, layer.init_scale), rtol=1e-6, atol=0)
    assert torch.equal(layer.direction, direction)


@pytest.mark.parametrize("make", WEIGHT_NORMED, ids=range(len(WEIGHT_NORMED)))
@torch.no_grad()
def test_a_fresh_layer_keeps_its_gain_where_a_map_is_constant(make):
    layer = make()
    layer.initialise(torch.zeros(2, 3, 4, 6))
    assert (layer.gain == layer.init_scale).all()
    assert (layer.bias == 0).all()
    layer = WeightNormConv2d(3, 5, (1, 1), init_scale=0.3)
    layer.direction[:2, 2:] = 0
    x = torch.randn(2, 3, 4, 6)
    x[:, :2] = 0.5  # so that the first two maps are constant, and the others are not
    layer.initialise(x)
    torch.testing.assert_close(layer.gain[:2], torch.full((2,), 0.3))
    torch.testing.assert_close(layer(x)[:, :2], torch.zeros(2, 2, 4, 6))
    deviation = layer(x)[:, 2:].std((0, 2, 3), correction=0)
    torch.testing.assert_close(deviation, torch.full((3,), 0.3))


@pytest.mark.parametrize(("colours", "precise"), [(1, False), (1, True), (3, False)])
@torch.no_grad()
def test_place_head_is_its_formula(colours, precise):
    head = random_parameters(PlaceHead(4, 6, 9, colours, input_features=3, precise=precise))
    x, inputs = torch.randn(2, 4, 3, 5, dtype=torch.float64), torch.randn(2, 3, 3, 5, dtype=torch.float64)
    kernel, bias = normed_kernel(head.maps)
    expected = torch.einsum("of,bfij->boij", kernel[:, :, 0, 0], elu(x)) + bias.view(1, -1, 1, 1)
    if colours > 1:
        for o, f in np.ndindex(6, 3):  # two hidden maps and one input of each colour: mask A
            if f < o // 2:
                expected[:, o] += head.own.weight[o, f, 0, 0] * inputs[:, f]
        hidden = expected.clamp(min=0)
        expected = head.out.bias.view(1, -1, 1, 1).repeat(2, 1, 3, 5)
        for o, f in np.ndindex(9, 6):  # three params of each colour: mask B
            if f // 2 <= o // 3:
                expected[:, o] += head.out.weight[o, f, 0, 0] * hidden[:, f]
    torch.testing.assert_close(head(x, inputs), expected, rtol=0, atol=1e-12)


def test_a_precise_place_head_rounds_nothing():
    head, precise = (PlaceHead(16, 24, 20, 1, 1, precise=flag) for flag in (False, True))
    precise.load_state_dict(head.state_dict())
    x, inputs = torch.randn(2, 16, 3, 4), torch.zeros(2, 1, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(x, inputs).dtype is torch.bfloat16
        found = precise(x, inputs)
    assert torch.equal(found, precise(x, inputs))
    assert found.dtype is torch.float32
    assert (found != found.bfloat16()).double().mean() > 0.9


# --- dropout -------------------------------------------------------------------------------------------------------------

each_share = pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
each_layout = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"]
)


@pytest.mark.parametrize(("p", "training"), [(0, True), (0, False), (0.5, False)])
def test_dropout_does_nothing_in_evaluation_or_with_probability_0(p, training):
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(dropout(x, p, training), x)


@each_layout
@each_share
def test_dropout_drops_elements_with_its_probability_and_scales_the_others(p, layout):
    x = torch.randn(16, 32, 25, 27).to(memory_format=layout).requires_grad_()
    y = dropout(x, p, training=True)
    assert y.is_contiguous(memory_format=layout)
    dropped = y == 0
    p = round(p * 256) / 256  # a byte decides
    assert dropped.double().mean() == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    scale = 256 / (256 - 256 * p)
    assert torch.equal(y, torch.where(dropped, 0, x * scale))
    y.sum().backward()
    assert torch.equal(x.grad, torch.where(dropped, 0, torch.full_like(x, scale)))
    assert not torch.equal(dropout(x, p, training=True), y)
    # Elements, and not whole maps, images or places: in all of them the share is about p.
    for dims in ((2, 3), (1, 2, 3), (0, 1), (0, 2, 3)):
        shares = dropped.double().mean(dims)
        n = x.numel() // shares.numel()
        assert ((shares - p).abs() < 6 * (p * (1 - p) / n) ** 0.5).all()


@each_layout
@each_share
def test_dropout_of_one_element_says_nothing_about_its_neighbours(p, layout):
    x = torch.ones(16, 32, 25, 27).to(memory_format=layout)
    memory = (
        (dropout(x, p, training=True) != 0).permute(0, 2, 3, 1) if layout is torch.channels_last else dropout(x, p, True) != 0
    )
    kept = memory.flatten().double()
    kept = (kept - kept.mean()) / kept.std()
    for lag in (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64):  # a number decides about eight
        assert abs((kept[lag:] * kept[:-lag]).mean()) < 5 * len(kept) ** -0.5, lag


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 5), (1, 1, 1, 1), (2, 3, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dropout_of_any_shape_and_type(shape, dtype):
    found = torch.stack([dropout(torch.ones(shape, dtype=dtype), 0.5, training=True) for _ in range(60)])
    assert found.dtype is dtype
    assert found.unique().tolist() == [0, 2]


# --- sizes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskedConv2d(4, 4, 2, "A"), r"kernel_size must be odd, not 2"),
        (lambda: MaskedConv2d(4, 4, (3, 4), "A"), r"kernel_size must be odd, not \(3, 4\)"),
        (lambda: MaskedConv2d(2, 4, 3, "A", colours=3), r"2 features cannot be cut into 3 colour groups"),
        (lambda: MaskedConv2d(4, 4, 3, "A", colours=3, parts=2), r"2 features cannot be cut into 3 colour groups"),
        (lambda: VerticalConv2d(4, 4, 4), r"kernel_size must be odd.* not 4"),
        (lambda: VerticalConv2d(4, 4, 1, exclude_current_row=True), r"at least 3 without the current row and at most 255, not 1"),
    ],
)
def test_sizes_that_make_no_layer(make, message):
    with pytest.raises(InputError, match=message):
        make()
