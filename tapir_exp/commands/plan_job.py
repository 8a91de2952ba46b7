"""The remaining calls and cost of a run, stage by stage, without a call to any model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tapir_exp.commands.evaluate_job import find_subject, sweep_jobs
from tapir_exp.config import Config, SeedsConfig
from tapir_exp.core.errors import ConfigError, EvaluationError
from tapir_exp.core.evaluation_manifest import SUITE_STAGE
from tapir_exp.core.records import Example
from tapir_exp.core.store import Artifact, Store
from tapir_exp.data.formats import SeedPair
from tapir_exp.data.seeds import example_of, skim_seeds, undrawn_rows
from tapir_exp.distillation import teacher
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.pipeline import data
from tapir_exp.pipeline.benchmarks import SUITES
from tapir_exp.pipeline.estimate import (
    REFINED_LENGTH_RATIO,
    RESPONSE_TOKENS,
    StageEstimate,
    estimate_run,
    estimate_suites,
    seed_statistics,
)
from tapir_exp.pipeline.opening import open_workspace
from tapir_exp.pipeline.sizing import fit_sizes
from tapir_exp.pipeline.subject import EvaluatedModel
from tapir_exp.pipeline.workspace import Recipe, Workspace
from tapir_exp.tapir import distill

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
        if artifact is None and stage.endswith(SUITE_STAGE) and self.finished:
            # Figures cost no call, and no stage needs them. The plan goes on to the next suite.
            return next(iter(self.finished.values()))
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
        self._by_settings: dict[str, list[SeedPair]] = {}

    def __call__(self, config: SeedsConfig) -> list[SeedPair]:
        """Return the seeds.

        Raises:
            SeedError: If they cannot be read.
        """
        key = repr(config)
        if key not in self._by_settings:
            self._by_settings[key] = skim_seeds(config)
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
        sized: tuple[Config, Sequence[Example | SeedPair]]
        if "seeds" in finished:
            sized = dry.config, finished["seeds"].rows(Example)
        else:
            sized = _sized(config, read(config.seeds))
        cached = _count_cached(dry, sized[1])
        return [
            PlannedStage(estimate, cached.get(estimate.stage, 0), finished=estimate.stage in finished)
            for estimate in estimate_run(sized[0], seed_statistics(sized[1]))
        ]


def plan_evaluation(config: Config) -> list[PlannedStage]:
    """Return the stages of `tapir evaluate`, for the student, or each student of a sweep, that the configuration names.

    Raises:
        ConfigError: If it names none.
        StoreError: If its run is not finished.
    """
    jobs: list[Path | None] = [*sweep_jobs(config)]
    subjects = [find_subject(config, job) for job in jobs or [None]]
    if not (Path(config.outputs) / "store").is_dir():
        return [PlannedStage(stage, 0, finished=False) for subject in subjects for stage in _suites(config, subject)]
    with open_workspace(config, SpendScope("plan"), calling=False) as ws:
        dry = DryRunWorkspace(**{field.name: getattr(ws, field.name) for field in fields(Workspace)})
        planned = []
        for subject in subjects:
            dry.finished.clear()
            for suite in config.evals.suites:
                with suppress(NotInStore, EvaluationError, ConfigError):
                    SUITES[suite](dry, subject)
            planned += [
                PlannedStage(stage, 0, finished=stage.stage in dry.finished) for stage in _suites(config, subject)
            ]
        return planned


def _suites(config: Config, subject: EvaluatedModel) -> list[StageEstimate]:
    """Estimate the suites of a model; a student of a run writes responses as long as those it has learnt."""
    response, manifest = RESPONSE_TOKENS, subject.manifest
    if manifest is not None and subject.run is not None:
        store = Store((subject.run / manifest.store).resolve())
        seeds = next((entry for entry in manifest.artifacts if entry.stage == "seeds"), None)
        if seeds is not None and store.has(seeds.stage, seeds.key):
            response = seed_statistics(store.open(seeds.stage, seeds.key).rows(Example)).response
        response *= REFINED_LENGTH_RATIO if manifest.alphas else 1.0
    return list(estimate_suites(replace(config, student=subject.student), response, None, repr(subject.identity)))


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


def _find_finished(ws: DryRunWorkspace) -> Mapping[str, Artifact]:
    """Return the finished artifacts of a run, as far as a dry run gets.

    The dry run ends at the first stage that is missing. The stages that need only the seeds are tried on their own,
    since an interrupted run may have them out of order.
    """
    # A suite whose files are missing is reported on its own.
    with suppress(NotInStore, EvaluationError):
        distill(ws)
    for stage in (data.classify_seeds, data.teacher_responses):
        with suppress(NotInStore):
            stage(ws, data.load_seeds(ws))
    return ws.finished


def _count_cached(ws: Workspace, seeds: Sequence[Example | SeedPair]) -> dict[str, int]:
    """Return the number of cached calls of the stages that ask about the seeds, by stage."""
    # Every n-th seed, since a look-up of all takes long for a large pool.
    drawn = seeds if len(seeds) <= SAMPLE else seeds[:: len(seeds) // SAMPLE]
    sample = [seed if isinstance(seed, Example) else example_of(seed) for seed in drawn]
    requests = [teacher.build_response_request(seed, ws.config.teacher) for seed in sample]
    counts = {
        "task_labels": ws.classifier.count_cached(sample),
        "teacher_responses": ws.teacher.count_cached(requests),
    }
    return {stage: count * len(seeds) // len(sample) for stage, count in counts.items()}
