"""Find the settings that vary in a sweep, and group its jobs by them."""

from collections import defaultdict
from collections.abc import Sequence

from tapir_exp.report.sweep.jobs import Job

NOT_SETTINGS = ("arm", "seed", "name", "outputs", "launcher")
"""Keys that never form groups by themselves: arm and seed have their own place, the others change no result."""


def varying_settings(jobs: Sequence[Job]) -> list[str]:
    """Return the settings that differ between jobs of the same arm and seed, in the order of the configuration.

    A missing setting counts as None. Jobs without a configuration are ignored.
    """
    keys = dict.fromkeys(key for job in jobs for key in job.config if key not in NOT_SETTINGS)
    first_job: dict[tuple[str | None, int | None], Job] = {}
    varying: set[str] = set()
    for job in jobs:
        if not job.config:
            continue
        # Any difference within an arm and seed is a difference from its first job.
        reference = first_job.setdefault((job.arm, job.seed), job)
        varying |= {key for key in keys if job.config.get(key) != reference.config.get(key)}
    return [key for key in keys if key in varying]


def group_jobs(jobs: Sequence[Job], keys: Sequence[str], by_arm: bool) -> dict[str, list[Job]]:
    """Group the jobs by the values of `keys`, and by arm if `by_arm`; the label of a group lists them."""
    groups: defaultdict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        parts = [str(job.arm or "unknown")] if by_arm else []
        parts += [str(job.config.get(key, "unknown")) for key in keys]
        groups[" · ".join(parts)].append(job)
    return dict(groups)
