"""The remaining calls and cost of a run, stage by stage, without a call to any model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tapir_exp.config import Config, DecontaminationConfig, SeedsConfig
from tapir_exp.core.records import Example
from tapir_exp.core.store import Artifact
from tapir_exp.data.seeds import load_seeds, undrawn_rows
from tapir_exp.distillation import teacher
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.pipeline import data
from tapir_exp.pipeline.estimate import StageEstimate, estimate_run, seed_statistics
from tapir_exp.pipeline.opening import open_workspace
from tapir_exp.pipeline.sizing import fit_sizes
from tapir_exp.pipeline.workspace import Recipe, Workspace
from tapir_exp.tapir import distill

TITLE = "Remaining work: tokens in and out; ≤ marks an upper bound"
SAMPLE = 2000
"""Number of seeds to look up in the cache if there are more. The share of cached calls is taken for all seeds."""


class NotInStore(Exception):
    """The artifact of a stage is not in the store."""


@dataclass
class DryRunWorkspace(Workspace):
    """A workspace that finds finished artifacts and makes none.

    Attributes:
        finished: The artifacts found so far, by name.
    """

    def __post_init__(self) -> None:
        self.finished: dict[str, Artifact] = {}

    def directory(
        self, stage: str, round_number: int | None, recipe: Recipe, make: Callable[[Path], Mapping[str, Any]]
    ) -> Artifact:
        """Return the finished artifact.

        Raises:
            NotInStore: If the stage has not been run.
        """
        artifact = self.store.find(stage, recipe)
        if artifact is None:
            raise NotInStore
        self.finished[stage if round_number is None else f"{stage}-{round_number}"] = artifact
        return artifact


@dataclass(frozen=True)
class RemainingCost:
    """The remaining calls and cost of one or several stages; the fields are those of StageEstimate."""

    calls: float = 0.0
    cached: int = 0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    usd: float | None = 0.0
    gpu_hours: float | None = None
    at_most: bool = False

    def __add__(self, other: "RemainingCost") -> "RemainingCost":
        # Stages without a fit have no GPU hours; an unknown price makes the sum unknown.
        hours = [part.gpu_hours for part in (self, other) if part.gpu_hours is not None]
        return RemainingCost(
            self.calls + other.calls,
            self.cached + other.cached,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            None if self.usd is None or other.usd is None else self.usd + other.usd,
            sum(hours) if hours else None,
            self.at_most or other.at_most,
        )


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a plan.

    Attributes:
        estimate: The whole stage.
        cached: Number of its calls with a cached completion.
        finished: Whether its artifact is in the store.
    """

    estimate: StageEstimate
    cached: int
    finished: bool

    @property
    def remaining(self) -> RemainingCost:
        """Return the cost without finished and cached work."""
        whole = self.estimate
        if self.finished:
            return RemainingCost(cached=whole.calls)
        left = 1 - self.cached / whole.calls if whole.calls else 1.0
        return RemainingCost(
            left * whole.calls,
            self.cached,
            left * whole.prompt_tokens,
            left * whole.completion_tokens,
            None if whole.usd is None and left else left * (whole.usd or 0.0),
            whole.gpu_hours,
            whole.at_most,
        )


class SeedReader:
    """Read seed instructions before they are cleaned, once for all jobs with the same settings.

    Near-duplicate search and decontamination take longer than a plan may.
    """

    def __init__(self) -> None:
        self._by_settings: dict[str, list[Example]] = {}

    def __call__(self, config: SeedsConfig) -> list[Example]:
        """Return the seeds.

        Raises:
            SeedError: If they cannot be read.
        """
        key = repr(config)
        if key not in self._by_settings:
            self._by_settings[key] = load_seeds(
                replace(config, dedup_threshold=None, decontamination=DecontaminationConfig(benchmarks=[]))
            )
        return self._by_settings[key]


