"""Every likelihood is a law: it sums to 1, its log_prob is its pmf's, and what it draws inverts its distribution function."""

import itertools
import math

import pytest
import torch
from pairs import pairs
from tiny import all_images, images, tiny_model

import nextpixel
from nextpixel import MODELS
from nextpixel.errors import InputError
from nextpixel.layers.masked import Head
from nextpixel.likelihoods import LIKELIHOODS, Categorical, DiscretizedLogisticMixture, Likelihood, make_likelihood
from nextpixel.likelihoods.logistic_mixture import HIGHEST_LOG_SCALE
from nextpixel.models.start import start_head
from nextpixel.sampling.draw import METHODS
from nextpixel.scan.raster import Naive, Score, raster

each_law = pytest.mark.parametrize("name", LIKELIHOODS)
LEVELS = [2, 3, 17, 256, 8192]
CHANNELS = [1, 2, 3, 4]
each_levels = pytest.mark.parametrize("levels", LEVELS)
each_channels = pytest.mark.parametrize("channels", CHANNELS)

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


@pairs(name=LIKELIHOODS, levels=LEVELS, channels=CHANNELS)
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


@pairs(name=LIKELIHOODS, dtype=[torch.float32, torch.bfloat16, torch.float64], levels=LEVELS)
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


@pairs(name=LIKELIHOODS, dtype=[torch.bfloat16, torch.float16], levels=LEVELS)
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
    assert law.params % law.colours == 0


def test_only_a_categorical_law_leaves_the_channels_to_the_network():
    assert {name: make_likelihood(name, 3, 5).colours for name in ("categorical", "logistic-mixture")} == {
        "categorical": 3,
        "logistic-mixture": 1,
    }


@pytest.mark.parametrize(
    ("name", "channels", "levels", "message"),
    [
        ("categorical", 1, 1, r"levels must be from 2 to 8192, not 1"),
        ("categorical", 1, 8193, r"levels must be from 2 to 8192, not 8193"),
        ("categorical", 0, 2, r"channels must be at least 1, not 0"),
        ("categorical", 1, 65536, r"levels must be from 2 to 8192, not 65536 \(up to 65536 with the logistic-mixture"),
        ("logistic-mixture", 1, 1, r"levels must be from 2 to 65536, not 1"),
        ("logistic-mixture", 1, 65537, r"levels must be from 2 to 65536, not 65537"),
        ("logistic-mixture", 0, 2, r"channels must be at least 1, not 0"),
        ("magic", 1, 2, r"unknown likelihood 'magic': expected one of categorical"),
    ],
)
def test_sizes_that_make_no_likelihood(name, channels, levels, message):
    with pytest.raises(InputError, match=message):
        make_likelihood(name, channels, levels)


# --- the discretized logistic mixture ------------------------------------------------------------------------------------

EXTREME_LOG_SCALES = (-50.0, -7.0, 0.0, HIGHEST_LOG_SCALE, 50.0)
EXTREME_MEANS = (-30.0, -1.001, -1.0, 0.0, 0.123, 1.0, 30.0)


def mixture_params(logits, means, log_scales, coefficients=()):
    """The params (P,) of nested lists: logits [k], means and log scales [c][k], coefficients [pair][k]."""
    runs = [logits, *means, *log_scales, *coefficients]
    return torch.tensor(runs, dtype=torch.float64).flatten()


def sigmoid(z):
    return 1 / (1 + math.exp(-z)) if z > 0 else math.exp(z) / (1 + math.exp(z))


def slow_pmf(params, known, c, levels, mixtures, channels, update=True):
    """The law of channel c (a list), from the definition and one number at a time; `update` the weights by what is known."""
    runs = [params[i : i + mixtures].tolist() for i in range(0, len(params), mixtures)]
    total, pmf = sum(math.exp(logit) for logit in runs[0]), [0.0] * levels
    coefficient = {pair: runs[1 + 2 * channels + n] for n, pair in enumerate((i, j) for i in range(channels) for j in range(i))}
    intensity = [2 * x / (levels - 1) - 1 for x in known]
    half = 1 / (levels - 1)

    def mass(k, channel, x):
        mean = runs[1 + channel][k]
        for earlier in range(channel):
            mean += math.tanh(coefficient[channel, earlier][k]) * intensity[earlier]
        scale, y = math.exp(runs[1 + channels + channel][k]), 2 * x / (levels - 1) - 1
        up = 1 if x == levels - 1 else sigmoid((y + half - mean) / scale)
        return up - (0 if x == 0 else sigmoid((y - half - mean) / scale))

    weights = [math.exp(logit) / total for logit in runs[0]]
    for earlier in range(c) if update else ():
        weights = [weight * mass(k, earlier, known[earlier]) for k, weight in enumerate(weights)]
    weights = [weight / sum(weights) for weight in weights]
    for x in range(levels):
        pmf[x] = sum(weight * mass(k, c, x) for k, weight in enumerate(weights))
    return pmf


