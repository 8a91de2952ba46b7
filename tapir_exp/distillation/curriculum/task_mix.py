"""The target mix of task types, and its exact apportionment to whole rows. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import floor
from typing import TypeVar

from tapir_exp.core.errors import SeedError
from tapir_exp.core.task_types import TaskType

Shares = Mapping[TaskType, float]
Key = TypeVar("Key")
TOLERANCE = 1e-9
"""Rounding error of floats, in rows."""


def natural_shares(tasks: Iterable[TaskType]) -> dict[TaskType, float]:
    """Return the share of each type among the labelled rows; types without rows are absent."""
    counts = Counter(tasks)
    return {task: counts[task] / counts.total() for task in TaskType if counts[task]}


def target_shares(target: Mapping[str, float] | None, natural: Shares) -> dict[TaskType, float]:
    """Return the target shares of a preset, or the natural ones if it has none.

    Raises:
        SeedError: If the natural mix is empty and the preset has no target.
    """
    if target is None:
        if not natural:
            raise SeedError(
                "No seed has a task type and a gap, so there is no natural mix. "
                "Check the failures of classifier, teacher and judge, or set task_mix.target_distribution."
            )
        return dict(natural)
    return {TaskType(name): share for name, share in target.items() if share > 0}


def apportion(total: int, shares: Mapping[Key, float]) -> dict[Key, int]:
    """Split `total` rows by `shares`, which need not sum to 1, by the method of largest remainders.

    The counts sum to `total`, and each is within one row of its exact share. Ties go to the key listed first.
    """
    exact = _exact_rows(total, shares)
    rows = {task: floor(amount) for task, amount in exact.items()}
    by_remainder = sorted(exact, key=lambda task: rows[task] - exact[task])
    for task in by_remainder[: total - sum(rows.values())]:
        rows[task] += 1
    return rows


def apportion_parts(sizes: Sequence[int], shares: Shares) -> list[dict[TaskType, int]]:
    """Split each part of a mix by `shares`; each part and the whole stay within one row of their exact shares."""
    parts = [apportion(size, shares) for size in sizes]
    exact = [_exact_rows(size, shares) for size in sizes]
    while True:
        # A type that was rounded the same way in several parts may be off by more than a row in the whole.
        error = {task: sum(part[task] - due[task] for part, due in zip(parts, exact, strict=True)) for task in shares}
        over, under = max(error, key=error.__getitem__), min(error, key=error.__getitem__)
        if max(error[over], -error[under]) <= 1 + TOLERANCE:
            return parts
        # Swap a rounding of the two types in a part that rounded one up and the other down: that part stays exact.
        subset = next(p for p, due in zip(parts, exact, strict=True) if p[over] > due[over] and p[under] < due[under])
        subset[over] -= 1
        subset[under] += 1


def _exact_rows(total: int, shares: Mapping[Key, float]) -> dict[Key, float]:
    whole = sum(shares.values())
    return {task: total * share / whole for task, share in shares.items()}
