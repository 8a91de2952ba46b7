"""List the jobs of a sweep that have no result: unfinished ones, and seeds that were never started."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapir_exp.report.sweep.jobs import Job, seed_label


@dataclass(frozen=True)
class MissingJob:
    """A job without a result.

    Attributes:
        label: Arm or settings, and the seed.
        directory: Directory of the job, relative to the sweep; None if it has none.
        reason: Why there is no result.
    """

    label: str
    directory: str | None
    reason: str


def unfinished_jobs(jobs: Iterable[Job], sweep_dir: Path) -> list[MissingJob]:
    """Return the jobs that have a directory but do not count in the comparison."""
    return [
        MissingJob(
            label=f"{job.arm or 'arm unknown'}, {seed_label(job.seed)}",
            directory=str(job.path.relative_to(sweep_dir)),
            reason=job.problem,
        )
        for job in jobs
        if job.problem is not None
    ]


def unstarted_jobs(groups: Mapping[str, Sequence[Job]]) -> list[MissingJob]:
    """Return the seeds that a group lacks and another group has."""
    seeds = sorted({job.seed for jobs in groups.values() for job in jobs if job.seed is not None})
    return [
        MissingJob(f"{label}, {seed_label(seed)}", None, "not started; other rows have this seed")
        for label, jobs in groups.items()
        for seed in seeds
        if seed not in {job.seed for job in jobs}
    ]
