"""What every likelihood offers: the law of a place's channels, and how a symbol is drawn from it."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from nextpixel.errors import InputError

MAX_LEVELS = 8192


class Place:
    """The law of one place, channel by channel, for as long as nobody overwrites its `params`."""

    def __init__(self, likelihood: "Likelihood", params: Tensor) -> None:
        self.likelihood, self.params = likelihood, params

    def draw(self, known: Tensor, c: int, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """As `Likelihood.draw`; a channel before the largest c so far must not change in `known` any more."""
        return self.likelihood.draw(self.params, known, c, noise, temperature)

    def cdf(self, known: Tensor, c: int) -> Tensor:
        """The distribution function of channel c: P(X <= k) for every symbol k, (B, levels).

        It never falls but by rounding errors. A channel before the largest c so far must not change in `known` any more.

        Example:
            >>> from nextpixel.likelihoods import Categorical
            >>> law = Categorical(channels=1, levels=4).at(torch.zeros(1, 4))
            >>> law.cdf(torch.zeros(1, 1), c=0)
            tensor([[0.2500, 0.5000, 0.7500, 1.0000]])
        """
        return self.likelihood.pmf(self.params, known, c).cumsum(-1)


class Likelihood(ABC):
    """The law of a place's channels, given what the network says of the place.

    .. math:: p(x_{ij}) = \\prod_c p(x_{ijc} \\mid x_{ij,<c}, \\theta_{ij})

    Attributes:
        channels, levels: C channels of symbols 0..levels-1.
        params: P, how many numbers the network must give for each place.
        colours: how many colour groups the network must keep apart: C if the law of channel c is to know the earlier
            channels through the network, 1 if the likelihood couples the channels itself.
        precise: whether params rounded to bf16 would spoil it: a mean rounded to 8 bits is off by half a bin.
    """

    name: str
    params: int
    colours: int
    precise: bool = False

    def __init__(self, channels: int, levels: int) -> None:
        if channels < 1:
            raise InputError(f"channels must be at least 1, not {channels}")
        if not 2 <= levels <= MAX_LEVELS:
            raise InputError(f"levels must be from 2 to {MAX_LEVELS}, not {levels}")
        self.channels, self.levels = channels, levels

    @abstractmethod
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Nats per place: params (B, P, H, W) and x (B, C, H, W) give (B, H, W), in float32 or better."""

    @abstractmethod
    def pmf(self, params: Tensor, known: Tensor, c: int, temperature: float = 1.0) -> Tensor:
        """The law of channel c: params (B, P) and the place's symbols `known` (B, C), of which those before c count, give
        (B, levels), which sums to 1 over the symbols."""

    @abstractmethod
    def log_pmf(self, params: Tensor, known: Tensor, c: int) -> Tensor:
        """The logarithm of `pmf`, which stays finite where a probability is too small for its type."""

    def at(self, params: Tensor) -> Place:
        """What draws the channels of a place one after the other: it computes once what they share."""
        return Place(self, params)

    def draw(self, params: Tensor, known: Tensor, c: int, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """A symbol of channel c, (B,), from noise uniform in [0, 1), (B,): the smallest x with noise < P(X <= x)."""
        # In float64 noise next to 1 stays below 1, so that no symbol of probability zero is found; the sum may end a
        # rounding error beside 1: measure the noise by it.
        cumulative = self.pmf(params, known, c, temperature).double().cumsum(-1)
        threshold = noise.to(cumulative.dtype)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp_(max=self.levels - 1)


def at_least_float32(params: Tensor) -> Tensor:
    """Half-precision numbers as float32, others as they are."""
    return params.float() if params.dtype in (torch.bfloat16, torch.float16) else params
