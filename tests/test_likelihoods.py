"""Every likelihood is a law: it sums to 1, its log_prob is its pmf's, and what it draws inverts its distribution function."""

import math

import pytest
import torch

from nextpixel.errors import InputError
from nextpixel.likelihoods import LIKELIHOODS, Categorical, make_likelihood

each_law = pytest.mark.parametrize("name", LIKELIHOODS)
each_levels = pytest.mark.parametrize("levels", [2, 3, 17, 256, 8192])
each_channels = pytest.mark.parametrize("channels", [1, 2, 3, 4])

BELOW_1 = math.nextafter(1, 0)


def random_case(law, batch=2, size=(2, 3), dtype=torch.float64):
    """Random params (B, P, H, W) and symbols (B, C, H, W)."""
    generator = torch.Generator().manual_seed(law.levels + law.channels)
    params = torch.randn(batch, law.params, *size, generator=generator, dtype=torch.float64).to(dtype) * 2
    return params, torch.randint(law.levels, (batch, law.channels, *size), generator=generator)


def draw(law, logits, noise):
    """Symbols drawn from one law of a single channel, (1, P), one for each noise."""
    noise = torch.as_tensor(noise, dtype=torch.float64)
    return law.draw(logits.expand(len(noise), -1), torch.zeros(len(noise), 1, dtype=torch.long), 0, noise)