def extreme_params(channels, levels, mixtures):
    """Params (N, P) of which every component of every channel has some extreme mean and scale."""
    law = DiscretizedLogisticMixture(channels, levels, mixtures)
    generator = torch.Generator().manual_seed(levels)
    n = 70
    params = torch.randn(n, law.params, generator=generator, dtype=torch.float64) * 3
    runs = params.view(n, -1, mixtures)
    means, scales = (torch.tensor(values, dtype=torch.float64) for values in (EXTREME_MEANS, EXTREME_LOG_SCALES))
    size = (n, channels, mixtures)
    runs[:, 1 : 1 + channels] = means[torch.randint(len(means), size, generator=generator)]
    runs[:, 1 + channels : 1 + 2 * channels] = scales[torch.randint(len(scales), size, generator=generator)]
    known = torch.randint(levels, (n, channels), generator=generator)
    known[: n // 2] = torch.tensor([0, levels - 1])[torch.randint(2, (n // 2, channels), generator=generator)]
    return law, params, known


@each_channels
def test_mixture_has_as_many_params_as_the_paper(channels):
    law = DiscretizedLogisticMixture(channels, 256)
    assert law.params == {1: 30, 2: 60, 3: 100, 4: 150}[channels]
    assert (law.colours, law.mixtures, law.precise) == (1, 10, True)
    assert make_likelihood("logistic-mixture", channels, 256, mixtures=3).params == law.params // 10 * 3
    assert make_likelihood("categorical", channels, 256, mixtures=3).params == channels * 256
    assert not Categorical(channels, 256).precise


@pytest.mark.parametrize("mixtures", [0, -1])
def test_a_mixture_of_nothing_is_refused(mixtures):
    with pytest.raises(InputError, match=f"mixtures must be at least 1, not {mixtures}"):
        make_likelihood("logistic-mixture", 1, 2, mixtures=mixtures)


@pairs(channels=CHANNELS, levels=[2, 3, 16], mixtures=[1, 3])
def test_mixture_is_the_definition(channels, levels, mixtures):
    law = DiscretizedLogisticMixture(channels, levels, mixtures)
    generator = torch.Generator().manual_seed(channels)
    params = torch.randn(6, law.params, generator=generator, dtype=torch.float64)
    log_scales = params.view(6, -1, mixtures)[:, 1 + channels : 1 + 2 * channels]
    log_scales.abs_().sub_(1)  # inside the limits, and where the plain difference keeps its digits
    known = torch.randint(levels, (6, channels), generator=generator)
    known[0], known[1] = 0, levels - 1
    nats = torch.zeros(6, dtype=torch.float64)
    for c in range(channels):
        slow = [slow_pmf(*case, c, levels, mixtures, channels) for case in zip(params, known.tolist(), strict=True)]
        slow = torch.tensor(slow, dtype=torch.float64)
        torch.testing.assert_close(law.pmf(params, known, c), slow, rtol=1e-9, atol=1e-12)
        nats += slow.gather(1, known[:, c : c + 1]).squeeze(1).log()
    torch.testing.assert_close(law.log_prob(params[..., None, None], known[..., None, None])[:, 0, 0], nats, rtol=0, atol=1e-9)


def test_what_is_known_updates_the_weights_of_the_components():
    # Two equally likely components, a dark and a light one; green follows red in one and goes against it in the other.
    coefficients = [[0.5, -0.7]]
    params = mixture_params([0.0, 0.0], [[-0.6, 0.5], [-0.5, 0.6]], [[-2.0, -1.5], [-1.0, -2.0]], coefficients)
    law, known = DiscretizedLogisticMixture(2, 16, 2), [12, 0]
    found = law.pmf(params[None], torch.tensor([known]), 1)[0]
    right, naive = (torch.tensor(slow_pmf(params, known, 1, 16, 2, 2, update), dtype=torch.float64) for update in (True, False))
    torch.testing.assert_close(found, right)
    assert (right.log() - naive.log()).abs().max() > 1
    joint = law.log_prob(params.view(1, -1, 1, 1), torch.tensor([12, 3]).view(1, 2, 1, 1)).item()
    red = law.pmf(params[None], torch.tensor([known]), 0)[0, 12].log().item()
    assert joint == pytest.approx(red + found[3].log().item(), abs=1e-12)
    assert joint != pytest.approx(red + naive[3].log().item(), abs=0.1)


@pytest.mark.parametrize("levels", [2, 5, 16, 256, 8192, 65536])
@each_channels
def test_mixture_sums_to_1_at_extreme_params(channels, levels):
    law, params, known = extreme_params(channels, levels, 3)
    for c in range(channels):
        pmf = law.pmf(params, known, c)
        assert (pmf >= 0).all()
        torch.testing.assert_close(pmf.sum(1), torch.ones(len(params), dtype=torch.float64), rtol=0, atol=1e-12)
        single = law.pmf(params.float(), known, c)
        torch.testing.assert_close(
            single.sum(1), torch.ones(len(params)), rtol=0, atol={8192: 1e-3, 65536: 1e-2}.get(levels, 1e-4)
        )


@pytest.mark.parametrize("log_scale", EXTREME_LOG_SCALES)
@pytest.mark.parametrize("levels", [2, 5, 16, 256])
def test_every_component_sums_to_1_wherever_its_mean_is(levels, log_scale):
    law = DiscretizedLogisticMixture(1, levels, 1)
    means = torch.tensor([*EXTREME_MEANS, *torch.linspace(-1.5, 1.5, 301)], dtype=torch.float64)
    params = torch.stack([torch.zeros_like(means), means, torch.full_like(means, log_scale)], 1)
    total = law.pmf(params, torch.zeros(len(means), 1, dtype=torch.long), 0).sum(1)
    torch.testing.assert_close(total, torch.ones_like(means), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "levels"), [(1, 256), (2, 2), (2, 9), (3, 2), (3, 5), (4, 3)])
