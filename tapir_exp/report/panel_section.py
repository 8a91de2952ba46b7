"""Judges of a panel beside each other, from the verdicts of a run: agreement, and whose responses each favours."""

from itertools import combinations

from tapir_exp.distillation.judge.score import split_panel
from tapir_exp.evals.judge_comparison import JudgeComparison, compare_judges
from tapir_exp.report.run_view import RunView

SEED, EXPANSION = "teacher, on seeds", "teacher, on expansions"
"""Origins of the responses that are judged beside the student's, before their refinement."""


def compare_panel(run: RunView) -> list[JudgeComparison]:
    """Return the comparison of every two judges of the run's panel; empty without a panel."""
    gaps: dict[str, list[float | None]] = {}
    origins = []
    for round_view in run.rounds:
        for row_id, verdict in round_view.verdicts.items():
            if not verdict.is_of_panel:
                return []
            origins.append((SEED if row_id in run.seeds else EXPANSION, "student"))
            for judge, of_judge in split_panel(verdict).items():
                gaps.setdefault(judge, []).append(of_judge.gap)
    found = (
        compare_judges((first, second), (gaps[first], gaps[second]), origins) for first, second in combinations(gaps, 2)
    )
    return [comparison for comparison in found if comparison is not None]
