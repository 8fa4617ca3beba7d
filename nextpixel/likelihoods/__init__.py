"""Likelihoods: from a network's output at a place to a law over the symbols 0..levels-1 of its channels."""

from nextpixel.errors import InputError
from nextpixel.likelihoods.base import Likelihood, Place
from nextpixel.likelihoods.categorical import Categorical
from nextpixel.likelihoods.guided import Guided
from nextpixel.likelihoods.logistic_mixture import DiscretizedLogisticMixture

__all__ = ["LIKELIHOODS", "Categorical", "DiscretizedLogisticMixture", "Guided", "Likelihood", "Place", "make_likelihood"]

LIKELIHOODS: dict[str, type[Likelihood]] = {law.name: law for law in (Categorical, DiscretizedLogisticMixture)}


def make_likelihood(name: str, channels: int, levels: int, mixtures: int = 10) -> Likelihood:
    """The likelihood of this name for C channels of `levels` symbols; `mixtures` counts where it is a mixture.

    Raises:
        InputError: an unknown name, or sizes that the likelihood does not allow.
    """
    if name not in LIKELIHOODS:
        raise InputError(f"unknown likelihood {name!r}: expected one of {', '.join(LIKELIHOODS)}")
    law = LIKELIHOODS[name]
    return law(channels, levels, mixtures) if issubclass(law, DiscretizedLogisticMixture) else law(channels, levels)