def test_mixture_sums_to_1_over_all_colours(channels, levels):
    law, params, _ = extreme_params(channels, levels, 2)
    x = torch.tensor(list(itertools.product(range(levels), repeat=channels)))
    nats = law.log_prob(params.T[None, :, None, :].expand(len(x), -1, 1, -1), x[..., None, None].expand(-1, -1, 1, len(params)))
    torch.testing.assert_close(nats.exp().sum((0, 1)), torch.ones(len(params), dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [2, 5, 256])
@each_channels
def test_mixture_log_prob_is_its_pmf_at_extreme_params(channels, levels):
    law, params, x = extreme_params(channels, levels, 3)
    pmf = torch.stack([law.pmf(params, x, c).gather(1, x[:, c : c + 1]).squeeze(1) for c in range(channels)], 1)
    nats, expected = law.log_prob(params[..., None, None], x[..., None, None])[:, 0, 0], pmf.log().sum(1)
    kept = pmf.amin(1) > 1e-300
    assert kept.sum() > 30
    torch.testing.assert_close(nats[kept], expected[kept], rtol=1e-12, atol=1e-10)
    assert nats.isfinite().all()


def test_mixture_keeps_the_digits_of_small_probabilities():
    law = DiscretizedLogisticMixture(1, 256, 2)
    params = mixture_params([0.0, -1.0], [[-2.0, -1.9]], [[-5.45, -5.45]])
    pmf = law.pmf(params[None], torch.zeros(1, 1, dtype=torch.long), 0)[0]
    x = torch.arange(256).view(256, 1, 1, 1)
    nats = law.log_prob(params.view(1, -1, 1, 1).expand(256, -1, -1, -1), x).flatten()
    small = pmf[1:-1] > 1e-300
    assert pmf[1:-1][small].min() < 1e-290
    torch.testing.assert_close(pmf[1:-1][small].log(), nats[1:-1][small], rtol=0, atol=1e-10)


@pytest.mark.parametrize("levels", [3, 16, 256, 8192, 65536])
def test_the_lowest_scale_is_the_same_fraction_of_a_bin_for_all_levels(levels):
    law, x = DiscretizedLogisticMixture(1, levels, 1), levels // 2
    mean = 2 * x / (levels - 1) - 1
    for log_scale in (-50.0, -7 + math.log(255 / (levels - 1))):
        pmf = law.pmf(mixture_params([0.0], [[mean]], [[log_scale]])[None], torch.zeros(1, 1, dtype=torch.long), 0)
        # Half a bin is exp(7) / 255 scales
        assert pmf[0, x].item() == pytest.approx(math.tanh(math.exp(7) / 255 / 2), abs=1e-12)


def test_float32_is_exact_at_the_lowest_scale_where_the_middle_of_a_bin_is_not():
    law = DiscretizedLogisticMixture(1, 256, 1)
    x = torch.arange(256).repeat_interleave(60)
    y = 2 * x.double() / 255 - 1
    means = y + torch.linspace(-6, 6, 60, dtype=torch.float64).repeat(256) / 255
    params = torch.stack([torch.zeros_like(means), means, torch.full_like(means, -7)], 1)[..., None, None].float()
    x = x.view(-1, 1, 1, 1)
    exact = law.log_prob(params.double(), x)
    assert (law.log_prob(params, x) - exact).abs().max() < 1e-3
    z = (y - means) * math.exp(7)
    middle = z + 7 - 2 * torch.nn.functional.softplus(z) + math.log(2 / 255)
    assert (middle - exact.flatten()).abs()[60:-60].max() > 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("levels", [2, 5, 256, 8192, 65536])
def test_mixture_gradients_are_finite_everywhere(levels, dtype):
    symbols = torch.arange(levels) if levels < 300 else torch.tensor([0, 1, 4000, levels - 2, levels - 1])
    means = torch.tensor([-1e4, *EXTREME_MEANS, 1e4])
    lowest = -7 + math.log(255 / (levels - 1))
    log_scales = torch.tensor([-1e4, *EXTREME_LOG_SCALES, lowest, math.nextafter(lowest, -100), 1e4])
    x, mean, log_scale = torch.cartesian_prod(symbols.double(), means.double(), log_scales.double()).unbind(1)
    zero = torch.zeros_like(mean)
    # Two equal channels, two components of which one is far from the other.
    params = torch.stack([zero, zero + 50, mean, -mean, mean, mean, log_scale, zero, log_scale, log_scale, zero + 1, zero], 1)
    params = params.to(dtype)[..., None, None].requires_grad_()
    law = DiscretizedLogisticMixture(2, levels, 2)
    nats = law.log_prob(params, x.long().view(-1, 1, 1, 1).expand(-1, 2, 1, 1))
    assert nats.isfinite().all()
    assert (nats <= 1e-6).all()
    nats.sum().backward()
    assert params.grad.isfinite().all()


@pytest.mark.parametrize("levels", [2, 4, 256])  # even numbers: a symbol of intensity zero has no use for a coefficient
@each_channels
def test_mixture_gradients_are_those_of_finite_differences(channels, levels):
    law = DiscretizedLogisticMixture(channels, levels, 2)
    params, x = random_case(law)
    params = params / 2
    log_scales = params.unflatten(1, (-1, 2))[:, 1 + channels : 1 + 2 * channels]
    log_scales.copy_(log_scales.abs() - 1)  # above the lower limit
    x[..., 0], x[..., 1] = 0, levels - 1
    params.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: law.log_prob(p, x), params)
    law.log_prob(params, x).sum().backward()
    assert (params.grad != 0).all()


