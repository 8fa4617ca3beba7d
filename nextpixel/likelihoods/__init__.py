"""Likelihoods: from a network's output at a place to a distribution over the symbols 0..levels-1 of its channels."""

from typing import Any

from nextpixel.errors import InputError
from nextpixel.likelihoods.base import Likelihood, Place
from nextpixel.likelihoods.categorical import Categorical
from nextpixel.likelihoods.guided import Guided
from nextpixel.likelihoods.logistic_mixture import DiscretizedLogisticMixture

__all__ = ["LIKELIHOODS", "Categorical", "DiscretizedLogisticMixture", "Guided", "Likelihood", "Place", "make_likelihood"]

LIKELIHOODS: dict[str, type[Likelihood]] = {cls.name: cls for cls in (Categorical, DiscretizedLogisticMixture)}


def make_likelihood(name: str, channels: int, levels: int, **settings: Any) -> Likelihood:
    """The likelihood of this name for C channels of `levels` symbols, with those of the settings that it has.

    Raises:
        InputError: an unknown name, or sizes that the likelihood does not allow.
    """
    if name not in LIKELIHOODS:
        raise InputError(f"unknown likelihood {name!r}: expected one of {', '.join(LIKELIHOODS)}")
    cls = LIKELIHOODS[name]
    return cls(channels, levels, **{key: value for key, value in settings.items() if key in cls.settings})
