"""Write a plan as lines of text, of which none is cut, or as JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tapir_exp.commands.plan_job import PlannedStage, StageCost
from tapir_exp.config import Config

TITLE = "Remaining work, expected, and at most (≤)"
TEXT_COLUMNS = 2
"""Columns at the left that are texts; the others are numbers."""
GB = 1e9
SHOWN_HOURS = 0.005
"""Hours that are not rounded to zero."""
NONE = "–"

Column = tuple[str, Callable[[StageCost], str]]


def plan_lines(planned: Sequence[PlannedStage]) -> list[str]:
    """Return one line for each stage and role, and the sum. Jobs that have a stage with other settings share a line."""
    groups = {key: (stages, cost_of(stages)) for key, stages in _groups(planned).items()}
    costs = [cost for _, cost in groups.values()]
    columns = [column for column, needed in _columns() if needed is None or any(map(needed, costs))]
    # Nothing is done in a first plan of one run, whose lines then fit into 100 columns.
    counted = any(len(stages) > 1 or stages[0].finished for stages, _ in groups.values())
    heads = ["stage", "role", *(["done"] if counted else []), *(name for name, _ in columns)]
    rows = [
        [name, role, *([_done(stages)] if counted else []), *(cell(cost) for _, cell in columns)]
        for (name, role), (stages, cost) in groups.items()
    ]
    total = ["all", "", *([_done(planned)] if counted else []), *(cell(cost_of(planned)) for _, cell in columns)]
    widths = [max(map(len, column)) for column in zip(heads, *rows, total, strict=True)]
    rule = "─" * (sum(widths) + len(widths) - 1)
    return [TITLE, _line(heads, widths), rule, *(_line(row, widths) for row in rows), rule, _line(total, widths)]


def plan_data(planned: Sequence[PlannedStage]) -> dict[str, Any]:
    """Return the plan at full precision; a cost that is not known is null."""
    stages = [{"stage": name, "role": role, **_figures(group)} for (name, role), group in _groups(planned).items()]
    return {"stages": stages, "total": _figures(planned)}


def cost_of(planned: Sequence[PlannedStage]) -> StageCost:
    """Return the sum of what remains of stages."""
    return sum((stage.remaining for stage in planned), StageCost())


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


def describe_bound(config: Config, planned: Sequence[PlannedStage]) -> list[str]:
    """Return lines that say what the bound counts, and which limits of the spend may stop the run before it."""
    spend, cost = config.spend, cost_of(planned)
    most, usable = cost.most, cost.usable
    limits = (
        ("max_usd", spend.max_usd, most.usd),
        ("max_calls", spend.max_calls, most.calls),
        ("max_tokens", spend.max_tokens, most.tokens),
    )
    lines = [
        f"limit: spend.{name}={limit:g} stops the run before the bound; calls in flight are still paid"
        for name, limit, bound in limits
        if limit is not None and (bound is None or bound > limit)
    ]
    if not most.calls:
        return lines
    first = f"{usable.calls:,.0f} calls, {_format_tokens(usable.tokens)} tokens, {_format_usd(usable.usd)} USD"
    counted = "≤ counts each request twice, each paid in every attempt, with full replies"
    return [f"{counted}; if every first reply can be used: ≤ {first}", *lines]


def describe_probe(assumed: Sequence[PlannedStage], corrected: Sequence[PlannedStage]) -> list[str]:
    """Return lines that compare the totals of a plan before and after a probe."""
    before, after = cost_of(assumed), cost_of(corrected)
    pairs = (
        ("calls", f"{before.expected.calls:,.0f}", f"{after.expected.calls:,.0f}"),
        ("tokens", _format_tokens(before.expected.tokens), _format_tokens(after.expected.tokens)),
        ("USD", _format_usd(before.expected.usd), _format_usd(after.expected.usd)),
        ("time", describe_time(before.seconds.expected), describe_time(after.seconds.expected)),
    )
    return [f"assumed, and by the probe: {', '.join(f'{name} {old} → {new}' for name, old, new in pairs)}"]


def describe_time(seconds: float) -> str:
    """Describe a time with two digits or so: 40 s, 12 min, 3.5 h, 2.1 d."""
    for unit, size in (("d", 172_800.0), ("h", 5400.0), ("min", 90.0)):
        if seconds >= size:
            amount = seconds / {"d": 86_400.0, "h": 3600.0, "min": 60.0}[unit]
            return f"{amount:,.0f}{unit}" if amount >= 10 else f"{amount:.1f}{unit}"
    return f"{seconds:.0f}s"


def _columns() -> list[tuple[Column, Callable[[StageCost], object] | None]]:
    """Return every column and whether a cost needs it, as a function; None for a column that is always shown."""
    hours: Column = ("A100 h", lambda cost: _number(cost.expected.gpu_hours))
    return [
        (("cached", lambda cost: f"{cost.cached:,}"), lambda cost: cost.cached),
        (("calls", _paid(lambda cost: f"{cost.expected.calls:,.0f}")), None),
        (("≤calls", _paid(lambda cost: f"{cost.most.calls:,.0f}")), None),
        (("tokens", _paid(lambda cost: _format_tokens(cost.expected.tokens))), None),
        (("≤tokens", _paid(lambda cost: _format_tokens(cost.most.tokens))), None),
        (("USD", _paid(lambda cost: _format_usd(cost.expected.usd))), None),
        (("≤USD", _paid(lambda cost: _format_usd(cost.most.usd))), None),
        (("time", lambda cost: _format_time(cost.seconds.expected)), None),
        (("≤time", lambda cost: _format_time(cost.seconds.most)), None),
        (hours, lambda cost: (cost.expected.gpu_hours or 0.0) >= SHOWN_HOURS),
        (("paid", lambda cost: f"{cost.spent.calls:,}"), lambda cost: cost.spent.calls),
        (("paid USD", lambda cost: _format_usd(cost.spent.usd)), lambda cost: cost.spent.calls),
    ]


def _paid(cell: Callable[[StageCost], str]) -> Callable[[StageCost], str]:
    """Return the cell of a column about calls, which is empty if no call remains."""
    return lambda cost: cell(cost) if cost.most.calls else NONE


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


def _done(stages: Sequence[PlannedStage]) -> str:
    return f"{sum(stage.finished for stage in stages)}/{len(stages)}"


def _figures(stages: Sequence[PlannedStage]) -> dict[str, Any]:
    cost = cost_of(stages)
    return {
        "done": sum(stage.finished for stage in stages),
        "of": len(stages),
        "cached": cost.cached,
        **asdict(cost.expected),
        "seconds": cost.seconds.expected,
        "most": {**asdict(cost.most), "seconds": cost.seconds.most},
        "most_if_usable": asdict(cost.usable),
        "spent": cost.spent.model_dump(),
    }


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:,.2f}"


def _format_time(seconds: float) -> str:
    return describe_time(seconds).replace("min", "m") if seconds else NONE


def _format_usd(usd: float | None) -> str:
    return "unknown" if usd is None else f"{usd:,.2f}"


def _format_tokens(tokens: float) -> str:
    """Format a number of tokens with three digits: 950, 9.5k, 950k, 9.5M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if tokens >= size * 0.9995:  # 999,500 has three digits as 1.00M only
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"
