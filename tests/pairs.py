"""Parametrisation by pairs: most faults need one setting or two at once, so two at once are what every run of the tests covers.

The rest of the product is `slow`.
"""

import itertools

import pytest


def covering(*sizes):
    """Rows of indices, one for each factor of these sizes, in which any two values of any two factors stand together.

    Greedy and deterministic: each row begins with a pair that is still missing, and takes of every other factor the value that
    brings the most missing pairs, in turn where several bring as many. There are about as many rows as the two largest factors
    have pairs.
    """
    if len(sizes) == 1:
        return [(value,) for value in range(sizes[0])]
    order, turn, rows = sorted(range(len(sizes)), key=lambda f: -sizes[f]), [0] * len(sizes), []
    values = [[(f, v) for v in range(size)] for f, size in enumerate(sizes)]
    # A dictionary keeps its order, which a set does not promise.
    missing = {
        frozenset(pair): None for f, g in itertools.combinations(order, 2) for pair in itertools.product(values[f], values[g])
    }
    while missing:
        row = dict(next(iter(missing)))
        for f in order:
            if f not in row:
                gains = [sum(frozenset((value, other)) in missing for other in row.items()) for value in values[f]]
                best = [v for v, gain in enumerate(gains) if gain == max(gains)]
                row[f] = best[turn[f] % len(best)]
                turn[f] += 1
        for pair in itertools.combinations(row.items(), 2):
            missing.pop(frozenset(pair), None)
        rows.append(tuple(row[f] for f in range(len(sizes))))
    return rows


def pairs(**factors):
    """A mark: the test runs with the product of these factors, name=values, of which all but a covering array is `slow`.

    A test that takes its models from the registry so covers a new one, with every value of every other factor, by its being
    registered. `conftest.py` makes the tests, by `product`.
    """
    return pytest.mark.pairs(**factors)


class Some(list):
    """Values of a factor of which only the first `quick` take part in the covering array: the others are slow.

    For tests whose subject is another one, where test_contract.py holds every model to every value.
    """

    def __init__(self, quick, values):
        super().__init__([*quick, *(value for value in values if value not in quick)])
        self.quick = len(quick)


def product(factors, whole):
    """The parameter sets of `pairs`; without the slow ones unless `whole`, because to collect a test costs a millisecond."""
    values = [factor if isinstance(factor, Some) else list(factor) for factor in factors.values()]
    quick = set(covering(*(getattr(factor, "quick", len(factor)) for factor in values)))
    rows = []
    for places in itertools.product(*(range(len(factor)) for factor in values)):
        if whole or places in quick:
            row = [factor[place] for factor, place in zip(values, places, strict=True)]
            rows.append(pytest.param(*row, id="-".join(map(_label, row)), marks=() if places in quick else pytest.mark.slow))
    return rows


def _label(value):
    """A size as 3x4, and all else as it prints."""
    return "x".join(map(str, value)) if isinstance(value, tuple) and all(isinstance(v, int) for v in value) else str(value)
