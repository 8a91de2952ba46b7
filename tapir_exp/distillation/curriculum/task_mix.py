"""The target mix of task types, and its exact apportionment to whole rows. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import floor

from tapir_exp.core.errors import SeedError
from tapir_exp.core.task_types import TaskType

Shares = Mapping[TaskType, float]
TOLERANCE = 1e-9
"""Rows by which rounding errors of floats may be off."""


def natural_shares(tasks: Iterable[TaskType]) -> dict[TaskType, float]:
    """Share of each type among the labelled rows; types that do not occur are absent."""
    counts = Counter(tasks)
    return {task: counts[task] / counts.total() for task in TaskType if counts[task]}


def target_shares(ratios: Mapping[str, float] | None, natural: Shares) -> dict[TaskType, float]:
    """The shares a preset asks for; where it gives no ratios, the natural ones.

    Raises SeedError where the natural mix is wanted and there is none.
    """
    if ratios is None:
        if not natural:
            raise SeedError("No seed has a task type and a gap, so there is no natural mix to keep.")
        return dict(natural)
    return {TaskType(name): share for name, share in ratios.items() if share > 0}


def apportion(total: int, shares: Shares) -> dict[TaskType, int]:
    """Split `total` rows by `shares`, which need not sum to 1, by the method of largest remainders.

    The parts sum to `total` and each lies within one row of its exact share. Ties go to the type listed first.
    """
    exact = _exact(total, shares)
    rows = {task: floor(amount) for task, amount in exact.items()}
    by_remainder = sorted(exact, key=lambda task: rows[task] - exact[task])
    for task in by_remainder[: total - sum(rows.values())]:
        rows[task] += 1
    return rows


def apportion_parts(sizes: Sequence[int], shares: Shares) -> list[dict[TaskType, int]]:
    """Split each part of a mix by `shares`, so that the whole keeps them too.

    Every part is split by `apportion`. A type that was rounded the same way too often, and so strays by more than a row
    over all parts, then swaps a rounding with another type in one of them: parts and whole lie within one row.
    """
    parts = [apportion(size, shares) for size in sizes]
    exact = [_exact(size, shares) for size in sizes]
    while True:
        stray = {task: sum(part[task] - due[task] for part, due in zip(parts, exact, strict=True)) for task in shares}
        over, under = max(stray, key=stray.__getitem__), min(stray, key=stray.__getitem__)
        if max(stray[over], -stray[under]) <= 1 + TOLERANCE:
            return parts
        subset = next(p for p, due in zip(parts, exact, strict=True) if p[over] > due[over] and p[under] < due[under])
        subset[over] -= 1
        subset[under] += 1


def _exact(total: int, shares: Shares) -> dict[TaskType, float]:
    whole = sum(shares.values())
    return {task: total * share / whole for task, share in shares.items()}
