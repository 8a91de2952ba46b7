"""Write a plan as lines of text, of which none is cut, or as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tapir_exp.commands.plan_job import PlannedStage, RemainingCost

TITLE = "Remaining work: tokens in and out; ≤ marks an upper bound"
COLUMNS = ("stage", "role", "done", "calls", "cached", "in", "out", "USD", "A100 h")
TEXT_COLUMNS = 2
"""Columns at the left that are texts; the others are numbers."""
GB = 1e9


def plan_lines(planned: Sequence[PlannedStage]) -> list[str]:
    """Return one line for each stage and role, and the sum. Jobs that have a stage with other settings share a line."""
    rows = [[name, role, *_cells(stages)] for (name, role), stages in _groups(planned).items()]
    total = ["all", "", *_cells(planned)]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, total, strict=True)]
    rule = "─" * (sum(widths) + len(widths) - 1)
    return [TITLE, _line(COLUMNS, widths), rule, *(_line(row, widths) for row in rows), rule, _line(total, widths)]


def plan_data(planned: Sequence[PlannedStage]) -> dict[str, Any]:
    """Return the plan at full precision; a cost that is not known is null."""
    stages = [{"stage": name, "role": role, **_figures(group)} for (name, role), group in _groups(planned).items()]
    return {"stages": stages, "total": _figures(planned)}


def describe_disk(planned: Sequence[PlannedStage], free: float, checkpoint: float) -> str:
    """Describe the disk space that the plan still needs, in words.

    Args:
        planned: The stages.
        free: Bytes that are free.
        checkpoint: Bytes of the checkpoint during a fit.
    """
    needed = needed_bytes(planned, checkpoint)
    students = sum(not stage.finished for stage in planned if stage.estimate.role == "fit")
    about = "of unknown size" if needed is None else f"about {needed / GB:,.1f} GB with a checkpoint"
    return f"disk: {students} student{'' if students == 1 else 's'} to store, {about}; {free / GB:,.1f} GB are free"


def needed_bytes(planned: Sequence[PlannedStage], checkpoint: float) -> float | None:
    """Return the bytes of the students that are not there yet, and of a checkpoint; None if a size is not known."""
    sizes = [stage.estimate.disk for stage in planned if not stage.finished]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    return sum(known) + (checkpoint if any(known) else 0.0)


def _groups(planned: Sequence[PlannedStage]) -> Mapping[tuple[str, str], list[PlannedStage]]:
    groups: dict[tuple[str, str], list[PlannedStage]] = {}
    for stage in planned:
        groups.setdefault((stage.estimate.stage, stage.estimate.role), []).append(stage)
    return groups


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.ljust(width) if index < TEXT_COLUMNS else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return " ".join(aligned)


def _cells(stages: Sequence[PlannedStage]) -> list[str]:
    cost = sum((stage.remaining for stage in stages), RemainingCost())
    bound = "≤ " if cost.at_most else ""
    return [
        f"{sum(stage.finished for stage in stages)}/{len(stages)}",
        f"{bound}{cost.calls:,.0f}",
        f"{cost.cached:,}",
        _format_tokens(cost.prompt_tokens),
        _format_tokens(cost.completion_tokens),
        "unknown" if cost.usd is None else f"{cost.usd:,.2f}",
        "–" if cost.gpu_hours is None else f"{cost.gpu_hours:,.2f}",
    ]


def _figures(stages: Sequence[PlannedStage]) -> dict[str, Any]:
    cost = sum((stage.remaining for stage in stages), RemainingCost())
    return {"done": sum(stage.finished for stage in stages), "of": len(stages), **asdict(cost)}


def _format_tokens(tokens: float) -> str:
    """Format a number of tokens with three digits: 950, 9.5k, 950k, 9.5M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"
