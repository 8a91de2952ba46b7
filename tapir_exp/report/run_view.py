"""View of a finished run for its report, read from the manifest, the store and the metrics; makes no model call."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

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
from tapir_exp.core.yaml_files import read_yaml

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
TRAINING = "training.jsonl"

Row = TypeVar("Row", bound=Record)
HasId = TypeVar("HasId", Example, Label, Response, Verdict, TrainingExample)


@dataclass(frozen=True)
class RoundView:
    """One student S_r: its training data and its results.

    Attributes:
        number: The round r; 0 for S_0.
        alpha: Weight of the hard set in its loss; None for S_0.
        plan: Quotas of the round; empty for S_0.
        expansion_figures: Figures of the expansion stage; empty for S_0.
        expansions: Rows that the teacher wrote for the round, by id.
        mix: Training rows by id; empty for S_0, which is trained on the seeds.
        steps: Optimizer steps of its training.
        responses: Responses of S_r by row id; empty if S_r was not judged.
        verdicts: Verdicts on S_r by row id; empty if S_r was not judged.
        benchmark: Its results on the lab benchmark; empty if the run has none.
    """

    number: int
    alpha: float | None
    plan: tuple[Quota, ...]
    expansion_figures: Mapping[str, Any]
    expansions: Mapping[str, TrainingExample]
    mix: Mapping[str, TrainingExample]
    steps: tuple[TrainingStep, ...]
    responses: Mapping[str, Response]
    verdicts: Mapping[str, Verdict]
    benchmark: tuple[BenchmarkResult, ...]

    @cached_property
    def gaps(self) -> tuple[float, ...]:
        """Return the gaps of the scored rows, in judge points."""
        return tuple(verdict.gap for verdict in self.verdicts.values() if verdict.gap is not None)

    @property
    def unscored(self) -> int:
        """Count the rows without a readable verdict; no other figure includes them."""
        return len(self.verdicts) - len(self.gaps)

    def hard(self, delta: float) -> int:
        """Count the scored rows with gap > delta."""
        return sum(gap > delta for gap in self.gaps)


@dataclass(frozen=True)
class RunView:
    """Everything that the report shows of a run.

    Attributes:
        path: The run directory.
        manifest: The manifest of the run.
        config: The resolved configuration.
        config_text: The same as YAML.
        metrics: Lines of `metrics.jsonl`, S_0 first.
        artifacts: Artifacts by the name in the manifest, in its order.
        seeds: Seed instructions by id.
        labels: Task labels of the seeds by id; empty for a run without rounds.
        teacher_responses: The teacher's responses to the seeds by id; empty for a run without rounds.
        rounds: The students, S_0 first.
    """

    path: Path
    manifest: Manifest
    config: Mapping[str, Any]
    config_text: str
    metrics: tuple[Mapping[str, Any], ...]
    artifacts: Mapping[str, Artifact]
    seeds: Mapping[str, Example]
    labels: Mapping[str, Label]
    teacher_responses: Mapping[str, Response]
    rounds: tuple[RoundView, ...]

    @classmethod
    def load(cls, run_dir: Path) -> "RunView":
        """Read a finished run.

        Raises:
            StoreError: If a file or an artifact is missing. A run without rounds may lack what only rounds make.
        """
        manifest = Manifest.load(run_dir)
        files = _RunFiles(run_dir, manifest.open(run_dir))
        config_text = files.text(CONFIG)
        last = len(manifest.alphas)
        return cls(
            path=run_dir,
            manifest=manifest,
            config=_read_config(run_dir / CONFIG),
            config_text=config_text,
            metrics=tuple(json.loads(line) for line in files.text(METRICS).splitlines()),
            artifacts=files.artifacts,
            seeds=_by_id(files.rows("seeds", Example)),
            labels=_by_id(files.rows("task_labels", Label, required=last > 0)),
            teacher_responses=_by_id(files.rows("teacher_responses", Response, required=last > 0)),
            rounds=tuple(_load_round(files, number, manifest) for number in range(last + 1)),
        )

    def task_of(self, row_id: str) -> TaskType | None:
        """Return the task type of a row: the label of a seed, the requested type of an expansion."""
        if row_id in self.labels:
            return self.labels[row_id].task
        return next((r.mix[row_id].task for r in self.rounds if row_id in r.mix), None)

    @property
    def tasks(self) -> list[TaskType]:
        """List the task types of the seeds, the mixes, the target and the benchmark, boosted types first."""
        present = {label.task for label in self.labels.values()}
        present |= {row.task for r in self.rounds for row in r.mix.values()}
        present |= {result.task for r in self.rounds for result in r.benchmark}
        present |= {task for task, share in (self.manifest.target or {}).items() if share}
        return [task for task in boosted_first(TaskType) if task in present]


@dataclass(frozen=True)
class _RunFiles:
    """The files of a run directory and the artifacts of its manifest."""

    run_dir: Path
    artifacts: Mapping[str, Artifact]

    def text(self, name: str) -> str:
        path = self.run_dir / name
        if not path.is_file():
            raise StoreError(
                f"{self.run_dir} has no {name}: the run has not finished. Repeat its command to resume it."
            )
        return path.read_text()

    def rows(self, name: str, row_type: type[Row], *, required: bool = True) -> list[Row]:
        if name in self.artifacts:
            return self.artifacts[name].rows(row_type)
        if required:
            raise self._missing(name)
        return []

    def steps(self, name: str) -> list[TrainingStep]:
        if name not in self.artifacts:
            raise self._missing(name)
        # A budget that allows no step leaves no file.
        path = self.artifacts[name].path / TRAINING
        return read_rows(path, TrainingStep) if path.is_file() else []

    def _missing(self, name: str) -> StoreError:
        return StoreError(
            f"The manifest of {self.run_dir} has no artifact {name!r}, which the report needs. "
            "It may come from another version of tapir_exp. Repeat the command of the run to rebuild it."
        )


def _load_round(files: _RunFiles, number: int, manifest: Manifest) -> RoundView:
    # S_0 has no plan, expansions or mix; the last student is not judged, because no round follows.
    has_mix, last = number > 0, number == len(manifest.alphas)
    # With `curriculum.gap_rows=fresh`, the student is judged on the new rows of the next round instead.
    judged = not last and (number == 0 or f"fresh_verdicts-{number + 1}" not in files.artifacts)
    has_benchmark = any(name.startswith("benchmark-") for name in files.artifacts)
    expansions = f"expansions-{number}"
    return RoundView(
        number=number,
        alpha=manifest.alphas[number - 1] if has_mix else None,
        plan=tuple(files.rows(f"plan-{number}", Quota, required=has_mix)),
        expansion_figures=files.artifacts[expansions].figures if expansions in files.artifacts else {},
        expansions=_by_id(files.rows(expansions, TrainingExample, required=has_mix)),
        mix=_by_id(files.rows(f"train_mix-{number}", TrainingExample, required=has_mix)),
        steps=tuple(files.steps(f"student-{number}")),
        responses=_by_id(files.rows(f"student_responses-{number}", Response, required=judged)),
        verdicts=_by_id(files.rows(f"verdicts-{number}", Verdict, required=judged)),
        benchmark=tuple(files.rows(f"benchmark-{number}", BenchmarkResult, required=has_benchmark)),
    )


def _by_id(rows: Iterable[HasId]) -> dict[str, HasId]:
    return {row.id: row for row in rows}


def _read_config(path: Path) -> dict[str, Any]:
    # The file is already resolved; a text that looks like an interpolation must stay as it is.
    config = read_yaml(path)
    return {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}


def boosted_first(tasks: Iterable[TaskType]) -> list[TaskType]:
    """Sort task types: the boosted ones first, then in the order of the taxonomy."""
    order = list(TaskType)
    return sorted(tasks, key=lambda task: (task not in BOOSTED, order.index(task)))


@dataclass(frozen=True)
class Spend:
    """Cost of the calls of one role at the time they were made; usd is None if no call had a known price."""

    role: str
    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None


def spend_by_role(artifacts: Iterable[Artifact]) -> list[Spend]:
    """Sum calls, tokens and cost of each role over the artifacts of a run, reused ones included."""
    spends: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    # A reused artifact counts too: its calls were paid for, if by an earlier run.
    for artifact in artifacts:
        for role, spend in (artifact.figures.get("spend") or {}).items():
            spends[role].append(spend)
    return [_total(role, spends[role]) for role in sorted(spends)]


def _total(role: str, spends: Sequence[Mapping[str, Any]]) -> Spend:
    calls, cached, prompt, completion = (
        sum(int(spend.get(name) or 0) for spend in spends)
        for name in ("calls", "cached", "prompt_tokens", "completion_tokens")
    )
    # An unknown price is not zero: without any known price, the sum is unknown.
    prices = [float(spend["usd"]) for spend in spends if spend.get("usd") is not None]
    return Spend(role, calls, cached, prompt, completion, sum(prices) if prices else None)
