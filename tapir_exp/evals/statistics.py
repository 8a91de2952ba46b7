"""Means, errors, intervals and tests over benchmark results and over seeds.

An error or interval that the data do not determine, as for a single value, is None and never 0.
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
"""Confidence level of intervals."""
MAX_FLIPS = 36
"""Largest n of an exact sign-flip test. It enumerates 2^(n/2) sign patterns, which takes seconds beyond this n."""
BOOTSTRAP_SAMPLES = 2000
"""Number of bootstrap resamples. Their noise in the bounds is a few per cent of the interval's width."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error.

    Attributes:
        mean: The mean.
        error: Its standard error, in the same unit; None for a single value.
        n: Number of values.
    """

    mean: float
    error: float | None
    n: int


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: The mean.
        low: Lower bound; None for a single value.
        high: Upper bound; None for a single value.
        n: Number of values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its t interval and the exact sign-flip p-value.

    Attributes:
        mean: The mean difference.
        low: Lower bound; None for a single pair.
        high: Upper bound; None for a single pair.
        p: Two-sided p-value; None for a single pair, and for more than MAX_FLIPS pairs.
        n: Number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def mean_and_error(values: Sequence[float]) -> Estimate:
    """Return the mean and its standard error s / sqrt(n), with s² = Σ(x - mean)² / (n - 1).

    Source: any textbook, e.g. Altman & Bland, BMJ 2005;331:903.

    Raises:
        ValueError: If there are no values.
    """
    n = _count(values)
    # fsum is exact, so the result does not depend on the order of the values.
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((x - mean) ** 2 for x in values) / (n - 1)
    return Estimate(mean, math.sqrt(variance / n), n)


def proportion(hits: int, n: int) -> Estimate:
    """Return the share of hits with the binomial standard error sqrt(p (1 - p) / n).

    Raises:
        ValueError: If n is 0, or `hits` is not between 0 and n.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"a proportion needs 0 <= hits <= n and n >= 1, got hits={hits}, n={n}")
    share = hits / n
    return Estimate(share, math.sqrt(share * (1 - share) / n), n)


