"""Guidance: the distribution between, or beyond, the conditional and the unconditional one, exact symbol by symbol."""

from dataclasses import replace

import torch
from torch import Tensor

from nextpixel.likelihoods.base import DrawInstruction, Likelihood

CHUNK = 2**20  # probabilities computed at once


class Guided(Likelihood):
    r"""The distribution of a batch that holds every image twice, first under its condition h and then without one.

    .. math:: p_s(k) = \frac{q(k)}{\sum_l q(l)}, \qquad q(k) = p(k \mid \text{earlier}, h)^s \, p(k \mid \text{earlier})^{1-s}

    normalised over the symbols of each channel given all earlier symbols: s = 1 is the conditional distribution, s = 0 the
    unconditional one, s > 1 goes beyond the conditional one. (Classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598,
    section 3.2, has scores in place of logarithms and w = s - 1.) Both halves of a batch have the same distribution and draw the
    same symbols.

    Args:
        likelihood: of both halves.
        guidance: s.

    Shapes:
        As of any likelihood, with 2 B for the batch: params (2 B, P, H, W), x (2 B, C, H, W), noise (2 B,).

    Example:
        >>> from nextpixel.likelihoods import Categorical
        >>> params = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]).log()  # with the condition, and without
        >>> Guided(Categorical(channels=1, levels=3), guidance=2.0).pmf(params, torch.zeros(2, 1), c=0)[0]
        tensor([0.7669, 0.1840, 0.0491], dtype=torch.float64)
    """

    def __init__(self, likelihood: Likelihood, guidance: float) -> None:
        self.most_levels = likelihood.most_levels
        super().__init__(likelihood.channels, likelihood.levels)
        self.likelihood, self.guidance = likelihood, guidance
        self.name, self.params, self.colours = likelihood.name, likelihood.params, likelihood.colours
        self.precise = likelihood.precise

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return self.log_prob_each(params, x).sum(1)

    def log_prob_each(self, params: Tensor, x: Tensor) -> Tensor:
        # Places are the batch of a scan: (B H W, P) under the condition, and as many without.
        flat = [t.movedim(1, 3).flatten(0, 2).unflatten(0, (2, -1)) for t in (params, x)]
        at_once = max(1, CHUNK // self.levels)
        nats = []
        for of_params, symbols in zip(*(t.split(at_once, 1) for t in flat), strict=True):
            of_params, symbols = of_params.flatten(0, 1), symbols.flatten(0, 1)
            channels = (self.log_pmf(of_params, symbols, c) for c in range(self.channels))
            each = [log_pmf.gather(1, symbols[:, c : c + 1].long()) for c, log_pmf in enumerate(channels)]
            nats.append(torch.cat(each, 1).unflatten(0, (2, -1)))
        return torch.cat(nats, 1).view(x.shape[0], *x.shape[2:], self.channels).movedim(3, 1)

    def log_pmf(self, params: Tensor, known: Tensor, c: int) -> Tensor:
        return self._unnormalised(params, known, c).log_softmax(1).repeat(2, 1)

    def pmf(self, params: Tensor, known: Tensor, c: int, temperature: float = 1.0) -> Tensor:
        return (self._unnormalised(params, known, c) / temperature).softmax(1).repeat(2, 1)

    def draw_instruction(self, c: int, temperature: float = 1.0, guidance: float = 1.0) -> DrawInstruction | None:
        instruction = self.likelihood.draw_instruction(c, temperature, self.guidance)
        return None if instruction is None else replace(instruction, copies=2)

    def _unnormalised(self, params: Tensor, known: Tensor, c: int) -> Tensor:
        """Logarithms (B, levels), in float64: a large s multiplies their rounding errors."""
        conditional, unconditional = self.likelihood.log_pmf(params, known, c).double().chunk(2)
        return unconditional.lerp(conditional, self.guidance)


def twice(images: Tensor) -> Tensor:
    """A batch and once more the same: the lanes of `Guided`."""
    return torch.cat([images, images])


def with_and_without(h: Tensor) -> Tensor:
    """The conditions of both halves of such a batch: h, and 0, which adds nothing in any layer."""
    return torch.cat([h, torch.zeros_like(h)])
