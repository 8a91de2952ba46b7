"""Checks of the target distribution of task types."""

import math
from collections.abc import Iterator

from tapir_exp.config.problems import Problem, Values
from tapir_exp.config.schema import did_you_mean
from tapir_exp.core.task_types import TaskType

SHARES, WEIGHTS = "task_mix.target_distribution", "task_mix.weights"
SUM_TOLERANCE = 1e-6


def check_shares(values: Values) -> Iterator[Problem]:
    """Yield every mistake of the shares."""
    shares = values.get(SHARES)
    if not isinstance(shares, dict):
        return
    names = [str(task) for task in TaskType]
    for name, share in shares.items():
        if name not in names:
            hint = did_you_mean(str(name), names)
            yield Problem(f"{SHARES}.{name}", f" = {share}", f"a task type of the paper{hint}")
        if not (math.isfinite(share) and share >= 0):
            yield Problem(f"{SHARES}.{name}", f" = {share}", "a share of 0 or more")
    total = math.fsum(shares.values())
    if not abs(total - 1) <= SUM_TOLERANCE:
        expected = "a sum of 1 (Hydra merges dicts, so replace a preset as a whole, or use task_mix.weights)"
        yield Problem(SHARES, f" sum to {total:.6g}", expected)


def check_weights(values: Values) -> Iterator[Problem]:
    """Yield every mistake of the factors of the shares."""
    weights, shares = values.get(WEIGHTS), values.get(SHARES)
    if not isinstance(weights, dict) or not weights:
        return
    if not isinstance(shares, dict):
        yield Problem(WEIGHTS, "", "a task mix with shares, such as task_mix=tapir, or no weights")
        return
    names = {str(name).replace("_", " "): weight for name, weight in weights.items()}
    for name, weight in names.items():
        if name not in shares:
            hint = did_you_mean(name, [str(task) for task in shares])
            yield Problem(f"{WEIGHTS}.{name}", f" = {weight}", f"a task type of the mix{hint}")
        if not (math.isfinite(weight) and weight >= 0):
            yield Problem(f"{WEIGHTS}.{name}", f" = {weight}", "a factor of 0 or more")
    if not any(share * names.get(name, 1.0) > 0 for name, share in shares.items()):
        yield Problem(WEIGHTS, "", "a factor above 0 for some task type of the mix")
