"""Conditions: what an image may depend on besides its own pixels, as maps that every layer adds after a linear map V.

.. math:: y = W * x + V h \\qquad \\text{(arXiv:1606.05328, equations 3 to 5)}

A condition turns the user's `cond` into h, (B, features, H or 1, W or 1). Layers hold V, an unmasked 1x1 convolution; a scan
computes h and V h once. Where an image has lost its condition, in training or in the unconditional half of guidance, h is 0.
"""

from nextpixel.conditions.base import CONDITIONS, Condition, cond_of, default_cond, encoder_of, make_condition, sees_known
from nextpixel.conditions.encoded import Encoded
from nextpixel.conditions.kinds import Combination, Labels, SpatialMap, Vector
from nextpixel.conditions.known import Known

__all__ = [
    "CONDITIONS",
    "Combination",
    "Condition",
    "Encoded",
    "Known",
    "Labels",
    "SpatialMap",
    "Vector",
    "cond_of",
    "default_cond",
    "encoder_of",
    "make_condition",
    "sees_known",
]

CONDITIONS.update({kind.name: kind for kind in (Labels, Vector, SpatialMap, Encoded, Known, Combination)})
