"""Guidance: what every architecture inherits for a law between, or beyond, its conditional and its unconditional one.

h of a scan with guidance s     [h, 0] for [x, x]: every image twice, side by side, and `likelihoods.Guided` for both
                      s = 1     h for x: the model itself, as if there were no guidance
                      s = 0     0 for x: the unconditional model
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nextpixel.errors import InputError
from nextpixel.likelihoods import Guided, Likelihood
from nextpixel.likelihoods.guided import twice, with_and_without

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel

# Beyond it the logarithms of a law lose their digits.
HIGHEST_GUIDANCE = 1e6


class Guidance:
    """The part of `AutoregressiveModel` that knows what is conditional and what is not."""

    def guided_likelihood(self: "AutoregressiveModel", guidance: float) -> Likelihood:
        """The law of a place under this guidance: the model's own, or a `Guided` one, which wants every image `twice`.

        Raises:
            InputError: guidance is not finite or far too large, or there is no condition to guide by.
        """
        if not abs(guidance) <= HIGHEST_GUIDANCE:
            raise InputError(f"guidance must be from -{HIGHEST_GUIDANCE:g} to {HIGHEST_GUIDANCE:g}, not {guidance}")
        if guidance != 1 and self.condition is None:
            raise InputError(f"guidance {guidance} needs a model with a condition, but this one takes none")
        return self.likelihood if guidance in (0, 1) else Guided(self.likelihood, guidance)

    def guided_condition(
        self: "AutoregressiveModel", cond: Any, guidance: float, batch: int, height: int, width: int
    ) -> Tensor | None:
        """The maps h under this guidance: 0 where it is 0, which needs no `cond`.

        Raises:
            InputError: as `encode_condition`.
        """
        if guidance == 0 and cond is None:
            one = self.condition.one
            return one.new_zeros(batch, self.condition.features, 1, 1)
        h = self.encode_condition(cond, batch, height, width)
        return torch.zeros_like(h) if guidance == 0 else h

    def _guided_log_prob(self: "AutoregressiveModel", x: Tensor, cond: Any, guidance: float) -> Tensor:
        """`log_prob` of checked images, by one forward pass over every image twice."""
        law = self.guided_likelihood(guidance)
        h, images = self.guided_condition(cond, guidance, x.shape[0], *x.shape[2:]), x
        if isinstance(law, Guided):
            images, h = twice(x), with_and_without(h)
        return law.log_prob(self.network(self.encode(images), h), images)[: len(x)].flatten(1).sum(1)
