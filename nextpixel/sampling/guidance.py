"""Guidance: a distribution between, or beyond, the conditional and the unconditional one of a model.

h of a scan with guidance s     [h, 0] for [x, x]: every image twice, side by side, and `likelihoods.Guided` for both
                      s = 1     h for x: the model itself, without guidance
                      s = 0     0 for x: the unconditional model
"""

from typing import Any

import torch
from torch import Tensor

from nextpixel.errors import InputError
from nextpixel.likelihoods import Guided, Likelihood
from nextpixel.likelihoods.guided import twice, with_and_without
from nextpixel.scan.protocols import Model

# Beyond it the logarithms of a distribution lose their digits.
HIGHEST_GUIDANCE = 1e6


def guided_likelihood(model: Model, guidance: float) -> Likelihood:
    """The distribution of a place under this guidance: the model's own, or a `Guided` one, which takes every image `twice`.

    Raises:
        InputError: guidance is not finite or far too large, or there is no condition to guide by.
    """
    if not abs(guidance) <= HIGHEST_GUIDANCE:
        raise InputError(f"guidance must be from -{HIGHEST_GUIDANCE:g} to {HIGHEST_GUIDANCE:g}, not {guidance}")
    if guidance != 1 and model.condition is None:
        raise InputError(f"guidance {guidance} needs a model with a condition, but this one takes none")
    return model.likelihood if guidance in (0, 1) else Guided(model.likelihood, guidance)


def guided_condition(model: Model, cond: Any, guidance: float, batch: int, height: int, width: int) -> Tensor | None:
    """The maps h under this guidance: 0 where it is 0, which needs no `cond`.

    Raises:
        InputError: as `encode_condition`.
    """
    if guidance == 0 and cond is None:
        return model.condition.one.new_zeros(batch, model.condition.features, 1, 1)
    h = model.encode_condition(cond, batch, height, width)
    return torch.zeros_like(h) if guidance == 0 else h


def guided_log_prob(model: Model, x: Tensor, cond: Any, guidance: float) -> Tensor:
    """log p(x) under guidance, (B,), of checked images, by one forward pass over every image twice."""
    distribution = guided_likelihood(model, guidance)
    h, images = guided_condition(model, cond, guidance, x.shape[0], *x.shape[2:]), x
    if isinstance(distribution, Guided):
        images, h = twice(x), with_and_without(h)
    return distribution.log_prob(model.network(model.encode(images), h), images)[: len(x)].flatten(1).sum(1)
