"""What the store has of a run already: finished stages and cached calls. Nothing is made, and no model is called."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from math import sqrt
from pathlib import Path
from typing import Any

from tapir_exp.config import Config, Difficulty
from tapir_exp.core.errors import EvaluationError
from tapir_exp.core.evaluation_manifest import SUITE_STAGE
from tapir_exp.core.records import Example, Label, Verdict
from tapir_exp.core.store import Artifact
from tapir_exp.data.formats import SeedPair
from tapir_exp.data.seeds import example_of
from tapir_exp.distillation import teacher
from tapir_exp.distillation.curriculum.task_mix import natural_shares
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.pipeline import data
from tapir_exp.pipeline.opening import open_workspace
from tapir_exp.pipeline.round_counts import PoolShape, assumed_pool
from tapir_exp.pipeline.workspace import Recipe, Workspace
from tapir_exp.tapir import distill

SAMPLE = 2000
"""Number of seeds to look up in the cache if there are more. The share of cached calls holds for all seeds then."""


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
class Progress:
    """What the store has of a run.

    Attributes:
        config: The configuration, with the sizes that follow from the seeds.
        seeds: The seeds, as many as the run uses.
        finished: The finished artifacts by name, as far as the dry run gets.
        cached: Number of calls with a cached completion, by stage.
        pool: Task types and hard rows of the seeds; None before the run has judged them.
    """

    config: Config
    seeds: Sequence[Example | SeedPair]
    finished: Mapping[str, Artifact]
    cached: Mapping[str, int]
    pool: PoolShape | None = None


def find_progress(config: Config, read_sized: Callable[[], tuple[Config, Sequence[SeedPair]]]) -> Progress:
    """Return what the store of a configuration has of its run.

    Args:
        config: The configuration of the run; its store exists.
        read_sized: Returns the configuration with its sizes and the seeds; called if the store has no seeds.
    """
    with open_dry(config) as dry:
        finished = _find_finished(dry)
        # A dry run that found the seeds has set the sizes that follow from them.
        sized: tuple[Config, Sequence[Example | SeedPair]]
        sized = (dry.config, finished["seeds"].rows(Example)) if "seeds" in finished else read_sized()
        fitted, seeds = sized
        return Progress(fitted, seeds, finished, _count_cached(dry, seeds), _measure_pool(fitted, finished))


def _measure_pool(config: Config, finished: Mapping[str, Artifact]) -> PoolShape | None:
    """Return the composition of the seeds by their labels and verdicts, as far as they are finished."""
    assumed = assumed_pool(config)
    if "task_labels" not in finished:
        return None
    labels = finished["task_labels"].stored_rows(Label)
    step = max(1, len(labels) // SAMPLE)
    tasks = natural_shares(task for label in labels[::step] if (task := label.task) is not None)
    verdicts = finished.get("verdicts-0")
    if not tasks or verdicts is None or config.curriculum.difficulty not in (Difficulty.mfd, Difficulty.random):
        return PoolShape(tasks or assumed.tasks, assumed.hard)
    rows = verdicts.stored_rows(Verdict)
    gaps = [gap for verdict in rows[::step] if (gap := verdict.gap) is not None]
    hard = sum(gap > config.curriculum.delta for gap in gaps)
    return PoolShape(tasks, hard / len(gaps) if gaps else assumed.hard)


@contextmanager
def open_dry(config: Config) -> Iterator[DryRunWorkspace]:
    """Open a workspace that makes nothing."""
    with open_workspace(config, SpendScope("plan"), calling=False) as ws:
        yield DryRunWorkspace(**{field.name: getattr(ws, field.name) for field in fields(Workspace)})


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
    """Return the number of cached calls of the stages with requests about the seeds, by stage."""
    # Every n-th seed, since a look-up of all takes long for a large pool.
    drawn = seeds if len(seeds) <= SAMPLE else seeds[:: len(seeds) // SAMPLE]
    sample = [seed if isinstance(seed, Example) else example_of(seed) for seed in drawn]
    requests = [teacher.build_response_request(seed, ws.config.teacher) for seed in sample]
    counts = {
        "task_labels": ws.classifier.count_cached(sample),
        "teacher_responses": ws.teacher.count_cached(requests),
    }
    return {stage: surely_cached(count, len(sample), len(seeds)) for stage, count in counts.items()}


def surely_cached(found: int, sampled: int, rows: int) -> int:
    """Return how many of all rows are cached if so many of a sample are: two standard errors fewer than expected."""
    share = found / sampled
    error = 0.0 if sampled == rows else sqrt(share * (1 - share) / sampled)
    return int(rows * max(0.0, share - 2 * error))
