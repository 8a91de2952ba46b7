"""The command `tapir-plan`: what `tapir` with the same arguments would ask and cost. It calls no model."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tapir_exp.commands.hydra_app import HELP, exit_with_error, jobs_of_command
from tapir_exp.config import Config, DecontaminationConfig, SeedsConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Example
from tapir_exp.core.store import Artifact
from tapir_exp.data.seeds import load_seeds
from tapir_exp.distillation import teacher
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.pipeline import data
from tapir_exp.pipeline.estimate import StageEstimate, estimate_run, seed_statistics
from tapir_exp.pipeline.opening import open_workspace
from tapir_exp.pipeline.workspace import Recipe, Workspace
from tapir_exp.student.training.memory import describe_memory
from tapir_exp.tapir import distill

SAMPLE = 2000
"""Seeds whose calls are looked up in the cache where there are more; the share found stands for all."""


class NotInStore(Exception):
    """A stage whose product is not in the store."""


@dataclass
class DryRunWorkspace(Workspace):
    """A workbench that finds what is made, and makes nothing."""

    def __post_init__(self) -> None:
        self.made: dict[str, Artifact] = {}

    def directory(
        self, stage: str, round_number: int | None, recipe: Recipe, make: Callable[[Path], Mapping[str, Any]]
    ) -> Artifact:
        """The finished artifact. Raises NotMade."""
        artifact = self.store.find(stage, recipe)
        if artifact is None:
            raise NotInStore
        self.made[stage if round_number is None else f"{stage}-{round_number}"] = artifact
        return artifact


@dataclass(frozen=True)
class RemainingCost:
    """What a stage, or several together, will still ask and cost; see StageEstimate."""

    calls: float = 0.0
    cached: int = 0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    usd: float | None = 0.0
    gpu_hours: float | None = None
    at_most: bool = False

    def __add__(self, other: "RemainingCost") -> "RemainingCost":
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
    """A stage, and how many of its calls are answered already."""

    estimate: StageEstimate
    cached: int
    finished: bool

    @property
    def ahead(self) -> RemainingCost:
        """What is still to come of it."""
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
    """Reads seeds as they are before the cleaning, which takes longer than a plan may; once for all jobs that have the
    same."""

    def __init__(self) -> None:
        self._known: dict[str, list[Example]] = {}

    def __call__(self, config: SeedsConfig) -> list[Example]:
        """The seeds. Raises SeedError where they cannot be read."""
        key = repr(config)
        if key not in self._known:
            self._known[key] = load_seeds(
                replace(config, dedup_threshold=None, decontamination=DecontaminationConfig(benchmarks=[]))
            )
        return self._known[key]


def plan_job(config: Config, read: SeedReader) -> list[PlannedStage]:
    """The stages of a job, with what is done and what is cached taken into account."""
    if not (Path(config.outputs) / "store").is_dir():
        sizes = seed_statistics(read(config.seeds))
        return [PlannedStage(estimate, 0, finished=False) for estimate in estimate_run(config, sizes)]
    with open_workspace(config, SpendScope("plan"), calling=False) as ws:
        dry = DryRunWorkspace(**{field.name: getattr(ws, field.name) for field in fields(Workspace)})
        made = _made(dry)
        seeds = made["seeds"].rows(Example) if "seeds" in made else read(config.seeds)
        cached = _cached(dry, seeds)
        return [
            PlannedStage(estimate, cached.get(estimate.stage, 0), finished=estimate.stage in made)
            for estimate in estimate_run(config, seed_statistics(seeds))
        ]


def merge_jobs(jobs: Iterable[Sequence[PlannedStage]]) -> list[PlannedStage]:
    """The stages of all jobs of a sweep; one that several share is there once."""
    seen: dict[tuple[str, str, str], PlannedStage] = {}
    for job in jobs:
        for planned in job:
            seen.setdefault((planned.estimate.stage, planned.estimate.role, planned.estimate.share), planned)
    return list(seen.values())


def table_of(planned: Sequence[PlannedStage]) -> Table:
    """The plan as a person reads it: one line a stage and role, and the sum."""
    table = Table(title="What is ahead: tokens in and out, upper bounds where ≤ stands", title_justify="left")
    numbers = ("made", "calls", "cached", "in", "out", "USD", "A100 h")
    for column in ("stage", "role", *numbers):
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    groups: dict[tuple[str, str], list[PlannedStage]] = {}
    for row in planned:
        groups.setdefault((row.estimate.stage, row.estimate.role), []).append(row)
    for (stage, role), rows in groups.items():
        table.add_row(stage, role, *_cells(rows))
    table.add_section()
    table.add_row("all", "", *_cells(planned))
    return table


def main() -> None:
    """Print the plan; exit code 2 for a wrong configuration, 1 for what else the user can mend."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(f"{__doc__}\n\nIt takes the arguments of tapir, sweeps included.\n\n{HELP}")
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        read = SeedReader()
        jobs = list(jobs_of_command())
        planned = merge_jobs(plan_job(config, read) for config in jobs)
    except TapirError as error:
        exit_with_error(error)
    console = Console()
    console.print(table_of(planned))
    for said in dict.fromkeys(describe_memory(job.student, job.sft, job.trainer) for job in jobs):
        console.print(said, soft_wrap=True, highlight=False)


def _made(ws: DryRunWorkspace) -> Mapping[str, Artifact]:
    """What of a run is finished, as far as it can be told from its beginning."""
    with suppress(NotInStore):
        distill(ws)
    for stage in (data.classify_seeds, data.teacher_responses):
        with suppress(NotInStore):
            stage(ws, data.load_seeds(ws))
    return ws.made


def _cached(ws: Workspace, seeds: Sequence[Example]) -> dict[str, int]:
    """How many calls of the stages that ask about the seeds have their replies in the cache, by stage."""
    some = seeds if len(seeds) <= SAMPLE else seeds[:: len(seeds) // SAMPLE]
    found = {
        "task_labels": ws.classifier.count_cached(some),
        "teacher_responses": ws.teacher.count_cached(
            [teacher.build_response_request(seed, ws.config.teacher) for seed in some]
        ),
    }
    return {stage: count * len(seeds) // len(some) for stage, count in found.items()}


def _cells(rows: Sequence[PlannedStage]) -> list[str]:
    ahead = sum((row.ahead for row in rows), RemainingCost())
    bound = "≤ " if ahead.at_most else ""
    done = sum(row.finished for row in rows)
    return [
        f"{done}/{len(rows)}",
        f"{bound}{ahead.calls:,.0f}",
        f"{ahead.cached:,}",
        _short(ahead.prompt_tokens),
        _short(ahead.completion_tokens),
        "not known" if ahead.usd is None else f"{ahead.usd:,.2f}",
        "–" if ahead.gpu_hours is None else f"{ahead.gpu_hours:,.2f}",
    ]


def _short(tokens: float) -> str:
    """Tokens in three digits: 950, 9.5k, 950k, 9.5M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"