def test_log_scales_have_gradients_up_to_the_limits_and_none_beyond():
    law = DiscretizedLogisticMixture(1, 256, 1)
    log_scales = torch.tensor([-7.01, -6.99, HIGHEST_LOG_SCALE - 0.01, HIGHEST_LOG_SCALE + 0.01])
    params = torch.stack([torch.zeros(4), torch.full((4,), 0.3), log_scales], 1)[..., None, None].requires_grad_()
    law.log_prob(params, torch.full((4, 1, 1, 1), 170)).sum().backward()
    assert (params.grad[:, 2, 0, 0] != 0).tolist() == [False, True, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 256])
def test_autocast_changes_nothing(levels, dtype):
    law = DiscretizedLogisticMixture(3, levels)
    params, x = random_case(law, batch=20, dtype=dtype)
    place, known, noise = params[:, :, 0, 0], x[:, :, 0, 0], torch.rand(20, dtype=torch.float64)
    exact = torch.promote_types(dtype, torch.float32)

    def everything(cast=lambda t: t):
        return [
            law.log_prob(cast(params), x),
            *(law.pmf(cast(place), known, c, temperature) for c in range(3) for temperature in (1, 0.5)),
            *(law.draw(cast(place), known, c, noise, temperature) for c in range(3) for temperature in (1, 0.5)),
        ]

    expected = everything(lambda t: t.to(exact))
    with torch.autocast("cpu", torch.bfloat16):
        found = everything()
    assert found[0].dtype is exact
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("mixtures", [1, 10])
@pytest.mark.parametrize("levels", [2, 3, 4, 5, 16, 17, 255, 256, 257, 8192, 65536])
def test_the_short_way_to_a_symbol_finds_what_the_table_finds(levels, mixtures):
    law, n = DiscretizedLogisticMixture(3, levels, mixtures), {8192: 100, 65536: 40}.get(levels, 1000)
    generator = torch.Generator().manual_seed(levels)
    params = torch.randn(n, law.params, generator=generator, dtype=torch.float64) * 2
    known = torch.randint(levels, (n, 3), generator=generator)
    known[: n // 4] = torch.tensor([0, levels - 1])[torch.randint(2, (n // 4, 3), generator=generator)]
    noise = torch.rand(n, generator=generator, dtype=torch.float64)
    noise[:10], noise[10:20] = 0, BELOW_1
    for c in range(3):
        # What stands at channel c and after it must not be read.
        garbage = torch.cat([known[:, :c], torch.full((n, 3 - c), -1000)], 1)
        x = law.draw(params, garbage, c, noise)
        # Beside 1 both ways round: there nothing but a symbol of the last rounding error is promised.
        assert torch.equal(x[20:], Likelihood.draw(law, params, known, c, noise)[20:])
        assert x.unique().numel() > (1 if levels < 16 else min(10, n // 40))


@pairs(name=LIKELIHOODS, levels=[2, 5, 16, 256], channels=CHANNELS)
def test_a_place_draws_what_the_table_finds(name, levels, channels):
    law, n = make_likelihood(name, channels, levels), 200
    generator = torch.Generator().manual_seed(channels)
    params = torch.randn(n, law.params, generator=generator, dtype=torch.float64) * 2
    known, place = torch.full((n, channels), -1000), law.at(params)
    for c in range(channels):
        for repeat in range(3):
            noise = torch.rand(n, generator=generator, dtype=torch.float64)
            x = place.draw(known, c, noise)
            assert torch.equal(x, law.draw(params, known, c, noise))
            assert torch.equal(x, Likelihood.draw(law, params, known, c, noise))
            # What was drawn is not what stays: a step may be repeated, and known symbols overrule.
            known[:, c] = torch.where(torch.rand(n, generator=generator) < 0.5, levels - 1 - x, x) if repeat == 2 else 0
        cold = place.draw(known, c, noise, 0.5)
        assert torch.equal(cold, Likelihood.draw(law, params, known, c, noise, 0.5))
    for c in reversed(range(channels)):  # an earlier channel again
        assert torch.equal(place.draw(known, c, noise), law.draw(params, known, c, noise))


@pairs(
    dtype=[torch.float32, torch.float64], levels=[2, 5, 17, 250, 8192, 65536], mixtures=[1, 5, 10, 37], batch=[1, 3, 16, 50, 67]
)
def test_no_draw_runs_out_of_the_levels_whatever_the_order_of_its_sums(dtype, levels, mixtures, batch):
    law, generator = DiscretizedLogisticMixture(1, levels, mixtures), torch.Generator().manual_seed(batch)
    known = torch.zeros(batch, 1, dtype=torch.long)
    for noise in (BELOW_1, 1 - 1e-15, 1 - 1e-13, 1 - 1e-8):
        params = torch.randn(batch, law.params, generator=generator, dtype=dtype)
        params[:, -mixtures:] = -4  # the last symbols have probability zero
        x = law.at(params).draw(known, 0, torch.full((batch,), noise, dtype=torch.float64))
        assert 0 <= x.min() <= x.max() < levels
        if mixtures == 1:
            params[:, 1] = -0.9
            x = law.at(params).draw(known, 0, torch.full((batch,), noise, dtype=torch.float64))
            assert (law.pmf(params.double(), known, 0).gather(1, x[:, None]) > 0).all()


@pairs(dtype=[torch.bfloat16, torch.float32, torch.float64], levels=LEVELS, mixtures=[1, 2, 10])
def test_mixture_draws_stay_where_the_law_is(dtype, levels, mixtures):
    law, n = DiscretizedLogisticMixture(2, levels, mixtures), 300 if levels < 300 else 20
    generator = torch.Generator().manual_seed(mixtures)
    params = torch.randn(n, law.params, generator=generator).to(dtype)
    params.view(n, -1, mixtures)[:, 3:5] = -50  # nearly all symbols have probability zero
    known = torch.randint(levels, (n, 2), generator=generator)
    for noise, c in itertools.product((0.0, 5e-324, 0.5, 1 - 1e-9, BELOW_1), range(2)):
        x = law.draw(params, known, c, torch.full((n,), noise, dtype=torch.float64))
        assert x.dtype is torch.long
        assert 0 <= x.min() <= x.max() < levels
        if noise in (0, BELOW_1):  # where a symbol of probability zero would be found
            assert (law.pmf(params.double(), known, c).gather(1, x[:, None]) > 0).all()


@pytest.mark.parametrize("c", [0, 1])
def test_temperature_sharpens_the_law_of_a_channel(c):
    law = DiscretizedLogisticMixture(2, 16)
    params, x = random_case(law, batch=50)
    place, known = params[:, :, 0, 0], x[:, :, 0, 0]
    pmf = law.pmf(place, known, c)
    for temperature in (0.5, 2):
        powers = pmf ** (1 / temperature)
        torch.testing.assert_close(law.pmf(place, known, c, temperature), powers / powers.sum(1, keepdim=True))
    noise = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(law.draw(place, known, c, noise, 1e-6), pmf.argmax(1))
    assert not torch.equal(law.draw(place, known, c, noise), pmf.argmax(1))


def test_tables_of_a_scan_serve_training_too():
    law = DiscretizedLogisticMixture(2, 123)
    params, x = random_case(law)
    with torch.inference_mode():
        law.draw(params[:, :, 0, 0], x[:, :, 0, 0], 1, torch.rand(2, dtype=torch.float64))
    params.requires_grad_()
    law.pmf(params[:, :, 0, 0], x[:, :, 0, 0], 1).log().sum().backward()
    assert params.grad[:, :, 0, 0].any()


# --- models of every likelihood ------------------------------------------------------------------------------------------


@pairs(name=LIKELIHOODS, channels=[1, 3], levels=[2, 5])
def test_a_model_draws_codes_and_saves(name, channels, levels, tmp_path):
    draws_codes_and_saves(tiny_model("gated-pixelcnn", (channels, 3, 4), levels, likelihood=name), tmp_path)


def draws_codes_and_saves(model, tmp_path):
    x, *others = (model.sample(5, seed=1, method=method) for method in METHODS)
    assert all(torch.equal(x, other) for other in others)
    assert len(x.unique(dim=0)) > 1
    score = Score(model.likelihood)
    raster(model, x.long(), score)
    torch.testing.assert_close(-score.nats.sum((1, 2, 3)), model.log_prob(x).detach(), rtol=0, atol=1e-10)
    data = nextpixel.compress(model, x, embed=True)
    assert torch.equal(nextpixel.decompress(None, data), x)
    model.save(tmp_path / "model")
    loaded = nextpixel.load(tmp_path / "model")
    assert loaded.config == model.config
    assert torch.equal(loaded.log_prob(x), model.log_prob(x))


# --- models that end in a mixture ----------------------------------------------------------------------------------------

each_model = pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn"])


@each_model
def test_mixtures_is_an_argument_of_the_models(name):
    model = tiny_model(name, (3, 3, 4), 5, likelihood="logistic-mixture", mixtures=4)
    assert (model.config["likelihood"], model.config["mixtures"], model.likelihood.mixtures) == ("logistic-mixture", 4, 4)
    assert model(images(model)).shape == (2, 40, 3, 4)
    assert tiny_model(name).config["mixtures"] == 10


@each_model
def test_models_of_a_mixture_keep_the_contract(name):
    model = tiny_model(name, (3, 3, 4), 5, likelihood="logistic-mixture", mixtures=2)
    x = images(model)
    with torch.no_grad():
        expected, cache, score = model(x), model.start(2), Score(model.likelihood)
        for i in range(3):
            model.begin_row(cache, x, i)
            for j in range(4):
                torch.testing.assert_close(model.step(cache, x, i, j), expected[:, :, i, j], rtol=0, atol=1e-10)
    raster(model, x, score)
    torch.testing.assert_close(score.nats.sum((1, 2, 3)), -model.log_prob(x).detach(), rtol=0, atol=1e-10)
    assert torch.equal(model.sample(3, seed=1), model.sample(3, seed=1, method="naive"))
    score = Score(model.likelihood)
    raster(Naive(model), x, score)
    torch.testing.assert_close(score.nats.sum((1, 2, 3)), -model.log_prob(x).detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 2), 3), ((2, 2, 2), 2)], ids=str)
