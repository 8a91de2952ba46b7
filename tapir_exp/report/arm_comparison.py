"""Arms of one experiment against TAPIR on one suite, paired by training seed and by instruction."""

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
STEPS = {"lab": 100.0, "ifeval": 100.0, "mt_bench": 0.5}
"""What the values of a suite are multiples of; AlpacaEval's preferences are of nothing."""


@dataclass(frozen=True)
class ArmComparison:
    """An arm less TAPIR, in the suite's unit.

    interval: bootstrap over seeds and instructions. p_instructions: exact, over the sums by instruction; p_seeds: exact
    sign flips over the means by seed, None for one seed. *_holm: corrected over the arms of this experiment.
    detectable: the smallest difference that this comparison finds with 80 % power, by its error over instructions.
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


def compare_arms(suite: str, measured: Sequence[EvaluationResult]) -> list[ArmComparison]:
    """Every arm against TAPIR of the same experiment, model, judge and benchmark, over the seeds that both have."""
    families: defaultdict[tuple[object, ...], dict[str, dict[int, Values]]] = defaultdict(dict)
    for found in measured:
        known = found.evaluation
        if known.arm is not None and known.seed is not None:
            family = families[known.experiment, known.model, found.circumstances(suite)]
            family.setdefault(known.arm, {}).setdefault(known.seed, found.values(suite))
    compared = [_family(str(key[0]), suite, arms) for key, arms in families.items() if BASELINE in arms]
    return [comparison for family in compared for comparison in family]


def _family(experiment: str, suite: str, arms: Mapping[str, Mapping[int, Values]]) -> list[ArmComparison]:
    tables = {arm: _differences(seeds, arms[BASELINE]) for arm, seeds in arms.items() if arm != BASELINE}
    rows = {arm: _compare(experiment, arm, suite, table) for arm, table in tables.items() if table and table[0]}
    by_instruction = holm({arm: row.p_instructions for arm, row in rows.items()})
    by_seed = holm({arm: row.p_seeds for arm, row in rows.items() if row.p_seeds is not None})
    return [
        replace(row, p_instructions_holm=by_instruction[arm], p_seeds_holm=by_seed.get(arm))
        for arm, row in rows.items()
    ]


def _differences(arm: Mapping[int, Values], baseline: Mapping[int, Values]) -> list[list[float]]:
    """Paired differences, seeds by instructions, over what all of them have."""
    seeds = sorted(arm.keys() & baseline.keys())
    everyone = [values for seed in seeds for values in (arm[seed], baseline[seed])]
    shared = sorted(set.intersection(*(set(values) for values in everyone))) if everyone else []
    return [[arm[seed][key] - baseline[seed][key] for key in shared] for seed in seeds]


def _compare(experiment: str, arm: str, suite: str, table: Sequence[Sequence[float]]) -> ArmComparison:
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
    """Sign flips where the values are whole steps; else the sign test, which needs no steps."""
    if suite in STEPS:
        try:
            return lattice_flip_p(sums, STEPS[suite])
        except ValueError:  # a judge may rate by finer steps
            pass
    return sign_test_p(sums)
