"""The covering arrays by which the tests choose from the products of their parameters."""

import itertools

import pytest
from pairs import Some, covering, pairs, product


@pytest.mark.parametrize("sizes", [(6, 7, 3, 2, 2, 2), (2, 2), (1, 5), (5, 1, 3), (2,) * 9, (4, 4, 4, 4), (3, 2, 7)], ids=str)
def test_every_pair_of_values_stands_in_a_row(sizes):
    rows = covering(*sizes)
    for f, g in itertools.combinations(range(len(sizes)), 2):
        assert {(row[f], row[g]) for row in rows} == set(itertools.product(range(sizes[f]), range(sizes[g])))
    assert len(set(rows)) == len(rows)
    assert rows == covering(*sizes)


def test_a_covering_array_is_hardly_longer_than_it_must_be():
    assert len(covering(6, 7, 3, 2, 2)) <= 6 * 7 + 2
    assert len(covering(6, 5, 3, 2, 2)) <= 6 * 5 + 3
    assert len(covering(*(2,) * 9)) <= 9


FACTORS = {"name": ["a", "b", "c"], "size": [(3, 4), (4, 3)], "flag": [True, False]}


def test_what_the_array_leaves_out_is_slow():
    rows = product(FACTORS, whole=True)
    assert [row.values for row in rows] == list(itertools.product("abc", [(3, 4), (4, 3)], [True, False]))
    assert rows[0].id == "a-3x4-True"
    quick = [row.values for row in rows if not row.marks]
    assert {mark.name for row in rows for mark in row.marks} == {"slow"}
    assert len(quick) == 6
    for f, g in itertools.combinations(range(3), 2):
        assert {(row[f], row[g]) for row in quick} == {(row.values[f], row.values[g]) for row in rows}
    assert [row.values for row in product(FACTORS, whole=False)] == quick


def test_some_values_are_slow_in_every_row():
    some = {"name": ["a", "b", "c"], "kind": Some([5, 3], range(7))}
    assert [row.values for row in product(some, whole=False)] == [*itertools.product("abc", [5, 3])]
    assert {row.values for row in product(some, whole=True)} == set(itertools.product("abc", range(7)))


@pairs(**FACTORS)
def test_a_test_runs_with_a_row(name, size, flag, request):
    assert request.node.name == f"test_a_test_runs_with_a_row[{name}-{size[0]}x{size[1]}-{flag}]"
