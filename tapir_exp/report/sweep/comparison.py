"""The comparison of a sweep: every job below a directory, grouped by arm or by the setting that varies."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import MANIFEST
from tapir_exp.core.task_types import BOOSTED
from tapir_exp.evals.statistics import Difference, Interval, holm, paired_difference, t_interval
from tapir_exp.report.run_view import CONFIG, METRICS
from tapir_exp.report.sweep.grouping import group, varying
from tapir_exp.report.sweep.jobs import Job, find_jobs
from tapir_exp.report.sweep.missing import Missing, never_started, unfinished
from tapir_exp.report.templates import REPORT

BASELINE = "tapir"
ACCURACY = "benchmark/accuracy"
TASK = "benchmark/task/"
TOKENS = "train/tokens_total"


@dataclass(frozen=True)
class Row:
    """A line of the comparison. Accuracies are shares; `values` and `tokens` are by seed."""

    label: str
    values: Mapping[int, float]
    tokens: Mapping[int, float]
    accuracy: Interval | None
    by_task: Mapping[str, Interval]
    difference: Difference | None
    p_holm: float | None
    finished: int
    jobs: int


@dataclass(frozen=True)
class Shared:
    """How many different artifacts of one name the jobs have between them."""

    name: str
    distinct: int
    jobs: int


@dataclass(frozen=True)
class Sweep:
    """All that is known of a sweep. subject: the heading of the first column, an arm or the setting's key."""

    path: Path
    subject: str
    groups: Mapping[str, Sequence[Job]]
    rows: Sequence[Row]
    missing: Sequence[Missing]

    @cached_property
    def jobs(self) -> list[Job]:
        """Every job that was found, the finished ones and the others."""
        return [job for jobs in self.groups.values() for job in jobs]

    @property
    def arms(self) -> dict[str, Sequence[Job]]:
        """The jobs of every row, in the order of the rows."""
        return {row.label: self.groups[row.label] for row in self.rows}

    @property
    def tasks(self) -> list[str]:
        """The boosted task types that any row has."""
        return [task for task in BOOSTED if any(task in row.by_task for row in self.rows)]

    @property
    def compared(self) -> bool:
        """Whether there is an arm to compare with."""
        return any(row.difference is not None for row in self.rows)

    @property
    def tokens(self) -> list[float]:
        """Training tokens of every finished job."""
        return [tokens for row in self.rows for tokens in row.tokens.values()]

    @property
    def reused(self) -> list[Shared]:
        """The artifacts that several jobs have in common."""
        return [row for row in self.shared if row.distinct < row.jobs]

    @property
    def shared(self) -> list[Shared]:
        """Distinct artifacts by name, in the order of a run, over the jobs that have one of that name."""
        keys: defaultdict[str, list[str]] = defaultdict(list)
        for entry in (e for job in self.jobs if job.manifest for e in job.manifest.artifacts):
            keys[entry.name].append(entry.key)
        return [Shared(name, len(set(found)), len(found)) for name, found in keys.items()]

    def reports(self) -> list[tuple[Job, str]]:
        """The finished jobs with their pages, relative to the sweep."""
        done = [job for job in self.jobs if job.finished]
        return [(job, str((job.path / REPORT).relative_to(self.path))) for job in done]


def load_sweep(sweep_dir: Path) -> Sweep:
    """Find the jobs below a directory, group and compare them. Raises StoreError where there is none."""
    jobs = find_jobs(sweep_dir)
    if not jobs:
        raise StoreError(f"{sweep_dir} holds no job: no {MANIFEST}, {METRICS} or {CONFIG} below it.")
    keys = varying(jobs)
    by_arm = len({job.arm for job in jobs}) > 1 or not keys
    groups = group(jobs, keys, by_arm)
    rows = [_row(label, found) for label, found in groups.items()]
    missing = [*unfinished(jobs, sweep_dir), *never_started(groups)]
    subject = " · ".join([*(["arm"] if by_arm else []), *keys])
    return Sweep(sweep_dir, subject, groups, _sorted(_compared(rows), by_arm), missing)


def _row(label: str, jobs: Sequence[Job]) -> Row:
    values = _by_seed(jobs, ACCURACY)
    tasks = {task: _by_seed(jobs, f"{TASK}{task}") for task in BOOSTED}
    return Row(
        label=label,
        values=values,
        tokens=_by_seed(jobs, TOKENS),
        accuracy=interval_of(values.values()),
        by_task={task: t_interval(list(found.values())) for task, found in tasks.items() if found},
        difference=None,
        p_holm=None,
        finished=sum(job.finished for job in jobs),
        jobs=len(jobs),
    )


def _by_seed(jobs: Iterable[Job], name: str) -> dict[int, float]:
    known = ((job.seed, job.figure(name)) for job in jobs)
    return dict(sorted((seed, value) for seed, value in known if seed is not None and value is not None))


def interval_of(values: Iterable[float]) -> Interval | None:
    """The mean of what is known with its 95 % t interval; None where nothing is."""
    known = list(values)
    return t_interval(known) if known else None


def _compared(rows: Sequence[Row]) -> list[Row]:
    """The rows with their paired differences from the baseline over the seeds that both have, Holm-corrected."""
    baseline = next((row for row in rows if row.label == BASELINE), None)
    if baseline is None:
        return list(rows)
    compared = [row if row is baseline else replace(row, difference=_difference(row, baseline)) for row in rows]
    known = {r.label: r.difference.p for r in compared if r.difference and r.difference.p is not None}
    adjusted = holm(known)
    return [replace(row, p_holm=adjusted.get(row.label)) for row in compared]


def _difference(row: Row, baseline: Row) -> Difference | None:
    seeds = [seed for seed in row.values if seed in baseline.values]
    if not seeds:
        return None
    return paired_difference([row.values[s] for s in seeds], [baseline.values[s] for s in seeds])


def _sorted(rows: Sequence[Row], by_arm: bool) -> list[Row]:
    """Arms: the baseline first, then the best; settings: by their value."""
    if not by_arm:
        return sorted(rows, key=lambda row: [_natural(part) for part in row.label.split(" · ")])
    return sorted(
        rows, key=lambda row: (row.label != BASELINE, -(row.accuracy.mean if row.accuracy else -1), row.label)
    )


def _natural(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return math.inf, text
