"""`sweep.json`: the jobs that a sweep was started with, and the settings of the row that others are compared with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tapir_exp.core.store import write_text_atomic

PLAN = "sweep.json"
NOT_SETTINGS = (
    *("arm", "seed", "name", "outputs", "launcher", "search", "allow_lab_parts"),
    *("logger", "spend", "sweep", "hydra"),
)
"""Keys and sections that are no columns: arm and seed have their own place, the others change no result."""


@dataclass(frozen=True)
class SweepPlan:
    """The jobs of the last start of a sweep.

    Attributes:
        jobs: Overrides of each job, in the order of the jobs.
        defaults: Value of each varied key, or choice of each varied group, without the sweep's override.
        baseline: Settings of the baseline, as in `sweep.baseline`; empty for the defaults.
        varied: Keys of a search, whose jobs are not all known; empty for a sweep.
        total: Number of jobs that a search runs towards; 0 for a sweep.
    """

    jobs: Sequence[Sequence[str]] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    baseline: Mapping[str, str] = field(default_factory=dict)
    varied: Sequence[str] = ()
    total: int = 0

    @classmethod
    def load(cls, sweep_dir: Path) -> "SweepPlan":
        """Read the plan of a sweep; an empty one if it has none, as a sweep of an earlier version."""
        try:
            content = json.loads((sweep_dir / PLAN).read_text(encoding="utf-8"))
            jobs, varied = [list(job) for job in content["jobs"]], tuple(content.get("varied", ()))
            total = int(content.get("total", 0))
            return cls(jobs, dict(content["defaults"]), dict(content["baseline"]), varied, total)
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, sweep_dir: Path) -> None:
        """Write the plan into the directory of the sweep."""
        write_text_atomic(sweep_dir / PLAN, json.dumps(asdict(self), indent=1) + "\n")

    def label(self, overrides: Sequence[str]) -> str:
        """Return the name of a job in tables: its overrides that not all jobs share."""
        if self.varied:
            shown = [line for line in overrides if split_override(line)[0] in self.varied]
        else:
            shared = set.intersection(*map(set, self.jobs)) if len(self.jobs) > 1 else set()
            shown = [line for line in overrides if line not in shared and not is_ignored(line, also_arm=False)]
        return " ".join(shown) or "the only job"

    @property
    def size(self) -> int:
        """Return the number of jobs that are planned."""
        return max(len(self.jobs), self.total)


def split_override(override: str) -> tuple[str, str]:
    """Return key and value of an override, such as `+teacher=gpt_4o`; a deleted key has the value "removed"."""
    key, _, value = override.lstrip("+").partition("=")
    return (key[1:], "removed") if key.startswith("~") else (key, value.strip("'\""))


def is_ignored(override: str, *, also_arm: bool = True) -> bool:
    """Return whether an override, or a dotted key, is no column; with `also_arm=False`, no part of a job's name."""
    section = split_override(override)[0].partition(".")[0]
    return section in NOT_SETTINGS and (also_arm or section not in ("arm", "seed", "name"))
