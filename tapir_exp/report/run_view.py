"""A finished run as the report sees it: read once from the manifest, the store and the metrics; nothing is called."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import (
    BenchmarkResult,
    Example,
    Label,
    Quota,
    Record,
    Response,
    TrainingExample,
    TrainingStep,
    Verdict,
)
from tapir_exp.core.store import Artifact, read_rows
from tapir_exp.core.task_types import BOOSTED, TaskType

CONFIG = "config.yaml"


METRICS = "metrics.jsonl"


TRAINING = "training.jsonl"


Row = TypeVar("Row", bound=Record)


HasId = TypeVar("HasId", Example, Label, Response, Verdict, TrainingExample)


@dataclass(frozen=True)
class RoundView:
    """One student S_r: what it was made from, and how it did.

    alpha: weight of the hard set in its loss; None for S_0.
    mix: the rows it was trained on, by id; empty for S_0, which is trained on the seeds.
    answers, verdicts: of S_r, by row id; empty where S_r was not judged.
    expanded: figures of the expansion stage; empty for S_0.
    """

    number: int
    alpha: float | None
    plan: tuple[Quota, ...]
    expanded: Mapping[str, Any]
    expansions: Mapping[str, TrainingExample]
    mix: Mapping[str, TrainingExample]
    steps: tuple[TrainingStep, ...]
    answers: Mapping[str, Response]
    verdicts: Mapping[str, Verdict]
    benchmark: tuple[BenchmarkResult, ...]

    @cached_property
    def gaps(self) -> tuple[float, ...]:
        """The gaps of the scored rows, in judge points."""
        return tuple(verdict.gap for verdict in self.verdicts.values() if verdict.gap is not None)

    @property
    def unscored(self) -> int:
        """Rows whose verdict could not be read; they count nowhere else."""
        return len(self.verdicts) - len(self.gaps)

    def hard(self, delta: float) -> int:
        """Scored rows with gap > delta."""
        return sum(gap > delta for gap in self.gaps)


@dataclass(frozen=True)
class RunView:
    """Everything that the page tells of a run.

    artifacts: by the name that the manifest gives them, in its order.
    rounds: S_0 first.
    """

    path: Path
    manifest: Manifest
    config: Mapping[str, Any]
    config_text: str
    metrics: tuple[Mapping[str, Any], ...]
    artifacts: Mapping[str, Artifact]
    seeds: Mapping[str, Example]
    labels: Mapping[str, Label]
    responses: Mapping[str, Response]
    rounds: tuple[RoundView, ...]

    @classmethod
    def load(cls, run_dir: Path) -> "RunView":
        """Read a finished run.

        What a plain fit on the seeds lacks may be absent; anything else that is missing raises StoreError.
        """
        manifest = Manifest.load(run_dir)
        shelf = _RunFiles(run_dir, manifest.open(run_dir))
        text = shelf.text(CONFIG)
        metrics = tuple(json.loads(line) for line in shelf.text(METRICS).splitlines())
        last = len(manifest.alphas)
        return cls(
            path=run_dir,
            manifest=manifest,
            config=_plain(text),
            config_text=text,
            metrics=metrics,
            artifacts=shelf.artifacts,
            seeds=_by_id(shelf.rows("seeds", Example)),
            labels=_by_id(shelf.rows("task_labels", Label, needed=last > 0)),
            responses=_by_id(shelf.rows("teacher_responses", Response, needed=last > 0)),
            rounds=tuple(_round(shelf, number, manifest) for number in range(last + 1)),
        )

    def task_of(self, row: str) -> TaskType | None:
        """The task type of a row: its label for a seed, its order for an expansion."""
        if row in self.labels:
            return self.labels[row].task
        return next((r.mix[row].task for r in self.rounds if row in r.mix), None)

    @property
    def tasks(self) -> list[TaskType]:
        """Every task type that occurs among the seeds, a mix, the target or the benchmark; the boosted ones first."""
        seen = {label.task for label in self.labels.values()}
        seen |= {row.task for r in self.rounds for row in r.mix.values()}
        seen |= {result.task for r in self.rounds for result in r.benchmark}
        seen |= {task for task, share in (self.manifest.target or {}).items() if share}
        return [task for task in by_interest(TaskType) if task in seen]


@dataclass(frozen=True)
class _RunFiles:
    """The files of a run directory and the artifacts that its manifest names."""

    run_dir: Path
    artifacts: Mapping[str, Artifact]

    def text(self, name: str) -> str:
        path = self.run_dir / name
        if not path.is_file():
            raise StoreError(f"{self.run_dir} holds no {name}; the same command as before finishes the run.")
        return path.read_text()

    def rows(self, name: str, row_type: type[Row], *, needed: bool = True) -> list[Row]:
        if name in self.artifacts:
            return self.artifacts[name].rows(row_type)
        if needed:
            raise StoreError(f"The manifest of {self.run_dir} names no {name}, which a run of its kind makes.")
        return []

    def steps(self, name: str) -> list[TrainingStep]:
        if name not in self.artifacts:
            raise StoreError(f"The manifest of {self.run_dir} names no {name}, which every run makes.")
        path = self.artifacts[name].path / TRAINING
        return read_rows(path, TrainingStep) if path.is_file() else []


def _round(shelf: _RunFiles, number: int, manifest: Manifest) -> RoundView:
    later, judged = number > 0, number < len(manifest.alphas)
    expansions = f"expansions-{number}"
    return RoundView(
        number=number,
        alpha=manifest.alphas[number - 1] if later else None,
        plan=tuple(shelf.rows(f"plan-{number}", Quota, needed=later)),
        expanded=shelf.artifacts[expansions].figures if expansions in shelf.artifacts else {},
        expansions=_by_id(shelf.rows(expansions, TrainingExample, needed=later)),
        mix=_by_id(shelf.rows(f"train_mix-{number}", TrainingExample, needed=later)),
        steps=tuple(shelf.steps(f"student-{number}")),
        answers=_by_id(shelf.rows(f"student_responses-{number}", Response, needed=judged)),
        verdicts=_by_id(shelf.rows(f"verdicts-{number}", Verdict, needed=judged)),
        benchmark=tuple(shelf.rows(f"benchmark-{number}", BenchmarkResult, needed=_has_benchmark(shelf.artifacts))),
    )


def _has_benchmark(names: Iterable[str]) -> bool:
    return any(name.startswith("benchmark-") for name in names)


def _by_id(rows: Iterable[HasId]) -> dict[str, HasId]:
    return {row.id: row for row in rows}


def _plain(text: str) -> dict[str, Any]:
    plain = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}


def by_interest(tasks: Iterable[TaskType]) -> list[TaskType]:
    """The boosted types first, then the taxonomy's order."""
    order = list(TaskType)
    return sorted(tasks, key=lambda task: (task not in BOOSTED, order.index(task)))


@dataclass(frozen=True)
class Spend:
    """What the calls of one role cost when they were made; usd is None where no call had a price."""

    role: str
    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None


def spend_by_role(artifacts: Iterable[Artifact]) -> list[Spend]:
    """Calls, tokens and cost of each role, summed over the artifacts that a run used, made or found there."""
    rows: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for artifact in artifacts:
        for role, spent in (artifact.figures.get("spend") or {}).items():
            rows[role].append(spent)
    return [_total(role, rows[role]) for role in sorted(rows)]


def _total(role: str, spent: Sequence[Mapping[str, Any]]) -> Spend:
    calls, cached, prompt, completion = (
        sum(int(row.get(name) or 0) for row in spent)
        for name in ("calls", "cached", "prompt_tokens", "completion_tokens")
    )
    prices = [float(row["usd"]) for row in spent if row.get("usd") is not None]
    return Spend(role, calls, cached, prompt, completion, sum(prices) if prices else None)
