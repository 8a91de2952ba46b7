"""Means, errors, intervals and tests over benchmark results and over seeds; pure, no I/O.

An interval or error that the data cannot give (one value only) is None, never 0.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TypeVar

import mpmath  # type: ignore[import-untyped]

from tapir_exp.core.records import BenchmarkResult
from tapir_exp.core.task_types import TaskType

LEVEL = 0.95
MAX_FLIPS = 36
"""Exact permutation walks 2^(n/2) sign patterns of either half; beyond this n it would take seconds, then gigabytes."""

POWER = 0.8
"""The chance of finding a difference that a comparison is planned for."""
BOOTSTRAP_SAMPLES = 2000
"""Bootstrap resamples; an interval's bounds then lie within some percent of its width."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A mean of `n` values and its standard error, in the values' unit; error is None for a single value."""

    mean: float
    error: float | None
    n: int


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values with its confidence interval; low and high are None for a single value."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """A mean paired difference over `n` pairs, its t interval, and the exact sign-flip p-value.

    p: None for n = 1 and n > MOST_FLIPS.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def mean_and_error(values: Sequence[float]) -> Estimate:
    """Mean and standard error s / sqrt(n), s² = Σ(x - mean)² / (n - 1).

    Source: any textbook, e.g. Altman & Bland, BMJ 2005;331:903. Raises ValueError for no values.
    """
    n = _count(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((x - mean) ** 2 for x in values) / (n - 1)
    return Estimate(mean, math.sqrt(variance / n), n)


def proportion(hits: int, n: int) -> Estimate:
    """Share of hits with the binomial standard error sqrt(p (1 - p) / n). Raises ValueError for n = 0."""
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"a proportion needs 0 <= hits <= n and n >= 1, got hits={hits}, n={n}")
    share = hits / n
    return Estimate(share, math.sqrt(share * (1 - share) / n), n)


def wilson_interval(hits: int, n: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share, which stays within 0 and 1 (Wilson, JASA 1927)."""
    share = proportion(hits, n).mean
    z = math.sqrt(2) * float(mpmath.erfinv(level))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), n)


def macro_mean(parts: Iterable[Estimate]) -> Estimate:
    """Mean of independent estimates, equally weighted: error = sqrt(Σ error²) / F; n counts all values.

    Source: variance of a stratified mean with equal weights (Cochran, Sampling Techniques, 5.3).
    The error is None where any part's is. Raises ValueError for no parts.
    """
    known = list(parts)
    count = _count(known)
    mean = math.fsum(part.mean for part in known) / count
    total = sum(part.n for part in known)
    if any(part.error is None for part in known):
        return Estimate(mean, None, total)
    return Estimate(mean, math.sqrt(math.fsum((part.error or 0.0) ** 2 for part in known)) / count, total)


def macro_accuracy(results: Sequence[BenchmarkResult]) -> Estimate:
    """Exact-answer accuracy, every family weighing the same whatever its number of problems.

    error = sqrt(Σ_f p_f (1 - p_f) / n_f) / F: it is the error of drawing problems, with the student fixed.
    Raises ValueError for no results.
    """
    return macro_mean(accuracy_by_family(results).values())


def accuracy_by_family(results: Sequence[BenchmarkResult]) -> dict[str, Estimate]:
    """Exact-answer accuracy of each family with its binomial error, families in order of name."""
    return _accuracy_by(results, lambda result: result.family)


def accuracy_by_task(results: Sequence[BenchmarkResult]) -> dict[TaskType, Estimate]:
    """Macro accuracy over the families of each task type, types in the order of the taxonomy.

    Raises ValueError for no results.
    """
    _count(results)
    rows: defaultdict[TaskType, list[BenchmarkResult]] = defaultdict(list)
    for result in results:
        rows[result.task].append(result)
    return {task: macro_accuracy(rows[task]) for task in TaskType if task in rows}


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Student's t interval: mean ± t(1 - (1 - level) / 2; n - 1) · s / sqrt(n) (Student, Biometrika 1908)."""
    estimate = mean_and_error(values)
    if estimate.error is None:
        return Interval(estimate.mean, None, None, 1)
    half = t_quantile(0.5 + level / 2, estimate.n - 1) * estimate.error
    return Interval(estimate.mean, estimate.mean - half, estimate.mean + half, estimate.n)


@lru_cache(maxsize=256)
def t_quantile(probability: float, freedom: int) -> float:
    """The t below which Student's distribution with `freedom` degrees has `probability`, by bisection.

    F(t) = 1 - I_{v/(v+t²)}(v/2, 1/2) / 2 for t >= 0 (Abramowitz & Stegun 26.7.1, 26.5.27).
    """
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f"a t quantile needs 0 < p < 1 and freedom >= 1, got p={probability}, freedom={freedom}")
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < probability:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _t_below(t: float, freedom: int) -> float:
    tail = mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True)
    return 1 - float(tail) / 2


