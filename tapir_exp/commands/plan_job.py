"""The remaining calls and cost of a run, stage by stage, without a call to any model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tapir_exp.config import Config, SeedsConfig
from tapir_exp.data.formats import SeedPair
from tapir_exp.data.seeds import skim_seeds, undrawn_rows
from tapir_exp.llm.ledger import Spend
from tapir_exp.pipeline.estimate import CHECKS, estimate_run
from tapir_exp.pipeline.request_sizes import Assumptions, SeedStatistics, seed_statistics
from tapir_exp.pipeline.round_counts import Count
from tapir_exp.pipeline.sizing import fit_sizes
from tapir_exp.pipeline.stage_costs import Amounts, StageEstimate
from tapir_exp.pipeline.wall_time import stage_seconds, without_overlap


class FinishedStage(Protocol):
    """The artifact of a finished stage."""

    @property
    def figures(self) -> Mapping[str, Any]:
        """Return its figures, with its spend by role."""
        ...


@dataclass(frozen=True)
class StageCost:
    """Cost of one or several stages.

    Attributes:
        expected: What is expected to remain.
        most: The bound on what remains.
        usable: The bound if every first reply can be used.
        seconds: Wall time of what remains.
        cached: Number of calls that cost nothing.
        spent: What finished stages have spent.
    """

    expected: Amounts = field(default_factory=Amounts)
    most: Amounts = field(default_factory=Amounts)
    usable: Amounts = field(default_factory=Amounts)
    seconds: Count = field(default_factory=lambda: Count(0.0, 0.0))
    cached: int = 0
    spent: Spend = field(default_factory=Spend)

    def __add__(self, other: "StageCost") -> "StageCost":
        return StageCost(
            self.expected + other.expected,
            self.most + other.most,
            self.usable + other.usable,
            Count(self.seconds.expected + other.seconds.expected, self.seconds.most + other.seconds.most),
            self.cached + other.cached,
            self.spent + other.spent,
        )


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a plan.

    Attributes:
        estimate: The whole stage.
        seconds: Its wall time.
        cached: Number of its calls with a cached completion.
        finished: Whether its artifact is in the store.
        spent: What it has spent if it is finished.
    """

    estimate: StageEstimate
    seconds: Count
    cached: int = 0
    finished: bool = False
    spent: Spend = field(default_factory=Spend)

    @property
    def remaining(self) -> StageCost:
        """Return the cost without finished and cached work."""
        if self.finished:
            return StageCost(spent=self.spent)
        whole = self.estimate
        left = 1 - self.cached / whole.expected.calls if whole.expected.calls else 1.0
        return StageCost(
            whole.expected * left, whole.most * left, whole.usable * left, self.seconds * left, self.cached
        )


class SeedReader:
    """Read seed instructions before they are cleaned, once for all jobs with the same settings.

    Near-duplicate search and decontamination take longer than a plan may.
    """

    def __init__(self) -> None:
        self._by_settings: dict[str, list[SeedPair]] = {}
        self._measured: dict[tuple[str, int], SeedStatistics] = {}

    def __call__(self, config: SeedsConfig) -> list[SeedPair]:
        """Return the seeds.

        Raises:
            SeedError: If they cannot be read.
        """
        key = repr(config)
        if key not in self._by_settings:
            self._by_settings[key] = skim_seeds(config)
        return self._by_settings[key]

    def measure(self, config: SeedsConfig, rows: Sequence[SeedPair]) -> SeedStatistics:
        """Return the lengths of the first rows of such seeds."""
        key = repr(config), len(rows)
        if key not in self._measured:
            self._measured[key] = seed_statistics(rows)
        return self._measured[key]


def plan_job(config: Config, read: SeedReader, assumed: Assumptions | None = None) -> list[PlannedStage]:
    """Return the stages of a job, with finished stages and cached calls taken into account.

    Args:
        config: The configuration of the job.
        read: Reads seeds that are not in the store yet.
        assumed: What a probe has measured; None assumes everything.
    """
    assumed = assumed or Assumptions()
    # Opening a workspace creates the store, and a plan writes nothing.
    if not (Path(config.outputs) / "store").is_dir():
        fitted, seeds = _sized(config, read(config.seeds))
        measured = read.measure(config.seeds, seeds)
        return plan_stages(fitted, estimate_run(fitted, measured, assumed=assumed), assumed)
    # Imported here, since it loads every stage of a run, and a first plan needs none.
    from tapir_exp.commands.dry_run import find_progress

    progress = find_progress(config, lambda: _sized(config, read(config.seeds)))
    stages = estimate_run(progress.config, seed_statistics(progress.seeds), progress.pool, assumed)
    return plan_stages(progress.config, stages, assumed, progress.finished, progress.cached)


def plan_stages(
    config: Config,
    stages: Sequence[StageEstimate],
    assumed: Assumptions | None = None,
    finished: Mapping[str, FinishedStage] | None = None,
    cached: Mapping[str, int] | None = None,
) -> list[PlannedStage]:
    """Return estimated stages with their times, and with what the store has of them.

    Args:
        config: The configuration, with every size as a number.
        stages: The estimates.
        assumed: What the estimates assume.
        finished: The finished artifacts by name.
        cached: Number of calls with a cached completion, by stage.
    """
    finished, cached, assumed = finished or {}, cached or {}, assumed or Assumptions()
    timed = [(stage, stage_seconds(config, stage, assumed)) for stage in stages]
    seconds = without_overlap(config, [pair for pair in timed if pair[0].stage not in finished])
    planned, paid = [], set()
    remains = any(stage.stage not in finished for stage in stages if stage.stage != CHECKS)
    for stage in stages:
        if stage.stage == CHECKS and not remains:
            continue  # a run that reuses all of its stages checks nothing
        if stage.stage not in finished:
            planned.append(PlannedStage(stage, next(seconds), cached.get(stage.stage, 0)))
            continue
        # Several lines of a stage may have one role, such as judges of a panel.
        first = (stage.stage, stage.role) not in paid
        paid.add((stage.stage, stage.role))
        spent = _spend_of(finished, stage) if first else Spend()
        planned.append(PlannedStage(stage, Count(0.0, 0.0), finished=True, spent=spent))
    return planned


def _spend_of(finished: Mapping[str, FinishedStage], stage: StageEstimate) -> Spend:
    """Return what a role has spent in a finished stage and its passes."""
    parts = [
        artifact.figures.get("spend", {}).get(stage.role)
        for name, artifact in finished.items()
        if name == stage.stage or (name.startswith("pass") and name.partition("_")[2] == stage.stage)
    ]
    return sum((Spend.model_validate(part) for part in parts if part is not None), Spend())


def _sized(config: Config, rows: list[SeedPair]) -> tuple[Config, list[SeedPair]]:
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
