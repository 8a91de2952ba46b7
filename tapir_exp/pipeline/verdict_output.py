"""Figures of a stage of verdicts."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from tapir_exp.config import JudgeConfig
from tapir_exp.core.records import Verdict
from tapir_exp.distillation.curriculum.difficulty import scored_gaps
from tapir_exp.distillation.judge.diagnostics import Lengths, diagnose_judge
from tapir_exp.distillation.judge.requests import ResponsePair
from tapir_exp.pipeline.workspace import StageOutput


def verdict_output(rows: Sequence[Verdict], pairs: Sequence[ResponsePair], config: JudgeConfig) -> StageOutput:
    """Return verdicts with their figures: unscored rows, the mean gap, flips, and the diagnosis of the judge."""
    gaps = scored_gaps(rows)
    lengths = {pair.id: Lengths(len(pair.response_a), len(pair.response_b)) for pair in pairs}
    diagnostics = diagnose_judge(rows, lengths)
    figures = {
        "unscored": len(rows) - len(gaps),
        "mean_gap": fmean(gaps.values()) if gaps else None,
        "flips": diagnostics.flips,
        "diagnosis": asdict(diagnostics),
    }
    # Rows of a mix that the teacher wrote have no reference, so reports show how many had one.
    if config.reference:
        figures["referenced"] = sum(pair.reference is not None for pair in pairs)
    return StageOutput(rows, figures)