def plan_job(config: Config, read: SeedReader) -> list[PlannedStage]:
    """Return the stages of a job, with finished stages and cached calls taken into account.

    Args:
        config: The configuration of the job.
        read: Reads seeds that are not in the store yet.
    """
    # Opening a workspace creates the store, and a plan writes nothing.
    if not (Path(config.outputs) / "store").is_dir():
        fitted, seeds = _sized(config, read(config.seeds))
        return [PlannedStage(stage, 0, finished=False) for stage in estimate_run(fitted, seed_statistics(seeds))]
    with open_workspace(config, SpendScope("plan"), calling=False) as ws:
        dry = DryRunWorkspace(**{field.name: getattr(ws, field.name) for field in fields(Workspace)})
        finished = _find_finished(dry)
        # A dry run that found the seeds has set the sizes that follow from them.
        rows = finished["seeds"].rows(Example) if "seeds" in finished else read(config.seeds)
        fitted, seeds = (dry.config, rows) if "seeds" in finished else _sized(config, rows)
        cached = _count_cached(dry, seeds)
        return [
            PlannedStage(estimate, cached.get(estimate.stage, 0), finished=estimate.stage in finished)
            for estimate in estimate_run(fitted, seed_statistics(seeds))
        ]


def _sized(config: Config, rows: list[Example]) -> tuple[Config, list[Example]]:
    """Return the configuration with the sizes that follow from the seeds, and as many seeds as the budget pays for."""
    # The rows that the draw leaves are not read here; their number follows from those that it drew.
    fitted = fit_sizes(config, rows, undrawn_rows(len(rows), config.seeds.reserve))
    return fitted, rows if fitted.seeds.size is None else rows[: fitted.seeds.size]


def merge_jobs(jobs: Iterable[Sequence[PlannedStage]]) -> list[PlannedStage]:
    """Return the stages of all jobs of a sweep; a stage that several jobs share is listed once."""
    seen: dict[tuple[str, str, str], PlannedStage] = {}
    for job in jobs:
        for planned in job:
            seen.setdefault((planned.estimate.stage, planned.estimate.role, planned.estimate.share), planned)
    return list(seen.values())


def build_table(planned: Sequence[PlannedStage]) -> Table:
    """Return the plan as a table: one line for each stage and role, and the sum."""
    # Without vertical lines, the longest names and figures fit into 80 columns.
    table = Table(title=TITLE, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=0)
    numbers = ("done", "calls", "cached", "in", "out", "USD", "A100 h")
    for column in ("stage", "role", *numbers):
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    # Jobs of a sweep have the same stages with other settings; they share a line, which counts them.
    groups: dict[tuple[str, str], list[PlannedStage]] = {}
    for stage in planned:
        groups.setdefault((stage.estimate.stage, stage.estimate.role), []).append(stage)
    for (name, role), stages in groups.items():
        table.add_row(name, role, *_cells(stages))
    table.add_section()
    table.add_row("all", "", *_cells(planned))
    return table


def _find_finished(ws: DryRunWorkspace) -> Mapping[str, Artifact]:
    """Return the finished artifacts of a run, as far as a dry run gets.

    The dry run ends at the first stage that is missing. The stages that need only the seeds are tried on their own,
    since an interrupted run may have them out of order.
    """
    with suppress(NotInStore):
        distill(ws)
    for stage in (data.classify_seeds, data.teacher_responses):
        with suppress(NotInStore):
            stage(ws, data.load_seeds(ws))
    return ws.finished


def _count_cached(ws: Workspace, seeds: Sequence[Example]) -> dict[str, int]:
    """Return the number of cached calls of the stages that ask about the seeds, by stage."""
    # Every n-th seed, since a look-up of all takes long for a large pool.
    sample = seeds if len(seeds) <= SAMPLE else seeds[:: len(seeds) // SAMPLE]
    requests = [teacher.build_response_request(seed, ws.config.teacher) for seed in sample]
    counts = {
        "task_labels": ws.classifier.count_cached(sample),
        "teacher_responses": ws.teacher.count_cached(requests),
    }
    return {stage: count * len(seeds) // len(sample) for stage, count in counts.items()}


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


def _format_tokens(tokens: float) -> str:
    """Format a number of tokens with three digits: 950, 9.5k, 950k, 9.5M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"
