"""The target mix of task types, and its exact apportionment to whole rows. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import floor

from tapir_exp.taxonomy import TaskType

Shares = Mapping[TaskType, float]


def natural_shares(tasks: Iterable[TaskType]) -> dict[TaskType, float]:
    """Share of each type among the labelled rows; types that do not occur are absent."""
    counts = Counter(tasks)
    return {task: counts[task] / counts.total() for task in TaskType if counts[task]}


def target_shares(ratios: Mapping[str, float] | None, natural: Shares) -> dict[TaskType, float]:
    """The shares a preset asks for; where it gives no ratios, the natural ones."""
    if ratios is None:
        return dict(natural)
    return {TaskType(name): share for name, share in ratios.items() if share > 0}


def apportion(total: int, shares: Shares) -> dict[TaskType, int]:
    """Split `total` rows by `shares`, which need not sum to 1, by the method of largest remainders.

    The parts sum to `total` and each lies within one row of its exact share. Ties go to the type listed first.
    """
    whole = sum(shares.values())
    exact = {task: total * share / whole for task, share in shares.items()}
    rows = {task: floor(amount) for task, amount in exact.items()}
    by_remainder = sorted(exact, key=lambda task: rows[task] - exact[task])
    for task in by_remainder[: total - sum(rows.values())]:
        rows[task] += 1
    return rows