def paired_difference(ours: Sequence[float], theirs: Sequence[float], level: float = LEVEL) -> Difference:
    """Mean of ours - theirs over pairs that share a seed, with t interval and exact sign-flip p-value.

    Raises ValueError where the two are empty or of different lengths.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"pairs need two sequences of one length, got {len(ours)} and {len(theirs)}")
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    interval = t_interval(differences, level)
    p = sign_flip_p(differences) if interval.n > 1 else None
    return Difference(interval.mean, interval.low, interval.high, p, interval.n)


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Exact two-sided p: the share of all 2^n sign patterns whose |sum| is at least the one seen.

    The sums of either half of the differences are walked once and met by bisection (Horowitz & Sahni, JACM 1974).
    Source: Fisher's randomisation test (The Design of Experiments, 1935, §21); the smallest p is 2 / 2^n.
    None for more than MOST_FLIPS differences. Raises ValueError for none.
    """
    n = _count(differences)
    if n > MAX_FLIPS:
        return None
    slack = 1e-12 * math.fsum(abs(d) for d in differences)  # equal sums may differ in the last bits
    bound = abs(math.fsum(differences)) - slack
    if bound <= 0:
        return 1.0
    half = (n + 1) // 2
    lefts = _flipped_sums(differences[1:half], differences[0])  # |sum| is symmetric: the first sign stays
    rights = sorted(_flipped_sums(differences[half:], 0.0))
    within = sum(bisect_left(rights, bound - left) - bisect_right(rights, -bound - left) for left in lefts)
    patterns = len(lefts) * len(rights)
    return (patterns - within) / patterns


def _flipped_sums(differences: Sequence[float], start: float) -> list[float]:
    sums = [start]
    for difference in differences:
        sums = [s + sign * difference for s in sums for sign in (1, -1)]
    return sums


def lattice_flip_p(differences: Sequence[float], step: float) -> float:
    """As `sign_flip_p`, for any number of differences that are whole multiples of `step`, such as ratings.

    The distribution of the sum over all 2^n sign patterns is built up exactly, one difference after another.
    Raises ValueError for no differences, and for one that is no multiple.
    """
    _count(differences)
    units = [round(difference / step) for difference in differences]
    if any(abs(unit * step - difference) > 1e-9 * step for unit, difference in zip(units, differences, strict=True)):
        raise ValueError(f"the differences are not all multiples of {step}")
    patterns = {0: 1}
    for unit in (unit for unit in units if unit):
        grown: defaultdict[int, int] = defaultdict(int)
        for total, count in patterns.items():
            grown[total + unit] += count
            grown[total - unit] += count
        patterns = grown
    seen = abs(sum(units))
    extreme = sum(count for total, count in patterns.items() if abs(total) >= seen)
    return float(Fraction(extreme, sum(patterns.values())))