@each_model
def test_models_of_a_mixture_are_laws_and_learn_with_every_parameter(name, shape, levels):
    model = tiny_model(name, shape, levels, likelihood="logistic-mixture", mixtures=2)
    p = model.log_prob(all_images(*shape, levels)).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-10)
    assert p.std() > 1e-6
    p.log().sum().backward()
    assert [key for key, p in model.named_parameters() if not p.grad.any()] == []


@each_model
def test_autocast_leaves_the_params_of_a_mixture_in_float32(name):
    model = tiny_model(name, (3, 3, 4), 5, likelihood="logistic-mixture", mixtures=2).float()
    x = images(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype is torch.float32
        assert model.log_prob(x).dtype is torch.float32
        assert tiny_model(name).float()(x[:, :1] % 3).dtype is torch.bfloat16


def test_a_precise_head_rounds_nothing_after_its_hidden_layer():
    torch.manual_seed(0)
    head, x = Head(16, 32, 20, colours=1, precise=True), torch.randn(2, 16, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        hidden, found = torch.relu(head.hidden(torch.relu(x))), head(x)
    assert torch.equal(found, head.out(hidden.float()))
    assert torch.equal(Head.forward(head, x), head.out(torch.relu(head.hidden(torch.relu(x)))))
    assert head.double()(x.double()).dtype is torch.float64


def skewed(levels, channels, shape=(6, 8, 8)):
    """Images whose symbols are far from evenly spread, (N, C, H, W), and the entropy of their channels in bits/dim."""
    generator = torch.Generator().manual_seed(levels)
    near = torch.randn(shape[0], 1, *shape[1:], generator=generator) * levels / 40 + levels / 5
    own = torch.randn(shape[0], channels, *shape[1:], generator=generator) * levels / 80
    x = (near + own).round().long().clamp(0, levels - 1)
    shares = [torch.bincount(x[:, c].flatten(), minlength=levels) / x[:, c].numel() for c in range(channels)]
    return x, sum(-torch.special.xlogy(p, p).sum().item() for p in shares) / channels / math.log(2)


@each_law
@pytest.mark.parametrize(("levels", "channels"), [(2, 1), (17, 1), (256, 1), (256, 3)])
@pytest.mark.parametrize("model", ["gated-pixelcnn", "pixelcnn++", "multiscale"])
def test_training_starts_near_the_entropy_of_single_pixels(name, levels, channels, model):
    x, entropy = skewed(levels, channels)
    torch.manual_seed(0)
    network = MODELS[model](**{**MODELS[model].presets["tiny"], "shape": x.shape[1:], "levels": levels, "likelihood": name})
    network.initialise(x)
    before = network.bits_per_dim(x).mean().item()
    assert start_head(network, x)
    after = network.bits_per_dim(x).mean().item()
    assert after < before
    # A mixture of logistics smears what it holds over the neighbours, and the last layer still adds a little of its own.
    assert after < entropy + (0.25 if name == "categorical" else 0.5)


@each_law
@pytest.mark.parametrize("levels", [2, 256])
def test_a_start_from_symbols_of_one_value_is_finite(name, levels):
    law = make_likelihood(name, 1, levels)
    params = law.start(torch.ones(5, 1, dtype=torch.long))
    assert params.shape == (law.params,)
    assert params.isfinite().all()
    assert law.pmf(params[None], torch.zeros(1, 1, dtype=torch.long), 0)[0, 1] > 0.5


def test_an_architecture_with_another_head_and_a_law_without_a_start_are_left_as_they_are():
    model = tiny_model("pixelcnn", (1, 4, 4), 17)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.zeros(2, 1, 4, 4, dtype=torch.long)
    model.likelihood.start = lambda x: None
    assert not start_head(model, x)
    del model.likelihood.start
    head, model.head = model.head, torch.nn.Identity()
    assert not start_head(model, x)
    model.head = head
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
