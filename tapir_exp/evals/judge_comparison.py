"""Two judges on the same pairs: their agreement, and whose answers one of them favours more than the other. Pure.

A judge may prefer answers of one origin, such as those of its own model family. This shows only beside another judge,
as the answers of that origin may be better. So the figure is a difference of wins on the same pairs. It does not depend
on the scales of the judges, and a tie counts as half a win.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tapir_exp.evals.judge_agreement import cohen_kappa
from tapir_exp.evals.statistics import Interval, t_interval, wilson_interval

FEWEST_PAIRS = 5
"""Pairs of an origin below which no figure is given."""
Origins = tuple[str, str]
"""Origins of the first and of the second answer of a pair; empty if unknown."""


@dataclass(frozen=True)
class Favour:
    """How much more one judge favours an origin than another judge does.

    Attributes:
        origin: The origin.
        pairs: Pairs with one answer of this origin, and one of another, that both judges have scored.
        wins: Share of wins of the origin by the first judge minus that by the second, -1 to 1.
    """

    origin: str
    pairs: int
    wins: Interval


@dataclass(frozen=True)
class JudgeComparison:
    """Two judges on the same pairs.

    Attributes:
        first: Name of a judge.
        second: Name of another one.
        same: Share of the pairs scored by both with the same verdict.
        kappa: Cohen's kappa of their verdicts over first, second and tie.
        favours: Origins, by name.
    """

    first: str
    second: str
    same: Interval
    kappa: float
    favours: tuple[Favour, ...]


def compare_judges(
    names: tuple[str, str],
    gaps: tuple[Sequence[float | None], Sequence[float | None]],
    origins: Sequence[Origins],
) -> JudgeComparison | None:
    """Compare two judges; None if no pair has a gap of both.

    Args:
        names: Their names.
        gaps: Points by which each judge prefers the first answer, pair by pair; None for an unscored pair.
        origins: Origins of the answers of each pair.
    """
    verdicts = [
        (_sign(mine), _sign(other), origin)
        for mine, other, origin in zip(*gaps, origins, strict=True)
        if mine is not None and other is not None
    ]
    if not verdicts:
        return None
    same = wilson_interval(sum(mine == other for mine, other, _ in verdicts), len(verdicts))
    kappa = cohen_kappa([mine for mine, _, _ in verdicts], [other for _, other, _ in verdicts])
    return JudgeComparison(*names, same, kappa, tuple(_favours(verdicts)))


def _favours(verdicts: Sequence[tuple[int, int, Origins]]) -> list[Favour]:
    by_origin: defaultdict[str, list[float]] = defaultdict(list)
    for mine, other, (first, second) in verdicts:
        if first == second:
            continue
        # A win counts 1, a tie 1/2 and a loss 0, so a difference of signs is twice that of wins.
        difference = (mine - other) / 2
        by_origin[first].append(difference)
        by_origin[second].append(-difference)
    return [
        Favour(origin, len(values), t_interval(values))
        for origin, values in sorted(by_origin.items())
        if origin and len(values) >= FEWEST_PAIRS
    ]


def _sign(gap: float) -> int:
    return (gap > 0) - (gap < 0)
