"""From stored values to symbols: quantisation and binarisation."""

import hashlib

import numpy as np
import torch
from torch import Tensor


def quantise(x: Tensor, source_levels: int, levels: int) -> Tensor:
    """Return floor(x * levels / source_levels) in exact integer arithmetic; int64 of any shape.

    Example:
        >>> quantise(torch.tensor([0, 63, 64, 255]), 256, 4)
        tensor([0, 0, 1, 3])
    """
    return x if levels == source_levels else torch.div(x * levels, source_levels, rounding_mode="floor")


def threshold(x: Tensor, source_levels: int) -> Tensor:
    """Return 1 where x >= source_levels / 2, else 0; int64 of any shape.

    Example:
        >>> threshold(torch.tensor([0, 127, 128, 255]), 256)
        tensor([0, 0, 1, 1])
    """
    return (2 * x >= source_levels).long()


def draw_bits(x: Tensor, source_levels: int, uniform: Tensor) -> Tensor:
    """Return 1 with probability x / (source_levels - 1), using one number of [0, 1) per value; int64 of any shape.

    Example:
        >>> draw_bits(torch.tensor([0, 128, 255]), 256, torch.tensor([0.0, 0.5, 0.999]))
        tensor([0, 1, 1])
    """
    return (uniform.double() * (source_levels - 1) < x).long()


def fixed_uniforms(seed: int, split: str, indices: np.ndarray, places: int) -> Tensor:
    """Return numbers of [0, 1), float64 (B, places), that depend only on the seed, the split, the image and the place.

    They are places of one SplitMix64 sequence (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014),
    which can be entered anywhere: no image needs the numbers of another, so neither order nor batches matter.

    Example:
        >>> one, both = fixed_uniforms(0, "train", np.array([7]), 4), fixed_uniforms(0, "train", np.array([2, 7]), 4)
        >>> torch.equal(one[0], both[1])
        True
    """
    start = np.frombuffer(hashlib.blake2b(f"{seed}/{split}".encode(), digest_size=8).digest(), dtype="<u8")[0]
    place = indices.astype(np.uint64)[:, None] * np.uint64(places) + np.arange(1, places + 1, dtype=np.uint64)
    z = start + place * np.uint64(0x9E3779B97F4A7C15)  # uint64 wraps around, as it should
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)
