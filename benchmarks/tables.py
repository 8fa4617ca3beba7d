"""What a codec's tables cost: rounding P to the grid, and how many boundaries hang by a hair, by random laws of several kinds.

    python benchmarks/tables.py [--laws 300] [--epsilon 4e-8]

Rounding is the divergence of a table's law from the model's, in percent of the entropy, at the usual threshold and at the one
that is farthest from it; *unlikely* the same for symbols from a law with heavier tails, p^0.6: below zero where a table, which
holds no symbol for impossible, is nearer to them than the model. *hanging*: boundaries of 1000 coded symbols that are within the
error bound of the usual threshold.
"""

import argparse
from collections.abc import Callable

import numpy as np

from nextpixel.coding.entropy.margins import free
from nextpixel.coding.entropy.tables import THRESHOLDS, USUAL, boundaries, table_bits, table_digits


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def sigmoids(levels: int, laws: int, random: np.random.Generator) -> np.ndarray:
    return softmax(random.normal(0, 3, (laws, levels)))


def mixtures(levels: int, laws: int, random: np.random.Generator) -> np.ndarray:
    """Of three logistics, from sharp to wide."""
    sides = (2 * np.arange(levels - 1) - (levels - 2)) / (levels - 1)
    means, scales = random.uniform(-1, 1, (laws, 3, 1)), np.exp(random.uniform(-5, -1.5, (laws, 3, 1)))
    weights = softmax(random.normal(0, 1.5, (laws, 3)))[..., None]
    cdf = (weights / (1 + np.exp(np.clip((means - sides) / scales, -500, 500)))).sum(1)
    return np.diff(cdf, axis=1, prepend=0, append=1)


def peaked(levels: int, laws: int, random: np.random.Generator) -> np.ndarray:
    """Softmaxes around one symbol."""
    far = np.abs(np.arange(levels) - random.integers(levels, size=(laws, 1)))
    return softmax(-far / np.exp(random.uniform(0, 2.5, (laws, 1))) + random.normal(0, 0.5, (laws, levels)))


def unordered(levels: int, laws: int, random: np.random.Generator) -> np.ndarray:
    """Softmaxes whose neighbours have nothing in common, as of the codes of a vocabulary."""
    return softmax(random.normal(0, 3, (laws, levels)))


def cost(law: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    """What symbols of a law cost more in the tables q than by the model p, in percent."""
    return 100 * (law * np.log(p / q)).sum() / -(law * np.log(p)).sum()


KINDS: dict[str, tuple[int, Callable]] = {
    "sigmoids": (2, sigmoids),
    "mixtures of logistics": (256, mixtures),
    "peaked softmaxes": (256, peaked),
    "softmaxes without any order": (256, unordered),
    "mixtures of logistics, 4096": (4096, mixtures),
    "softmaxes without any order, 4096": (4096, unordered),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--laws", type=int, default=300)
    parser.add_argument("--epsilon", type=float, default=4e-8)
    args = parser.parse_args()
    print("| levels, bits, digits | laws | rounding | farthest threshold | unlikely | hanging |")
    print("|---|---|---|---|---|---|")
    for name, (levels, make) in KINDS.items():
        p, bits = make(levels, args.laws, np.random.default_rng(0)), table_bits(levels)
        digits = table_digits(levels, args.epsilon)
        p = np.maximum(p, 1e-12)  # what no model of finite logits falls below by much
        p /= p.sum(1, keepdims=True)
        cdf = p.cumsum(1)
        heavy = p**0.6 / (p**0.6).sum(1, keepdims=True)

        hanging = ~free(cdf[:, :-1], digits, bits, args.epsilon)[..., USUAL]
        # Each boundary is one of a symbol's as often as the symbol on either side of it is drawn.
        rate = 1000 * (hanging * (p[:, :-1] + p[:, 1:])).sum() / len(p)
        usual, farthest = (np.diff(boundaries(cdf, bits, digits, THRESHOLDS[j]), axis=1) / 2**bits for j in (USUAL, 0))
        costs = (cost(p, p, usual), cost(p, p, farthest), cost(heavy, p, usual))
        columns = " | ".join(f"{value:.2f}" for value in (*costs, rate))
        print(f"| {levels}, {bits}, {digits} | {name.split(',')[0]} | {columns} |")


if __name__ == "__main__":
    main()
