"""Find the jobs of a sweep and read them from their directories, finished or not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tapir_exp.core.errors import StoreError
from tapir_exp.core.events import EVENTS, Outcome, State, outcome_of, read_events
from tapir_exp.core.manifest import MANIFEST, Manifest
from tapir_exp.core.yaml_files import read_yaml
from tapir_exp.report.run_view import CONFIG, METRICS
from tapir_exp.report.sweep.plan_file import is_ignored, split_override

HYDRA, OVERRIDES = ".hydra", "overrides.yaml"


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        path: Directory of the job.
        config: Settings by dotted key; empty if the job has no configuration file.
        manifest: Manifest of the run; None if it is missing or unreadable.
        rounds: Records of `metrics.jsonl`, S_0 first.
        problem: Reason why the job is not finished; None if it is.
        overrides: What was typed for the job, or in the sweep's file, by key.
        outcome: State, time and spend by its events.
    """

    path: Path
    config: Mapping[str, Any]
    manifest: Manifest | None
    rounds: Sequence[Mapping[str, Any]]
    problem: str | None
    overrides: Mapping[str, str] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def state(self) -> str:
        """Return the state by the last event; jobs of earlier versions have no events."""
        known = self.outcome.state is not State.WAITING
        return str(self.outcome.state if known else State.FINISHED if self.finished else State.STOPPED)

    def setting(self, key: str, defaults: Mapping[str, str]) -> str:
        """Return the value of a key, or the choice of a group.

        Args:
            key: Dotted key or group.
            defaults: Values and choices that hold without an override.
        """
        if key in self.config:
            return str(self.config[key])
        return self.overrides.get(key, defaults.get(key, "unknown"))

    @property
    def arm(self) -> str | None:
        """Return the variant of the method."""
        return self.manifest.arm if self.manifest else self.config.get("arm")

    @property
    def seed(self) -> int | None:
        """Return the training seed."""
        return self.manifest.seed if self.manifest else self.config.get("seed")

    @property
    def finished(self) -> bool:
        """Return True if the job's metrics count in the comparison."""
        return self.problem is None

    def final_metric(self, name: str) -> float | None:
        """Return a metric of the last student; None if the job is not finished or lacks the metric."""
        return self.metric(len(self.rounds) - 1, name)

    def metric(self, student: int, name: str) -> float | None:
        """Return a metric of S_student; None if the job is not finished or lacks the metric."""
        if not self.finished or not 0 <= student < len(self.rounds):
            return None
        value = self.rounds[student].get(name)
        return None if value is None else float(value)


def find_jobs(directory: Path) -> list[Job]:
    """Read every job below a directory, in the order of their paths."""
    return [_load_job(path) for path in find_job_dirs(directory)]


def seed_label(seed: int | None) -> str:
    """Return a seed in words."""
    return "seed unknown" if seed is None else f"seed {seed}"


def is_job_dir(directory: Path) -> bool:
    """Return whether a directory belongs to one run: it has a file that every run writes."""
    return any((directory / name).exists() for name in (MANIFEST, METRICS, CONFIG, HYDRA))


def find_job_dirs(directory: Path) -> list[Path]:
    """Return the topmost job directories; directories inside a job are not searched."""
    jobs = []
    for child in sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")):
        # Tools such as W&B write files called config.yaml inside a job: stop at the first level that is one.
        jobs += [child] if is_job_dir(child) else find_job_dirs(child)
    return jobs


def _load_job(path: Path) -> Job:
    manifest, problem = _load_manifest(path)
    rounds = _load_metrics(path)
    last_round = rounds[-1].get("round") if rounds else None
    planned = len(manifest.alphas) if manifest else None
    # A manifest alone does not prove a complete run: the metrics must end with its last round.
    if problem is None and not rounds:
        problem = f"no {METRICS}"
    elif problem is None and last_round != planned:
        problem = f"stopped after round {last_round} of {planned}"
    elif problem is not None and rounds:
        problem += f"; its metrics end with round {last_round}"
    outcome = outcome_of(read_events(path / EVENTS))
    if problem is not None and outcome.reason:
        problem = f"failed: {outcome.reason}"
    if problem is not None and outcome.state is State.PRUNED:
        problem = f"pruned after round {last_round}, with {outcome.figure} {outcome.value}"
    return Job(path, _load_config(path), manifest, rounds, problem, _load_overrides(path), outcome)


def _load_overrides(path: Path) -> dict[str, str]:
    """Read the overrides of a job that Hydra saved, without those that change no result."""
    file = path / HYDRA / OVERRIDES
    lines = read_yaml(file) if file.is_file() else None
    texts = [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []
    return dict(split_override(line) for line in texts if not is_ignored(line))


def _load_manifest(path: Path) -> tuple[Manifest | None, str | None]:
    """Return the manifest, or None and the problem."""
    if not (path / MANIFEST).is_file():
        return None, f"no {MANIFEST}: not finished"
    try:
        return Manifest.load(path), None
    except StoreError as error:  # damaged, or written by another version
        return None, str(error)


def _load_metrics(path: Path) -> list[Mapping[str, Any]]:
    """Read the metrics up to the first line that is not JSON; a killed job may leave a partial last line."""
    records = []
    for line in (path / METRICS).read_text().splitlines() if (path / METRICS).is_file() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _load_config(path: Path) -> dict[str, Any]:
    """Read the settings by dotted key from the run's configuration or, if it has none, from Hydra's."""
    for file in (path / CONFIG, path / HYDRA / CONFIG):
        if file.is_file():
            # Interpolations stay as text: a resolver may need the environment of the machine that ran the job.
            return _flatten(read_yaml(file))
    return {}


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves by dotted key; a list becomes JSON text, which can be hashed and compared."""
    if not isinstance(node, Mapping):
        return {prefix: json.dumps(node) if isinstance(node, list) else node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
