"""Compare the arms of an experiment with TAPIR on one suite, paired by training seed and by instruction."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tapir_exp.evals.power import detectable_difference
from tapir_exp.evals.statistics import (
    Interval,
    bootstrap_difference,
    holm,
    lattice_flip_p,
    mean_and_error,
    sign_flip_p,
    sign_test_p,
)
from tapir_exp.report.evaluations import EvaluationResult, Values

BASELINE = "tapir"
VALUE_STEPS = {"lab": 100.0, "ifeval": 100.0, "mt_bench": 0.5}
"""Step of which all values of a suite are multiples; AlpacaEval's preferences have none."""


@dataclass(frozen=True)
class ArmComparison:
    """Difference of an arm from TAPIR, in the unit of the suite.

    Attributes:
        experiment: Name of the experiment.
        arm: Arm that is compared with TAPIR.
        seeds: Number of seeds that both have.
        instructions: Number of instructions that all of their evaluations have.
        interval: Mean difference with a bootstrap interval over seeds and instructions.
        p_instructions: Exact p-value over the sums by instruction.
        p_seeds: Exact sign-flip p-value over the means by seed; None for one seed.
        detectable: Smallest difference that this comparison detects with 80 % power, from the standard error over
            instructions; None for a single instruction.
        p_instructions_holm: `p_instructions`, Holm-corrected over the arms of the experiment.
        p_seeds_holm: `p_seeds`, Holm-corrected over the arms of the experiment.
    """

    experiment: str
    arm: str
    seeds: int
    instructions: int
    interval: Interval
    p_instructions: float
    p_seeds: float | None
    detectable: float | None
    p_instructions_holm: float = 1.0
    p_seeds_holm: float | None = None


def compare_arms(suite: str, evaluations: Sequence[EvaluationResult]) -> list[ArmComparison]:
    """Compare each arm with TAPIR of the same experiment, model, judge and benchmark, over their common seeds.

    A job of a sweep with other settings than its baseline is an arm of its own.
    """
    groups: defaultdict[tuple[object, ...], dict[str, dict[int, Values]]] = defaultdict(dict)
    for result in evaluations:
        evaluation = result.evaluation
        if result.method is not None and evaluation.seed is not None:
            arms = groups[evaluation.experiment, evaluation.model, result.comparability_key(suite)]
            # The first evaluation of a seed counts, as in the tables.
            arms.setdefault(result.method, {}).setdefault(evaluation.seed, result.values(suite))
    comparisons = [_compare_group(str(key[0]), suite, arms) for key, arms in groups.items() if BASELINE in arms]
    return [comparison for group in comparisons for comparison in group]


def _compare_group(experiment: str, suite: str, arms: Mapping[str, Mapping[int, Values]]) -> list[ArmComparison]:
    """Compare the arms of one experiment with its baseline, and correct the p-values over the arms."""
    tables = {arm: _paired_differences(seeds, arms[BASELINE]) for arm, seeds in arms.items() if arm != BASELINE}
    rows = {arm: _compare(experiment, arm, suite, table) for arm, table in tables.items() if table and table[0]}
    # The two tests answer different questions, so each is corrected separately.
    by_instruction = holm({arm: row.p_instructions for arm, row in rows.items()})
    by_seed = holm({arm: row.p_seeds for arm, row in rows.items() if row.p_seeds is not None})
    return [
        replace(row, p_instructions_holm=by_instruction[arm], p_seeds_holm=by_seed.get(arm))
        for arm, row in rows.items()
    ]


def _paired_differences(arm: Mapping[int, Values], baseline: Mapping[int, Values]) -> list[list[float]]:
    """Return the differences [seeds, instructions] over the instructions that every evaluation has."""
    seeds = sorted(arm.keys() & baseline.keys())
    if not seeds:
        return []
    columns = [set(values) for seed in seeds for values in (arm[seed], baseline[seed])]
    common = sorted(set.intersection(*columns))
    return [[arm[seed][key] - baseline[seed][key] for key in common] for seed in seeds]


def _compare(experiment: str, arm: str, suite: str, table: Sequence[Sequence[float]]) -> ArmComparison:
    """Compute the statistics of a table of differences [seeds, instructions]."""
    # Sums over seeds keep the values on the lattice of the suite, which the exact test needs.
    sums = [sum(column) for column in zip(*table, strict=True)]
    error = mean_and_error([total / len(table) for total in sums]).error
    return ArmComparison(
        experiment=experiment,
        arm=arm,
        seeds=len(table),
        instructions=len(sums),
        interval=bootstrap_difference(table),
        p_instructions=_exact_p(sums, suite),
        p_seeds=sign_flip_p([sum(row) / len(row) for row in table]) if len(table) > 1 else None,
        detectable=None if error is None else detectable_difference(error),
    )


def _exact_p(sums: Sequence[float], suite: str) -> float:
    """Return the sign-flip p-value if all values are whole steps, else that of the sign test, which needs no steps."""
    if suite in VALUE_STEPS:
        try:
            return lattice_flip_p(sums, VALUE_STEPS[suite])
        except ValueError:  # a judge may rate in finer steps
            pass
    return sign_test_p(sums)
