"""concat_elu and dropout in training: their gradients, what they keep for them, and dropout's random numbers."""

import pytest
import torch
import torch.nn.functional as F

from nextpixel.layers.pointwise import _random_int32, concat_elu, dropout


@pytest.mark.parametrize("dim", [1, 2])
def test_the_gradient_of_concat_elu_is_that_of_elu(dim):
    x = torch.tensor([-700.0, -3.0, -1e-9, 0.0, 1e-9, 2.0, 700.0], dtype=torch.float64).repeat(2, 3, 3, 1).requires_grad_()
    weights = torch.randn_like(torch.cat([x, x], dim))
    found, expected = concat_elu(x, dim), F.elu(torch.cat([x, -x], dim))
    assert torch.equal(found, expected)
    of_found, of_expected = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(of_found, of_expected, rtol=1e-14, atol=1e-14)


def test_concat_elu_has_second_derivatives_and_jacobians():
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(concat_elu, x)
    expected = torch.func.jacrev(lambda x: F.elu(torch.cat([x, -x], 1)))(x)
    torch.testing.assert_close(torch.func.jacrev(concat_elu)(x), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("function", [concat_elu, lambda x: dropout(x, 0.5, training=True)], ids=["concat_elu", "dropout"])
def test_no_mask_of_bools_is_kept_for_the_gradient(function):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t):
        function(torch.randn(2, 8, 4, 5, requires_grad=True))
    assert kept
    assert torch.bool not in kept


def test_the_bytes_of_random_numbers_are_even_and_independent():
    torch.manual_seed(0)
    first, second = (_random_int32(2**18, torch.device("cpu")).view(torch.uint8) for _ in range(2))
    n = len(first)
    counts = torch.bincount(first.long(), minlength=256).double()
    assert abs(((counts - n / 256) ** 2).sum() * 256 / n - 255) < 5 * (2 * 255) ** 0.5  # chi-squared of 255 degrees of freedom
    low, other = ((numbers.double() - 127.5) / (65535 / 12) ** 0.5 for numbers in (first, second))
    lags = [1, 2, 3, 4, 5, 8, 40, 80, 1024, 2560, 81920]
    correlations = [(low[lag:] * low[:-lag]).sum() / (n - lag) ** 0.5 for lag in lags] + [(low * other).sum() / n**0.5]
    assert torch.stack(correlations).abs().max() < 5  # standard deviations


def test_random_numbers_follow_torchs_seed():
    torch.manual_seed(3)
    first, second = (_random_int32(1000, torch.device("cpu")) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(_random_int32(1000, torch.device("cpu")), first)
    assert not torch.equal(first, second)
