"""The mixture of discretized logistics of PixelCNN++ (Salimans et al. 2017, arXiv:1701.05517), exact at every scale."""

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel.errors import InputError
from nextpixel.likelihoods.base import MAX_LEVELS, DrawInstruction, Likelihood, Place, at_least_float32

# Log scales of the logistic mixture: the authors' lower limit at 256 levels, and an upper one under which the bins of 65536
# levels still have a width in float32.
LOWEST_LOG_SCALE, HIGHEST_LOG_SCALE = -7.0, 12.0
# The outer side of the first and the last bin: saturates every sigmoid, as infinity would, but leaves gradients finite.
FAR = 1e12
NEARLY_1 = 1 - 2**-44  # further from 1 than the rounding errors of a sum in float64


class DiscretizedLogisticMixture(Likelihood):
    """A mixture of K logistic distributions over the intensities, each cut into `levels` bins; the channels share the component.

    .. math:: p(x) = \\sum_k \\pi_k \\prod_c [\\sigma((y_c + h - m_{kc}) / s_{kc}) - \\sigma((y_c - h - m_{kc}) / s_{kc})],
        \\quad m_{kc} = \\mu_{kc} + \\sum_{d<c} \\tanh(a_{kcd}) \\, y_d

    where y = 2x / (levels - 1) - 1 is the intensity of a symbol and h = 1 / (levels - 1) half its bin; the first and the last
    bin are open (arXiv:1701.05517, sections 2.1 and 2.2). The parameters are runs of K numbers: the logits of the weights, C
    means, C log scales, and the coefficients a in the order (c, d) = (1, 0), (2, 0), (2, 1), ...

    Raises:
        InputError: levels outside 2..65536, no channels or no components.

    Example:
        >>> likelihood = DiscretizedLogisticMixture(channels=3, levels=256, mixtures=10)
        >>> likelihood.params
        100
        >>> likelihood.pmf(torch.zeros(1, 100), torch.tensor([[255, 0, 0]]), c=1).shape
        torch.Size([1, 256])
    """

    name = "logistic-mixture"
    settings = ("mixtures",)
    coding = "logistic-mixture"
    colours = 1
    precise = True
    most_levels = MAX_LEVELS

    def __init__(self, channels: int, levels: int, mixtures: int = 10) -> None:
        super().__init__(channels, levels)
        if mixtures < 1:
            raise InputError(f"mixtures must be at least 1, not {mixtures}")
        self.mixtures = mixtures
        self.params = mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)
        # The same fraction of a bin for every number of levels.
        self.lowest_log_scale = LOWEST_LOG_SCALE + math.log(255 / (levels - 1))

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        *_, joint = self._joints(params, x)
        return joint.logsumexp(1)

    def log_prob_each(self, params: Tensor, x: Tensor) -> Tensor:
        # Of the first c channels together: log p(x_c | x_<c) is the difference of two.
        first = torch.stack([joint.logsumexp(1) for joint in self._joints(params, x)], 1)
        return torch.cat([first[:, :1], first.diff(dim=1)], 1)

    def _joints(self, params: Tensor, x: Tensor) -> Iterator[Tensor]:
        """log of weight times mass of each component, (B, K, H, W), for the first channel, the first two, ..., all."""
        runs = at_least_float32(params).unflatten(1, (-1, self.mixtures)).unbind(1)
        y, *bins = (value.unbind(1) for value in _bins(x.to(runs[0].dtype).unsqueeze(2), self.levels))
        coefficients = iter(runs[1 + 2 * self.channels :])
        joint = runs[0].log_softmax(1)
        for c in range(self.channels):
            mean, log_scale = runs[1 + c], runs[1 + self.channels + c]
            for d in range(c):
                mean = torch.addcmul(mean, next(coefficients).tanh(), y[d])
            joint = joint + _log_mass(mean, self._rate(log_scale), *(value[c] for value in bins))
            yield joint

    def start(self, x: Tensor) -> Tensor:
        r"""A component for each K-th part of the places, sorted by their mean intensity: its mean and deviation in each channel.

        .. math:: \pi_k = 1 / K, \quad s_{kc} = \max(\sqrt 3 / \pi \cdot \mathrm{std}_{kc}, h / 2), \quad a_{kcd} = 0

        (a logistic distribution of scale s has the standard deviation :math:`\pi s / \sqrt 3`; h is half a bin).
        """
        y = 2 * x.double() / (self.levels - 1) - 1
        parts = y[y.mean(1).argsort(stable=True)].tensor_split(self.mixtures)
        parts = [part if len(part) else y for part in parts]
        means = torch.stack([part.mean(0) for part in parts], 1)
        deviations = torch.stack([part.std(0, correction=0) for part in parts], 1)
        log_scales = (deviations * (math.sqrt(3) / math.pi)).clamp(min=0.5 / (self.levels - 1)).log()
        rest = self.params - self.mixtures * (1 + 2 * self.channels)
        return torch.cat([y.new_zeros(self.mixtures), means.flatten(), log_scales.flatten(), y.new_zeros(rest)]).float()

    def log_pmf(self, params: Tensor, known: Tensor, c: int) -> Tensor:
        logits, mean, rate = self.at(params).given(known, c)
        bins = _bins(torch.arange(self.levels, device=params.device, dtype=mean.dtype), self.levels)[1:]
        # By logarithms, so that small probabilities keep their digits too.
        return (logits.log_softmax(0) + _log_mass(mean, rate, *bins)).logsumexp(0)

    def at(self, params: Tensor) -> "_MixturePlace":
        return _MixturePlace(self, params)

    def draw(self, params: Tensor, known: Tensor, c: int, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return self.at(params).draw(known, c, noise, temperature)

    def draw_instruction(self, c: int, temperature: float = 1.0, guidance: float = 1.0) -> DrawInstruction | None:
        if temperature != 1 or guidance != 1:
            return None  # which have no closed form
        settings = (self.channels, self.lowest_log_scale)
        return DrawInstruction("mixture", None, settings, self.mixtures, scratch=4 * self.mixtures, coupled=True)

    def _rate(self, log_scale: Tensor) -> Tensor:
        """1 / s."""
        return log_scale.clamp(self.lowest_log_scale, HIGHEST_LOG_SCALE).neg_().exp_()


class _MixturePlace(Place):
    """A mixture after each channel: what is known of the earlier ones moves the means and the weights of the components.

    Its tensors are (..., K, B, 1). Here the number of calls is the cost, not the arithmetic.
    """

    def __init__(self, likelihood: DiscretizedLogisticMixture, params: Tensor) -> None:
        super().__init__(likelihood, params)
        channels, params = likelihood.channels, at_least_float32(params)
        self.tables = _tables(likelihood.levels, params.device, params.dtype)
        self.runs = params.t().contiguous().view(-1, likelihood.mixtures, len(params), 1)
        self.rates = likelihood._rate(self.runs[1 + channels : 1 + 2 * channels])
        # Item c, once the channels before c are absorbed: the weights' logits, and the means of c and all later channels.
        self.logits, self.means = [self.runs[0]], [self.runs[1 : 1 + channels]]

    def draw(self, known: Tensor, c: int, noise: Tensor, temperature: float = 1.0) -> Tensor:
        if temperature != 1:
            return Likelihood.draw(self.likelihood, self.params, known, c, noise, temperature)
        # The distribution function has a closed form: look at the ends of about sqrt(levels) groups, then into one group.
        logits, mean, rate = self.given(known, c)
        weights, ends, groups, zero = logits.softmax(0), *self.tables[3:]
        cumulative = torch.sub(ends, mean).mul_(rate).sigmoid_().mul_(weights).sum(0, dtype=torch.float64)
        # The last end is at infinity and gives the sum of the weights: measure the noise by it, as the base class does.
        # Sums of the same numbers may differ by rounding errors: keep below, for beyond are symbols of probability zero.
        threshold = torch.addcmul(zero, cumulative.select(1, -1), noise, value=NEARLY_1).unsqueeze(1)
        group = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
        sides = groups.index_select(0, group)
        cumulative = torch.sub(sides, mean).mul_(rate).sigmoid_().mul_(weights).sum(0, dtype=torch.float64)
        return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).add_(group, alpha=len(ends))

    def cdf(self, known: Tensor, c: int, symbols: Tensor | None = None) -> Tensor:
        logits, mean, rate = self.given(known, c)
        sides = self.tables[0][0] if symbols is None else self.tables[0][0][symbols]
        return torch.sub(sides, mean).mul_(rate).sigmoid_().mul_(logits.softmax(0)).sum(0)

    def given(self, known: Tensor, c: int) -> tuple[Tensor, Tensor, Tensor]:
        """The weights' logits, the means and 1 / s of channel c given those before it."""
        for channel in range(len(self.logits) - 1, c):
            self._absorb(known.select(1, channel).long(), channel)
        return self.logits[c], self.means[c][0], self.rates[c]

    def _absorb(self, x: Tensor, c: int) -> None:
        channels, symbols, signs, minus_width = self.likelihood.channels, *self.tables[:3]
        if c == 0:
            self.coefficients = self.runs[1 + 2 * channels :].tanh()
            if channels > 3:  # sort by d; those of three channels are
                self.coefficients = self.coefficients[torch.tril_indices(channels, channels, -1)[1].argsort(stable=True)]
            # What `_log_mass` calls inside, for all bins but the two open ones, where it is 0.
            self.inside = torch.mul(self.rates, minus_width).expm1_().neg().log_()
        symbol, means = symbols.index_select(1, x).view(4, 1, len(x), 1), self.means[c]
        # A component that explains the known channels badly is as unlikely for the next one.
        explained = F.logsigmoid(torch.addcmul(symbol[:2], signs, means[0]).mul_(self.rates[c])).sum(0)
        self.logits.append(explained.addcmul_(symbol[3], self.inside[c]).add_(self.logits[c]))
        first, later = c * (2 * channels - c - 1) // 2, channels - 1 - c
        self.means.append(torch.addcmul(means[1:], self.coefficients[first : first + later], symbol[2]))


