"""What varies in a sweep, and the jobs grouped by it."""

from collections import defaultdict
from collections.abc import Sequence

from tapir_exp.report.sweep.jobs import Job

NOT_SETTINGS = ("arm", "seed", "name", "outputs", "launcher")


def varying(jobs: Sequence[Job]) -> list[str]:
    """The settings that differ between jobs of one arm and one seed."""
    values: defaultdict[tuple[str, object], set[object]] = defaultdict(set)
    keys = [key for key in dict.fromkeys(k for job in jobs for k in job.config) if key not in NOT_SETTINGS]
    for job in (job for job in jobs if job.config):
        for key in keys:
            values[key, (job.arm, job.seed)].add(job.config.get(key))
    return [key for key in keys if any(len(seen) > 1 for (k, _), seen in values.items() if k == key)]


def group(jobs: Sequence[Job], keys: Sequence[str], by_arm: bool) -> dict[str, list[Job]]:
    """The jobs by arm and by the values of `keys`, in words."""
    groups: defaultdict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        settings = [str(job.config.get(key, "unknown")) for key in keys]
        groups[" · ".join([*([str(job.arm or "unknown")] if by_arm else []), *settings])].append(job)
    return dict(groups)