def wilson_interval(hits: int, n: int, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval of a share, which stays within 0 and 1 (Wilson, JASA 1927)."""
    share = proportion(hits, n).mean
    z = math.sqrt(2) * float(mpmath.erfinv(level))  # quantile of the standard normal at (1 + level) / 2
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), n)


def macro_mean(parts: Iterable[Estimate]) -> Estimate:
    """Return the equally weighted mean of F independent estimates, with error = sqrt(Σ error²) / F.

    Source: variance of a stratified mean with equal weights (Cochran, Sampling Techniques, 5.3).

    Args:
        parts: The estimates.

    Returns:
        The mean, with the number of all values as n. Its error is None if that of a part is.

    Raises:
        ValueError: If there are no parts.
    """
    estimates = list(parts)
    count = _count(estimates)
    mean = math.fsum(part.mean for part in estimates) / count
    total = sum(part.n for part in estimates)
    if any(part.error is None for part in estimates):
        return Estimate(mean, None, total)
    return Estimate(mean, math.sqrt(math.fsum((part.error or 0.0) ** 2 for part in estimates)) / count, total)


def macro_accuracy(results: Sequence[BenchmarkResult]) -> Estimate:
    """Return the exact-answer accuracy, in which all F families have the same weight.

    error = sqrt(Σ_f p_f (1 - p_f) / n_f) / F. It is the sampling error of the problems for a fixed student.

    Raises:
        ValueError: If there are no results.
    """
    return macro_mean(accuracy_by_family(results).values())


def accuracy_by_family(results: Sequence[BenchmarkResult]) -> dict[str, Estimate]:
    """Return the exact-answer accuracy of each family with its binomial error, sorted by name.

    Raises:
        ValueError: If there are no results.
    """
    families = _grouped(results, lambda result: result.family)
    return {name: proportion(sum(row.exact for row in rows), len(rows)) for name, rows in sorted(families.items())}


def accuracy_by_task(results: Sequence[BenchmarkResult]) -> dict[TaskType, Estimate]:
    """Return the macro accuracy over the families of each task type, in the order of the taxonomy.

    Raises:
        ValueError: If there are no results.
    """
    rows = _grouped(results, lambda result: result.task)
    return {task: macro_accuracy(rows[task]) for task in TaskType if task in rows}


def accuracy_by_level(results: Sequence[BenchmarkResult]) -> dict[int, Estimate]:
    """Return the macro accuracy over the families at each level of difficulty, from level 1.

    Raises:
        ValueError: If there are no results.
    """
    return {level: macro_accuracy(rows) for level, rows in sorted(_grouped(results, lambda r: r.level).items())}


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return Student's t interval: mean ± t(1 - (1 - level) / 2; n - 1) · s / sqrt(n) (Student, Biometrika 1908).

    Raises:
        ValueError: If there are no values.
    """
    estimate = mean_and_error(values)
    if estimate.error is None:
        return Interval(estimate.mean, None, None, 1)
    half = t_quantile(0.5 + level / 2, estimate.n - 1) * estimate.error
    return Interval(estimate.mean, estimate.mean - half, estimate.mean + half, estimate.n)


@lru_cache(maxsize=256)
def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution, by bisection.

    F(t) = 1 - I_{v/(v+t²)}(v/2, 1/2) / 2 for t >= 0 (Abramowitz & Stegun 26.7.1, 26.5.27).

    Args:
        probability: Probability below the quantile, 0 < p < 1.
        freedom: Degrees of freedom v.

    Raises:
        ValueError: If an argument is out of range.
    """
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f"a t quantile needs 0 < p < 1 and freedom >= 1, got p={probability}, freedom={freedom}")
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    # Double the upper bound until it brackets the quantile, then bisect to a relative precision of 1e-12.
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < probability:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _t_below(t: float, freedom: int) -> float:
    """Return the cumulative probability at t >= 0."""
    tail = mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True)
    return 1 - float(tail) / 2


def paired_difference(ours: Sequence[float], theirs: Sequence[float], level: float = LEVEL) -> Difference:
    """Return the mean of ours - theirs over pairs, with its t interval and the exact sign-flip p-value.

    Args:
        ours: Values of one system, such as accuracies by seed.
        theirs: Values of the other system for the same seeds.
        level: Confidence level of the interval.

    Raises:
        ValueError: If the sequences are empty or have different lengths.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"pairs need two sequences of the same length, got {len(ours)} and {len(theirs)}")
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    interval = t_interval(differences, level)
    p = sign_flip_p(differences) if interval.n > 1 else None
    return Difference(interval.mean, interval.low, interval.high, p, interval.n)


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Return the exact two-sided p-value: the share of all 2^n sign patterns with at least the observed |sum|.

    Source: Fisher's randomisation test (The Design of Experiments, 1935, §21); the smallest p is 2 / 2^n. The sums of
    both halves of the differences are enumerated once and combined by bisection (Horowitz & Sahni, JACM 1974).

    Returns:
        The p-value; None for more than MAX_FLIPS differences.

    Raises:
        ValueError: If there are no differences.
    """
    n = _count(differences)
    if n > MAX_FLIPS:
        return None
    # Equal sums may differ in the last bits, so a pattern counts if it reaches the observed sum up to this slack.
    slack = 1e-12 * math.fsum(abs(d) for d in differences)
    bound = abs(math.fsum(differences)) - slack
    if bound <= 0:
        return 1.0
    half = (n + 1) // 2
    # |sum| does not change if all signs flip, so the first sign is fixed and half of the patterns suffice.
    lefts = _flipped_sums(differences[1:half], differences[0])
    rights = sorted(_flipped_sums(differences[half:], 0.0))
    within = sum(bisect_left(rights, bound - left) - bisect_right(rights, -bound - left) for left in lefts)
    patterns = len(lefts) * len(rights)
    return (patterns - within) / patterns


def _flipped_sums(differences: Sequence[float], start: float) -> list[float]:
    """Return the sums of `start` and the differences under all their sign patterns."""
    sums = [start]
    for difference in differences:
        sums = [s + sign * difference for s in sums for sign in (1, -1)]
    return sums


def lattice_flip_p(differences: Sequence[float], step: float) -> float:
    """Return the same p-value as `sign_flip_p`, for any number of differences on a lattice, such as ratings.

    The exact distribution of the sum over all 2^n sign patterns is computed by adding one difference at a time.

    Args:
        differences: The differences.
        step: Lattice step; each difference is a multiple of it.

    Raises:
        ValueError: If there are no differences, or one is not a multiple of `step`.
    """
    _count(differences)
    units = [round(difference / step) for difference in differences]
    if any(abs(unit * step - difference) > 1e-9 * step for unit, difference in zip(units, differences, strict=True)):
        raise ValueError(f"the differences must be multiples of {step}, got {list(differences)[:5]}")
    # Number of sign patterns by their sum; a difference of 0 would only double every count.
    patterns = {0: 1}
    for unit in (unit for unit in units if unit):
        extended: defaultdict[int, int] = defaultdict(int)
        for total, count in patterns.items():
            extended[total + unit] += count
            extended[total - unit] += count
        patterns = extended
    observed = abs(sum(units))
    extreme = sum(count for total, count in patterns.items() if abs(total) >= observed)
    return float(Fraction(extreme, sum(patterns.values())))


def sign_test_p(differences: Sequence[float]) -> float:
    """Return the p-value of the exact two-sided sign test. Ties are dropped; without any win or loss, p is 1.

    Source: Arbuthnott 1710. On correct and wrong answers it is McNemar's exact test (Psychometrika 1947).

    Raises:
        ValueError: If there are no differences.
    """
    _count(differences)
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


def bootstrap_difference(table: Sequence[Sequence[float]], seed: int = 0, level: float = LEVEL) -> Interval:
    """Return the mean of a table of paired differences with its percentile bootstrap interval.

    Seeds and instructions are resampled independently, because all seeds share the same instructions (pigeonhole
    bootstrap, Owen, Ann. Appl. Stat. 2007). With a single seed the interval covers the instructions only.

    Args:
        table: Differences, shape (training seeds, instructions).
        seed: Seed of the resampling.
        level: Confidence level of the interval.

    Raises:
        ValueError: If the table is empty, or its rows have different lengths.
    """
    width = _count(table[0]) if _count(table) else 0
    if any(len(row) != width for row in table):
        widths = [len(row) for row in table]
        raise ValueError(f"each seed needs one difference for each instruction, got rows of the lengths {widths}")
    rng = random.Random(seed)
    means = sorted(_resampled_mean(table, rng) for _ in range(BOOTSTRAP_SAMPLES))
    mean = math.fsum(math.fsum(row) for row in table) / (len(table) * width)
    if len(table) * width == 1:
        return Interval(mean, None, None, 1)
    # Percentiles by rank; both bounds are resampled means, without interpolation.
    cut = (1 - level) / 2
    return Interval(
        mean,
        means[math.floor(cut * BOOTSTRAP_SAMPLES)],
        means[math.ceil((1 - cut) * BOOTSTRAP_SAMPLES) - 1],
        len(table) * width,
    )


def _resampled_mean(table: Sequence[Sequence[float]], rng: random.Random) -> float:
    """Draw rows and columns with replacement and return the mean of their cells."""
    rows = rng.choices(table, k=len(table))
    columns = rng.choices(range(len(table[0])), k=len(table[0]))
    return sum(row[column] for row in rows for column in columns) / (len(rows) * len(columns))


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """Return Holm's step-down adjustment, with the keys in their order.

    p'_(i) = max_{j<=i} min(1, (m - j + 1) p_(j)) (Holm, Scand. J. Stat. 1979).

    Raises:
        ValueError: If a p-value is not between 0 and 1.
    """
    if any(not 0 <= p <= 1 for p in p_values.values()):
        raise ValueError(f"p-values must be between 0 and 1, got {dict(p_values)}")
    adjusted: dict[K, float] = {}
    # The running maximum keeps the adjusted p-values in the order of the original ones.
    largest = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p_values}


def _grouped(results: Sequence[BenchmarkResult], key: Callable[[BenchmarkResult], K]) -> dict[K, list[BenchmarkResult]]:
    _count(results)
    groups: defaultdict[K, list[BenchmarkResult]] = defaultdict(list)
    for result in results:
        groups[key(result)].append(result)
    return dict(groups)


def _count(values: Sequence[object]) -> int:
    """Return the number of values. Raise ValueError if there are none."""
    if not values:
        raise ValueError("statistics of no values are not defined, expected at least one value")
    return len(values)