def _bins(x: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of symbols, as floating-point numbers: the intensity, the lower and the upper side of the bin, and minus its width."""
    n = levels - 1
    first, last = x == 0, x == n
    # Neighbours share a side to the last bit: both divide the same whole number.
    lower = torch.where(first, -FAR, (2 * x - (n + 1)) / n)
    upper = torch.where(last, FAR, (2 * x - (n - 1)) / n)
    return (2 * x - n) / n, lower, upper, torch.where(first | last, -FAR, x.new_full((), -2 / n))


def _log_mass(mean: Tensor, rate: Tensor, lower: Tensor, upper: Tensor, minus_width: Tensor) -> Tensor:
    """log of sigmoid((upper - mean) rate) - sigmoid((lower - mean) rate), exact however small the difference is.

    With a and b for the two arguments, it is log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)). The last term takes the
    width of the bin as it is: a - b has lost its digits where the mean is far or the scale is large.
    """
    inside = torch.log(-torch.expm1(minus_width * rate))
    return inside.add_(F.logsigmoid((upper - mean) * rate)).add_(F.logsigmoid((mean - lower) * rate))


@lru_cache(maxsize=64)
def _tables(levels: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What a scan looks up: of each symbol the upper side, minus the lower one, the intensity, and 0 if its bin is open, else 1
    (4, levels); the mean's signs beside the two sides; minus the width of a bin; for p = ceil(sqrt(levels)) groups of p symbols
    the upper sides of their last symbols (p,) and of all their symbols (p, p), which end at infinity; a zero in float64."""
    p = math.isqrt(levels - 1) + 1
    # Ordinary tensors, whatever mode the first call is in: those made in inference mode could not be used outside it.
    with torch.inference_mode(False), torch.device(device):
        y, lower, upper, minus_width = _bins(torch.arange(levels, dtype=dtype), levels)
        symbols = torch.stack([upper, -lower, y, (minus_width != -FAR).to(dtype)])
        signs, width = torch.tensor([-1, 1], dtype=dtype).view(2, 1, 1, 1), torch.tensor(2 / (levels - 1), dtype=dtype)
        sides = F.pad(upper, (0, p * p - levels), value=FAR).view(p, p)
        return symbols, signs, -width, sides[:, -1].contiguous(), sides, torch.zeros((), dtype=torch.float64)
