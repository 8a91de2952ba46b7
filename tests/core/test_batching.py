"""Batches of items of similar length."""

import pytest

from tapir_exp.core.batching import length_sorted_batches


@pytest.mark.parametrize(("longest_first", "expected"), [(True, [[1, 4], [2, 3], [0]]), (False, [[0, 2], [3, 1], [4]])])
def test_length_sorted_batches_keep_ties_in_order(longest_first: bool, expected: list[list[int]]) -> None:
    batches = length_sorted_batches([1, 5, 3, 3, 5], 2, longest_first=longest_first)
    assert list(batches) == expected


def test_length_sorted_batches_of_nothing_are_none() -> None:
    assert list(length_sorted_batches([], 3)) == []
