"""The measurement of a likelihood, as `evaluate` and the report of a run write it."""

from typing import Any

from nextpixel.results.measurement import Measurement, finite
from nextpixel.scoring.baselines import Baseline
from nextpixel.scoring.evaluation import Evaluation


def likelihood(
    name: str,
    found: Evaluation,
    baselines: list[Baseline],
    data: str,
    split: str,
    guidance: float = 1.0,
    known: str | None = None,
    **facts: Any,
) -> Measurement:
    """Bits/dim with its standard error, and beside it nats per image and the baselines.

    Args:
        name: of the measurement.
        found: the likelihood.
        baselines: of the same images.
        data: where the images came from.
        split: which of them.
        guidance: of the distribution that was evaluated.
        known: what was given of the images, where only the rest was scored.
        facts: further fields of the measurement.

    Example:
        >>> import numpy as np
        >>> likelihood("a", Evaluation(np.array([1.0, 3.0]), dims=4), [], "digits", "test").text(".2f")
        '0.72 ± 0.36'
    """
    also = {
        "data": data,
        "split": split,
        "guidance": guidance,
        "known": known,
        "numbers_per_image": found.dims,
        "nats_per_image": found.nats_per_image,
        "nats_per_image_standard_error": finite(found.nats_standard_error),
        "baselines": {baseline.name: baseline.bits_per_dim for baseline in baselines},
    }
    error = finite(found.bits_per_dim_standard_error)
    return Measurement(name, found.bits_per_dim, "bits/dim", error, len(found.nats), also=also, **facts)