def sign_test_p(differences: Sequence[float]) -> float:
    """Exact two-sided sign test: only which of a pair is better counts; ties are left out, and only ties give 1.

    Source: Arbuthnott 1710; on right and wrong answers it is McNemar's exact test (Psychometrika 1947).
    """
    _count(differences)
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


def bootstrap_difference(table: Sequence[Sequence[float]], seed: int = 0, level: float = LEVEL) -> Interval:
    """Mean of a table of paired differences, training seeds by instructions, with its percentile bootstrap interval.

    Seeds and instructions are drawn anew independently of each other, since every seed met the same instructions
    (the pigeonhole bootstrap, Owen, Ann. Appl. Stat. 2007). Of a single seed, the interval is over instructions alone.
    Raises ValueError for an empty table, or rows of different lengths.
    """
    width = _count(table[0]) if _count(table) else 0
    if any(len(row) != width for row in table):
        raise ValueError("every seed needs a difference for every instruction")
    rng = random.Random(seed)
    means = sorted(_redrawn_mean(table, rng) for _ in range(BOOTSTRAP_SAMPLES))
    mean = math.fsum(math.fsum(row) for row in table) / (len(table) * width)
    if len(table) * width == 1:
        return Interval(mean, None, None, 1)
    cut = (1 - level) / 2
    return Interval(
        mean,
        means[math.floor(cut * BOOTSTRAP_SAMPLES)],
        means[math.ceil((1 - cut) * BOOTSTRAP_SAMPLES) - 1],
        len(table) * width,
    )


def _redrawn_mean(table: Sequence[Sequence[float]], rng: random.Random) -> float:
    rows = rng.choices(table, k=len(table))
    columns = rng.choices(range(len(table[0])), k=len(table[0]))
    return sum(row[column] for row in rows for column in columns) / (len(rows) * len(columns))


def error_of_difference(first: float, second: float, correlation: float = 0.0) -> float:
    """Standard error of a difference of two means; `correlation` is that of the paired values, 0 if they are not."""
    return math.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second))


def detectable_difference(error: float, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference that is found with the chance `power`: (z(1 - α/2) + z(power)) · error.

    error: the standard error of the difference; α = 1 - level. Source: Cohen, Statistical Power Analysis, 1988, 2.
    """
    return (_z(0.5 + level / 2) + _z(power)) * error


def pairs_needed(difference: float, deviation: float, level: float = LEVEL, power: float = POWER) -> int:
    """How many pairs it takes to find a difference, where paired differences deviate by `deviation`.

    Raises ValueError for no difference: nothing finds that.
    """
    if not difference:
        raise ValueError("no number of pairs finds a difference of 0")
    return math.ceil((detectable_difference(deviation, level, power) / difference) ** 2)


def _z(probability: float) -> float:
    return math.sqrt(2) * float(mpmath.erfinv(2 * probability - 1))


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """Holm's step-down adjustment: p'_(i) = max_{j<=i} min(1, (m - j + 1) p_(j)) (Holm, Scand. J. Stat. 1979).

    Keeps the keys' order. Raises ValueError for a p outside 0 to 1.
    """
    if any(not 0 <= p <= 1 for p in p_values.values()):
        raise ValueError(f"p-values lie between 0 and 1, got {dict(p_values)}")
    adjusted: dict[K, float] = {}
    floor = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = floor
    return {key: adjusted[key] for key in p_values}


def _accuracy_by(results: Sequence[BenchmarkResult], key: Callable[[BenchmarkResult], str]) -> dict[str, Estimate]:
    _count(results)
    marks: defaultdict[str, list[bool]] = defaultdict(list)
    for result in results:
        marks[key(result)].append(result.exact)
    return {name: proportion(sum(marks[name]), len(marks[name])) for name in sorted(marks)}


def _count(values: Sequence[object]) -> int:
    if not values:
        raise ValueError("statistics of no values are not defined")
    return len(values)
