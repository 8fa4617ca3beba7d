"""Likelihoods: from a network's output at a place to a law over the symbols 0..levels-1 of its channels."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel.errors import InputError

MAX_LEVELS = 8192


class Likelihood(ABC):
    """The law of a place's channels, given what the network says of the place.

    .. math:: p(x_{ij}) = \\prod_c p(x_{ijc} \\mid x_{ij,<c}, \\theta_{ij})

    Attributes:
        channels, levels: C channels of symbols 0..levels-1.
        params: P, how many numbers the network must give for each place.
        colours: how many colour groups the network must keep apart: C if the law of channel c is to know the earlier
            channels through the network, 1 if the likelihood couples the channels itself.
    """

    name: str
    params: int
    colours: int

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

    def draw(self, params: Tensor, known: Tensor, c: int, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """A symbol of channel c, (B,), from noise uniform in [0, 1), (B,): the smallest x with noise < P(X <= x)."""
        # In float64 noise next to 1 stays below 1, so that no symbol of probability zero is found; the sum may end a
        # rounding error beside 1: measure the noise by it.
        cumulative = self.pmf(params, known, c, temperature).double().cumsum(-1)
        threshold = noise.to(cumulative.dtype)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp_(max=self.levels - 1)


class Categorical(Likelihood):
    """One softmax over the levels for each channel; for 2 levels one logit and a sigmoid, as in the papers' binary MNIST.

    .. math:: p(x_{ijc} = k) = \\mathrm{softmax}_k(\\theta_{ijc})

    The parameters of channel c are the c-th of C equal runs (arXiv:1601.06759, section 3.1).

    Raises:
        InputError: levels outside 2..8192 or no channels.

    Example:
        >>> law = Categorical(channels=3, levels=256)
        >>> law.params
        768
        >>> law.log_prob(torch.zeros(1, 768, 2, 2), torch.zeros(1, 3, 2, 2, dtype=torch.long)).exp()[0, 0, 0] * 256**3
        tensor(1.0000)
    """

    name = "categorical"

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__(channels, levels)
        self.per_channel = 1 if levels == 2 else levels
        self.params = channels * self.per_channel
        self.colours = channels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        logits = _at_least_float32(params).unflatten(1, (self.channels, self.per_channel))
        if self.levels == 2:
            # log sigmoid(l) for a one, log sigmoid(-l) for a zero
            return F.logsigmoid(logits[:, :, 0] * (2 * x.long() - 1)).sum(1)
        return -F.cross_entropy(logits.transpose(1, 2), x.long(), reduction="none").sum(1)

    def pmf(self, params: Tensor, known: Tensor, c: int, temperature: float = 1.0) -> Tensor:
        logits = _tempered(params[:, c * self.per_channel : (c + 1) * self.per_channel], temperature)
        if self.levels == 2:
            return torch.sigmoid(torch.cat([-logits, logits], dim=1))
        return logits.softmax(1)

    def draw(self, params: Tensor, known: Tensor, c: int, noise: Tensor, temperature: float = 1.0) -> Tensor:
        if self.levels > 2:
            return super().draw(params, known, c, noise, temperature)
        # The same rule without a table of two entries: a one if P(X <= 0) does not exceed the noise.
        logit = _tempered(params[:, c], temperature)
        return (torch.sigmoid(-logit).to(noise.dtype) <= noise).long()


def _at_least_float32(params: Tensor) -> Tensor:
    return params.float() if params.dtype in (torch.bfloat16, torch.float16) else params


def _tempered(params: Tensor, temperature: float) -> Tensor:
    logits = _at_least_float32(params)
    return logits if temperature == 1 else logits / temperature


LIKELIHOODS: dict[str, type[Likelihood]] = {Categorical.name: Categorical}


def make_likelihood(name: str, channels: int, levels: int) -> Likelihood:
    """The likelihood of this name for C channels of `levels` symbols.

    Raises:
        InputError: an unknown name, or sizes that the likelihood does not allow.
    """
    if name not in LIKELIHOODS:
        raise InputError(f"unknown likelihood {name!r}: expected one of {', '.join(LIKELIHOODS)}")
    return LIKELIHOODS[name](channels, levels)
