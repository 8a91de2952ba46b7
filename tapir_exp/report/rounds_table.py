"""Results of the suites by round, for runs that evaluate each of their students (`evals.every_round`)."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapir_exp.core.markup import escape_csv
from tapir_exp.evals.statistics import Estimate, mean_and_error
from tapir_exp.report.evaluations import EvaluationResult

MAIN_FIGURES: Mapping[str, str] = {
    "alpaca_eval": "win_rate",
    "mt_bench": "average",
    "ifeval": "prompt_level_strict_acc",
    "lab": "accuracy",
}
"""Figure of each suite that is shown by round."""
CSV_COLUMNS = ("run", "suite", "figure", "judge", "round", "mean", "error_over_seeds", "seeds")


@dataclass(frozen=True)
class RoundsRow:
    """A figure of one variant over the rounds.

    Attributes:
        label: Experiment, arm and settings.
        suite: Name of the suite.
        judge: Model of the judge; None if the suite has none.
        by_round: Mean over the training seeds, its standard error and the number of seeds, by round.
    """

    label: str
    suite: str
    judge: str | None
    by_round: Mapping[int, Estimate]


def table_rounds(evaluations: Sequence[EvaluationResult]) -> list[RoundsRow]:
    """Return the main figure of each suite by round; none for evaluations of one round only."""
    values: defaultdict[tuple[str, str, str | None], defaultdict[int, dict[int | None, float]]]
    values = defaultdict(lambda: defaultdict(dict))
    for result in evaluations:
        number = result.evaluation.round
        for suite, figures in result.figures.items():
            value = figures.get(MAIN_FIGURES[suite])
            if number is not None and value is not None:
                key = (result.label, suite, result.comparability_key(suite)[0])
                values[key][number].setdefault(result.evaluation.seed, float(value))
    return [
        RoundsRow(*key, {number: mean_and_error([*seeds.values()]) for number, seeds in sorted(rounds.items())})
        for key, rounds in values.items()
        if len(rounds) > 1
    ]


def rounds_to_csv(rows: Sequence[RoundsRow]) -> str:
    """Return one line for each figure and round, at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        for number, mean in row.by_round.items():
            start = (row.label, row.suite, MAIN_FIGURES[row.suite], row.judge)
            writer.writerow([escape_csv(cell) for cell in (*start, number, mean.mean, mean.error, mean.n)])
    return out.getvalue()
