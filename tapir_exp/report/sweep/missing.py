"""What a sweep lacks: jobs that are not finished, and jobs that never began."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapir_exp.report.sweep.jobs import Job, named


@dataclass(frozen=True)
class Missing:
    """A job without a result: where it is, or would be, and why."""

    where: str
    what: str
    reason: str


def unfinished(jobs: Iterable[Job], sweep_dir: Path) -> list[Missing]:
    """The jobs whose figures do not count, and why."""
    return [
        Missing(str(job.path.relative_to(sweep_dir)), f"{job.arm or 'arm unknown'}, {named(job.seed)}", job.problem)
        for job in jobs
        if job.problem is not None
    ]


def never_started(groups: Mapping[str, Sequence[Job]]) -> list[Missing]:
    """Seeds that other groups have and a group has not."""
    seeds = sorted({job.seed for jobs in groups.values() for job in jobs if job.seed is not None})
    return [
        Missing("nowhere", f"{label}, {named(seed)}", "never started, though other rows have this seed")
        for label, jobs in groups.items()
        for seed in seeds
        if seed not in {job.seed for job in jobs}
    ]
