"""The layers against plain loops that share no code with them, and their two paths against each other."""

import numpy as np
import pytest
import torch

from nextpixel.errors import InputError
from nextpixel.grid import colour_groups
from nextpixel.layers.head import ConditionBias, Head, condition_row
from nextpixel.layers.masked import MaskedConv2d, VerticalConv2d
from nextpixel.layers.pointwise import EmbeddingInput, IntensityInput, gated_activation

MASKED = [
    pytest.param(mask, kernel, colours, halves, id=f"{mask}-{kernel}-colours{colours}-halves{halves}")
    for mask in "AB"
    for kernel in (1, 3, 7, (1, 5), (5, 1), (3, 7))
    for colours in (1, 2, 3)
    for halves in (1, 2)
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def masked_layer(mask, kernel, colours, halves, bias=True):
    """5 maps to 7 (14 in two halves), no multiples of 2 or 3 colours; every weight non-zero, the masked ones too."""
    layer = MaskedConv2d(5, 7 * halves, kernel, mask, colours, halves, bias).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    return layer


def colour_of(f, features, colours):
    return f * colours // features


def masked_convolution(layer, x, kernel, mask, colours, halves):
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
            ours, theirs = colour_of(o % (maps // halves), maps // halves, colours), colour_of(f, features, colours)
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


@pytest.mark.parametrize(("mask", "kernel", "colours", "halves"), MASKED)
def test_masked_convolution_is_its_definition(mask, kernel, colours, halves):
    layer, x = masked_layer(mask, kernel, colours, halves), torch.randn(2, 5, 4, 6, dtype=torch.float64)
    expected = masked_convolution(layer, x, kernel, mask, colours, halves)
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
@pytest.mark.parametrize(("mask", "kernel", "colours", "halves"), MASKED)
def test_masked_convolution_step_is_forward(mask, kernel, colours, halves, shape):
    layer, x = masked_layer(mask, kernel, colours, halves), torch.randn(shape, dtype=torch.float64)
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskedConv2d(4, 4, 2, "A"), r"kernel_size must be odd, not 2"),
        (lambda: MaskedConv2d(4, 4, (3, 4), "A"), r"kernel_size must be odd, not \(3, 4\)"),
        (lambda: MaskedConv2d(2, 4, 3, "A", colours=3), r"2 features cannot be cut into 3 colour groups"),
        (lambda: MaskedConv2d(4, 4, 3, "A", colours=3, halves=2), r"2 features cannot be cut into 3 colour groups"),
        (lambda: VerticalConv2d(4, 4, 4), r"kernel_size must be odd.* not 4"),
        (lambda: VerticalConv2d(4, 4, 1, exclude_current_row=True), r"at least 3 without the current row, not 1"),
    ],
)
def test_sizes_that_make_no_layer(make, message):
    with pytest.raises(InputError, match=message):
        make()
