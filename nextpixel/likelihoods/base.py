"""What every likelihood offers: the distribution of a place's channels, and how symbols are drawn from it and coded by it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nextpixel.errors import InputError

MAX_LEVELS = 65536  # of any likelihood; each has a limit of its own


@dataclass(frozen=True)
class DrawInstruction:
    """How a row program draws a channel: by one instruction of `nextpixel.compiled.draw_kernels`.

    Args:
        opcode: "binary", "categorical" or "mixture".
        params: which of the P numbers of a place it reads; None for all of them.
        settings: numbers that the kernel reads.
        mixtures: components, the size k of the instruction.
        scratch: numbers that the kernel works on.
        coupled: whether it reads the place's earlier symbols.
        copies: how often the batch holds each image; all copies get the same symbol.
    """

    opcode: str
    params: slice | None = None
    settings: tuple[float, ...] = ()
    mixtures: int = 0
    scratch: int = 0
    coupled: bool = False
    copies: int = 1


class Place:
    """The distribution of one place, channel by channel, for as long as its `params` are not overwritten."""

    def __init__(self, likelihood: "Likelihood", params: Tensor) -> None:
        self.likelihood, self.params = likelihood, params

    def draw(self, known: Tensor, c: int, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """As `Likelihood.draw`; a channel before the largest c so far must not change in `known` any more."""
        return self.likelihood.draw(self.params, known, c, noise, temperature)

    def cdf(self, known: Tensor, c: int, symbols: Tensor | None = None) -> Tensor:
        """The distribution function of channel c: P(X <= k) for every symbol k, (B, levels), or for these `symbols` (B, S).

        It never falls but by rounding errors. A channel before the largest c so far must not change in `known` any more.

        Example:
            >>> from nextpixel.likelihoods import Categorical
            >>> place = Categorical(channels=1, levels=4).at(torch.zeros(1, 4))
            >>> place.cdf(torch.zeros(1, 1), c=0)
            tensor([[0.2500, 0.5000, 0.7500, 1.0000]])
        """
        cdf = self.likelihood.pmf(self.params, known, c).cumsum(-1)
        return cdf if symbols is None else cdf.gather(1, symbols)


class Likelihood(ABC):
    """The distribution of a place's channels, given the network's numbers for the place.

    .. math:: p(x_{ij}) = \\prod_c p(x_{ijc} \\mid x_{ij,<c}, \\theta_{ij})

    A new likelihood is one file with a subclass that defines `params`, `colours`, `log_prob` and `log_pmf`, and a line in
    `LIKELIHOODS` (`nextpixel.likelihoods`); all else has a default (CONTRIBUTING.md has an example).

    Attributes:
        channels, levels: C channels of symbols 0..levels-1.
        params: P, how many numbers the network computes for each place.
        colours: how many colour groups the network keeps apart: C if channel c depends on the earlier channels through the
            network, 1 if the likelihood couples the channels itself.
        most_levels: how many levels it may have: 8192, where the network computes a number for each, else up to 65536.
        precise: whether params rounded to bf16 would spoil it: a mean rounded to 8 bits is off by half a bin.
        settings: further constructor arguments, which a model has under the same names.
        coding: the frequency tables of the codec, by their name in `nextpixel.coding.entropy.choosers`; the default, "cdf",
            computes all values of the distribution function and serves every likelihood.

    Raises:
        InputError: levels outside 2..most_levels or no channels.
    """

    name: ClassVar[str]
    most_levels: ClassVar[int] = 8192
    settings: ClassVar[tuple[str, ...]] = ()
    coding: ClassVar[str] = "cdf"
    precise: bool = False
    params: int
    colours: int

    def __init__(self, channels: int, levels: int) -> None:
        if channels < 1:
            raise InputError(f"channels must be at least 1, not {channels}")
        if not 2 <= levels <= self.most_levels:
            deeper = (
                f" (up to {MAX_LEVELS} with the logistic-mixture likelihood)" if self.most_levels < levels <= MAX_LEVELS else ""
            )
            raise InputError(f"levels must be from 2 to {self.most_levels}, not {levels}{deeper}")
        self.channels, self.levels = channels, levels

    @abstractmethod
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Nats per place: params (B, P, H, W) and x (B, C, H, W) give (B, H, W), in float32 or better."""

    def log_prob_each(self, params: Tensor, x: Tensor) -> Tensor:
        """Nats of every symbol given the earlier channels of its place: (B, C, H, W), whose sum over channels is `log_prob`."""
        flat, symbols = (t.movedim(1, 3).flatten(0, 2) for t in (params, x))
        each = [self.log_pmf(flat, symbols, c).gather(1, symbols[:, c : c + 1].long()) for c in range(self.channels)]
        return torch.cat(each, 1).view(x.shape[0], *x.shape[2:], self.channels).movedim(3, 1)

    @abstractmethod
    def log_pmf(self, params: Tensor, known: Tensor, c: int) -> Tensor:
        """The logarithm of `pmf`, which stays finite where a probability is too small for its type."""

    def pmf(self, params: Tensor, known: Tensor, c: int, temperature: float = 1.0) -> Tensor:
        """The distribution of channel c: params (B, P) and the place's symbols `known` (B, C), of which those before c count,
        give (B, levels), which sums to 1 over the symbols."""
        log_pmf = self.log_pmf(params, known, c)
        return log_pmf.exp() if temperature == 1 else (log_pmf / temperature).softmax(1)

    def at(self, params: Tensor) -> Place:
        """What draws the channels of a place one after the other: it computes once what they share."""
        return Place(self, params)

    def start(self, x: Tensor) -> Tensor | None:
        """The params (P,) of a place's distribution where nothing is known but the symbols x (N, C) of many places.

        A model that is trained from scratch begins there (`nextpixel.models.start`). None, the default: there is no such start,
        and the head begins as its layers do.
        """
        return None

    def draw_instruction(self, c: int, temperature: float = 1.0, guidance: float = 1.0) -> DrawInstruction | None:
        """How a row program draws channel c; None where no instruction does: then `draw` chooses between compiled steps."""
        return None

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
