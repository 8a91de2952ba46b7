"""Batches of items of similar length, so that little of a batch is padding."""

from collections.abc import Iterator, Sequence


def length_sorted_batches(lengths: Sequence[int], size: int, *, longest_first: bool = True) -> Iterator[list[int]]:
    """Yield the indices of the items in batches of neighbours by length.

    Args:
        lengths: Length of each item; items of equal length keep their order.
        size: Items per batch; the last batch may have fewer.
        longest_first: Start with the longest items, so that a lack of memory shows early; otherwise with the shortest.
    """
    sign = -1 if longest_first else 1
    order = sorted(range(len(lengths)), key=lambda index: sign * lengths[index])
    for start in range(0, len(order), size):
        yield order[start : start + size]