@each_channels
@each_levels
@each_law
def test_pmf_is_a_law_and_log_prob_is_its_logarithm(name, levels, channels):
    law = make_likelihood(name, channels, levels)
    params, x = random_case(law)
    nats = torch.zeros(2, 2, 3, dtype=torch.float64)
    for i in range(2):
        for j in range(3):
            for c in range(channels):
                # What stands at channel c and after it must not be read.
                known = torch.cat([x[:, :c, i, j], torch.zeros_like(x[:, c:, i, j])], 1)
                pmf = law.pmf(params[:, :, i, j], known, c)
                assert pmf.shape == (2, levels)
                assert (pmf >= 0).all()
                torch.testing.assert_close(pmf.sum(1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
                nats[:, i, j] += pmf.gather(1, x[:, c, i, j, None]).squeeze(1).log()
    torch.testing.assert_close(law.log_prob(params, x), nats, rtol=1e-12, atol=1e-12)


@each_levels
def test_categorical_params_are_one_run_of_logits_per_channel(levels):
    law = Categorical(2, levels)
    params, x = random_case(law, size=(1, 1))
    runs = params.flatten(1).chunk(2, 1)
    if levels == 2:
        p = [torch.cat([1 - run.sigmoid(), run.sigmoid()], 1) for run in runs]
    else:
        p = [run.exp() / run.exp().sum(1, keepdim=True) for run in runs]
    for c in range(2):
        torch.testing.assert_close(law.pmf(params[:, :, 0, 0], x[:, :, 0, 0], c), p[c])
    assert law.params == (2 if levels == 2 else 2 * levels)


@pytest.mark.parametrize("levels", [2, 3, 17])
def test_temperature_divides_the_logits(levels):
    law = Categorical(1, levels)
    params, x = random_case(law)
    cold = law.pmf(params[:, :, 0, 0], x[:, :, 0, 0], 0, temperature=0.5)
    torch.testing.assert_close(cold, law.pmf(params[:, :, 0, 0] * 2, x[:, :, 0, 0], 0))


@each_levels
@each_law
def test_draw_inverts_the_distribution_function(name, levels):
    law = make_likelihood(name, 1, levels)
    params = random_case(law, batch=1)[0][:, :, 0, 0]
    x = torch.arange(0, levels - 1, -(-levels // 200))  # all, or every 41st of the 8192
    boundaries = law.pmf(params, torch.zeros(1, 1, dtype=torch.long), 0).cumsum(1)[0, x]
    assert draw(law, params, boundaries - 1e-12).tolist() == x.tolist()
    assert draw(law, params, boundaries + 1e-12).tolist() == (x + 1).tolist()
    assert draw(law, params, [0, BELOW_1]).tolist() == [0, levels - 1]


def test_draw_is_exact_at_the_boundaries():
    # Four equal probabilities are exact in binary: a symbol's interval holds its lower end and not its upper one.
    law, ends = Categorical(1, 4), [0.25, 0.5, 0.75]
    assert draw(law, torch.zeros(1, 4), ends).tolist() == [1, 2, 3]
    assert draw(law, torch.zeros(1, 4), [math.nextafter(end, 0) for end in ends]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draw_never_finds_a_symbol_of_probability_zero(dtype):
    logits = torch.tensor([[-1e4, 0.3, -1e4, 0.1, -1e4, -1e4]], dtype=dtype)
    assert draw(Categorical(1, 6), logits, [0, 5e-324, 0.5, 1 - 1e-9, BELOW_1]).tolist() == [1, 1, 1, 3, 3]
    logit = torch.tensor([[1e4]], dtype=dtype)
    assert draw(Categorical(1, 2), logit, [0, BELOW_1]).tolist() == [1, 1]
    assert draw(Categorical(1, 2), -logit, [0, BELOW_1]).tolist() == [0, 0]


@each_levels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@each_law
def test_draw_stays_in_range(name, dtype, levels):
    law = make_likelihood(name, 1, levels)
    params = random_case(law, batch=50, dtype=dtype)[0][:, :, 0, 0]
    for noise in (0.0, BELOW_1):
        x = law.draw(params, torch.zeros(50, 1, dtype=torch.long), 0, torch.full((50,), noise, dtype=torch.float64))
        assert x.dtype is torch.long
        assert 0 <= x.min() <= x.max() < levels


@pytest.mark.parametrize("levels", [2, 3, 17])
@each_law
def test_draws_are_as_frequent_as_the_law_says(name, levels):
    law, n = make_likelihood(name, 1, levels), 100_000
    params = random_case(law, batch=1)[0][:, :, 0, 0]
    noise = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    observed = torch.bincount(draw(law, params, noise), minlength=levels)
    expected = law.pmf(params, torch.zeros(1, 1, dtype=torch.long), 0)[0] * n
    assert expected.min() > 5
    assert ((observed - expected) ** 2 / expected).sum() < levels - 1 + 5 * (2 * (levels - 1)) ** 0.5


@each_levels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite(dtype, levels):
    law = Categorical(1, levels)
    params = torch.zeros(2, law.params, 1, 1, dtype=dtype)
    params[:, 0] = torch.tensor([1e4, -1e4], dtype=dtype)[:, None, None]
    params.requires_grad_()
    x = torch.arange(levels)[-2:].view(2, 1, 1, 1)
    nats = law.log_prob(params, x)
    assert nats.isfinite().all()
    assert nats.min() < -9000
    nats.sum().backward()
    assert params.grad.isfinite().all()
    pmf = law.pmf(params[:, :, 0, 0], x[:, :, 0, 0], 0)
    torch.testing.assert_close(pmf.sum(1), torch.ones(2))


@each_levels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_law
def test_half_precision_params_are_computed_in_float32(name, dtype, levels):
    law = make_likelihood(name, 2, levels)
    params, x = random_case(law, dtype=dtype)
    assert law.log_prob(params, x).dtype is torch.float32
    assert torch.equal(law.log_prob(params, x), law.log_prob(params.float(), x))
    place, known = params[:, :, 0, 0], x[:, :, 0, 0]
    assert torch.equal(law.pmf(place, known, 1), law.pmf(place.float(), known, 1))


@pytest.mark.parametrize("levels", [2, 3, 256])
@each_law
def test_symbols_may_have_any_integer_type(name, levels):
    law = make_likelihood(name, 1, levels)
    params, x = random_case(law)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(law.log_prob(params, x.to(dtype)), law.log_prob(params, x))


@each_law
def test_registered_under_its_own_name(name):
    law = make_likelihood(name, 3, 5)
    assert law.name == name
    assert (law.channels, law.levels) == (3, 5)
    assert law.colours in (1, 3)


@pytest.mark.parametrize(
    ("name", "channels", "levels", "message"),
    [
        ("categorical", 1, 1, r"levels must be from 2 to 8192, not 1"),
        ("categorical", 1, 8193, r"levels must be from 2 to 8192, not 8193"),
        ("categorical", 0, 2, r"channels must be at least 1, not 0"),
        ("magic", 1, 2, r"unknown likelihood 'magic': expected one of categorical"),
    ],
)
def test_sizes_that_make_no_likelihood(name, channels, levels, message):
    with pytest.raises(InputError, match=message):
        make_likelihood(name, channels, levels)
