"""Power of a comparison: which differences it detects, and how many pairs that takes."""

import math

import mpmath  # type: ignore[import-untyped]

from tapir_exp.evals.statistics import LEVEL

POWER = 0.8
"""Probability with which a planned comparison detects a true difference."""


def error_of_difference(first: float, second: float, correlation: float = 0.0) -> float:
    """Return the standard error of the difference of two means.

    Args:
        first: Standard error of one mean.
        second: Standard error of the other mean.
        correlation: Correlation of paired values; 0 for independent samples.
    """
    return math.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second))


def detectable_difference(error: float, level: float = LEVEL, power: float = POWER) -> float:
    """Return the smallest true difference that is detected with probability `power`: (z(1 - α/2) + z(power)) · error.

    Source: Cohen, Statistical Power Analysis, 1988, 2.

    Args:
        error: Standard error of the difference.
        level: Confidence level 1 - α of the test.
        power: Probability of a detection.
    """
    return (_normal_quantile(0.5 + level / 2) + _normal_quantile(power)) * error


def pairs_needed(difference: float, deviation: float, level: float = LEVEL, power: float = POWER) -> int:
    """Return the number of pairs that detects a true difference with probability `power`.

    Args:
        difference: The true difference.
        deviation: Standard deviation of the paired differences.
        level: Confidence level of the test.
        power: Probability of a detection.

    Raises:
        ValueError: If the difference is 0.
    """
    if not difference:
        raise ValueError("no number of pairs detects a difference of 0, expected another difference")
    return math.ceil((detectable_difference(deviation, level, power) / difference) ** 2)


def _normal_quantile(probability: float) -> float:
    """Return the quantile of the standard normal distribution."""
    return math.sqrt(2) * float(mpmath.erfinv(2 * probability - 1))
