"""The jobs of a sweep, the finished ones and the others, as their directories tell of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import ValidationError

from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import MANIFEST, Manifest
from tapir_exp.report.run_view import CONFIG, METRICS

HYDRA = ".hydra"


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    config: dotted key to value, empty where the job left none. rounds: its lines of metrics, S_0 first.
    problem: why it is not finished; None where it is.
    """

    path: Path
    config: Mapping[str, Any]
    manifest: Manifest | None
    rounds: Sequence[Mapping[str, Any]]
    problem: str | None

    @property
    def arm(self) -> str | None:
        """Which variant of the method it is."""
        return self.manifest.arm if self.manifest else self.config.get("arm")

    @property
    def seed(self) -> int | None:
        """Its training seed."""
        return self.manifest.seed if self.manifest else self.config.get("seed")

    @property
    def finished(self) -> bool:
        """Whether its figures count."""
        return self.problem is None

    def figure(self, name: str) -> float | None:
        """A figure of the last student; None where the job is not finished or has none."""
        return self.figure_of(len(self.rounds) - 1, name)

    def figure_of(self, student: int, name: str) -> float | None:
        """A figure of S_student; None where the job is not finished or has none."""
        known = self.finished and 0 <= student < len(self.rounds)
        value = self.rounds[student].get(name) if known else None
        return None if value is None else float(value)


def find_jobs(directory: Path) -> list[Job]:
    """Every job below a directory."""
    return [_load_job(path) for path in _job_dirs(directory)]


def named(seed: int | None) -> str:
    """A seed in words."""
    return "seed unknown" if seed is None else f"seed {seed}"


def _job_dirs(directory: Path) -> list[Path]:
    """Directories of jobs, the topmost ones: what lies in a job is its own affair."""
    found = []
    for child in sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")):
        found += [child] if _is_job(child) else _job_dirs(child)
    return found


def _is_job(path: Path) -> bool:
    return any((path / name).exists() for name in (MANIFEST, METRICS, CONFIG, HYDRA))


def _load_job(path: Path) -> Job:
    manifest, problem = _manifest(path)
    config = _config(path)
    lines = _metrics(path)
    last: Mapping[str, Any] = lines[-1] if lines else {}
    rounds = len(manifest.alphas) if manifest else None
    if problem is None and not lines:
        problem = f"no {METRICS}"
    elif problem is None and last.get("round") != rounds:
        problem = f"stopped after round {last.get('round')} of {rounds}"
    elif problem is not None and lines:
        problem += f"; its metrics end with round {last.get('round')}"
    return Job(path, config, manifest, lines, problem)


def _manifest(path: Path) -> tuple[Manifest | None, str | None]:
    if not (path / MANIFEST).is_file():
        return None, f"no {MANIFEST}: not finished"
    try:
        return Manifest.load(path), None
    except StoreError as error:  # damaged, or written by another version
        return None, str(error)
    except ValidationError as error:
        return None, f"{MANIFEST} cannot be read: {error.error_count()} mistakes"


def _metrics(path: Path) -> list[Mapping[str, Any]]:
    """The lines of metrics; a last line that a killed job left half written is not one."""
    lines = []
    for line in (path / METRICS).read_text().splitlines() if (path / METRICS).is_file() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _config(path: Path) -> dict[str, Any]:
    """The job's settings by dotted key: its resolved config, or what Hydra wrote down before it began."""
    for file in (path / CONFIG, path / HYDRA / CONFIG):
        if file.is_file():
            return _flat(OmegaConf.to_container(OmegaConf.load(file), resolve=False))
    return {}


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {prefix: json.dumps(node) if isinstance(node, list) else node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
