"""Find the settings that differ in a sweep, and group its jobs by them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from tapir_exp.report.sweep.jobs import Job
from tapir_exp.report.sweep.plan_file import is_ignored

NO_DEFAULTS: Mapping[str, str] = {}


def find_columns(jobs: Sequence[Job], defaults: Mapping[str, str] = NO_DEFAULTS) -> list[str]:
    """Return the keys and groups by which the rows of a sweep differ.

    These are the overrides that differ, so that a group is one column with its choices. Settings that differ between
    jobs with equal overrides, arm and seed, because a file has changed, are added by their keys.
    """
    typed = dict.fromkeys(key for job in jobs for key in job.overrides)
    columns = [key for key in typed if len({job.setting(key, defaults) for job in jobs}) > 1]
    return [*columns, *varying_settings(jobs, columns, defaults)]


def varying_settings(
    jobs: Sequence[Job], columns: Iterable[str] = (), defaults: Mapping[str, str] = NO_DEFAULTS
) -> list[str]:
    """Return the settings that differ between jobs of the same arm, seed and columns, in the configuration's order.

    A missing setting counts as None. Jobs without a configuration are ignored.
    """
    columns = tuple(columns)
    keys = dict.fromkeys(key for job in jobs for key in job.config if not is_ignored(key))
    first_job: dict[tuple[object, ...], Job] = {}
    varying: set[str] = set()
    for job in jobs:
        if not job.config:
            continue
        # Any difference within an arm and seed is a difference from its first job.
        values = tuple(job.setting(column, defaults) for column in columns)
        reference = first_job.setdefault((job.arm, job.seed, values), job)
        varying |= {key for key in keys if job.config.get(key) != reference.config.get(key)}
    return [key for key in keys if key in varying]


def group_jobs(
    jobs: Sequence[Job], keys: Sequence[str], by_arm: bool, defaults: Mapping[str, str] = NO_DEFAULTS
) -> dict[str, list[Job]]:
    """Group the jobs by the values of `keys`, and by arm if `by_arm`; the label of a group lists them."""
    groups: defaultdict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[" · ".join(settings_of(job, keys, by_arm, defaults))].append(job)
    return dict(groups)


def settings_of(job: Job, keys: Sequence[str], by_arm: bool, defaults: Mapping[str, str]) -> tuple[str, ...]:
    """Return the arm, if it is a column, and the value of each key."""
    arm = (str(job.arm or "unknown"),) if by_arm else ()
    return (*arm, *(job.setting(key, defaults) for key in keys))


def find_baseline(
    settings: Mapping[str, Sequence[str]],
    columns: Sequence[str],
    defaults: Mapping[str, str],
    chosen: Mapping[str, str] = NO_DEFAULTS,
) -> str | None:
    """Return the label of the row that has the default of each column, or the chosen value; None if no row has them.

    Args:
        settings: Values of each row, by label.
        columns: The column of each value.
        defaults: Values and choices without an override.
        chosen: Settings of `sweep.baseline`.
    """
    wanted = {**defaults, **chosen}
    for label, values in settings.items():
        pairs = zip(columns, values, strict=True)
        if all(column in wanted and is_same(value, wanted[column]) for column, value in pairs):
            return label
    return None


def is_same(first: str, second: str) -> bool:
    """Return whether two values are equal, as numbers if they are numbers: 2 is 2.0, and null is None."""
    one, other = to_number(first), to_number(second)
    if one is not None and other is not None:
        return one == other
    names = {"none": "null", "true": "true", "false": "false"}
    return names.get(first.lower(), first) == names.get(second.lower(), second)


def to_number(text: str) -> float | None:
    """Return a value as a number; None if it is none."""
    try:
        return float(text)
    except ValueError:
        return None
