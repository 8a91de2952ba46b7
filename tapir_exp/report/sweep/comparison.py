"""Compare the jobs below a directory, grouped by arm or by the settings that vary."""

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
from tapir_exp.report.sweep.grouping import find_baseline, find_columns, group_jobs, settings_of
from tapir_exp.report.sweep.jobs import Job, find_jobs
from tapir_exp.report.sweep.missing_jobs import MissingJob, unfinished_jobs, unstarted_jobs
from tapir_exp.report.sweep.plan_file import SweepPlan
from tapir_exp.report.templates import REPORT

BASELINE = "tapir"
"""Arm that the other arms of a sweep are compared with."""
ACCURACY = "benchmark/accuracy"
TASK_PREFIX = "benchmark/task/"
TOKENS = "train/tokens_total"


@dataclass(frozen=True)
class ComparisonRow:
    """One arm or one combination of settings. Accuracies are shares.

    Attributes:
        label: Arm or settings.
        accuracy_by_seed: Macro accuracy of the last student by training seed.
        tokens: Training tokens by training seed.
        accuracy: Mean over the seeds with its 95 % t interval; None without a finished job.
        by_task: The same for each boosted task type that has problems.
        difference: Paired difference from the baseline; None for the baseline and without common seeds.
        p_holm: p-value of the difference, Holm-corrected over the rows.
        finished: Number of finished jobs.
        jobs: Number of jobs.
    """

    label: str
    accuracy_by_seed: Mapping[int, float]
    tokens: Mapping[int, float]
    accuracy: Interval | None
    by_task: Mapping[str, Interval]
    difference: Difference | None
    p_holm: float | None
    finished: int
    jobs: int


@dataclass(frozen=True)
class ArtifactCount:
    """Number of distinct artifacts of one name, and of the jobs that have one."""

    name: str
    distinct: int
    jobs: int


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep and their comparison.

    Attributes:
        path: Directory of the sweep.
        columns: "arm", the keys of the settings that differ, or both.
        settings: Values of the columns, by the label of their row.
        baseline: Label of the row that the others are compared with; None if there is none.
        groups: Jobs by the label of their row.
        rows: Rows of the comparison, sorted.
        missing: Jobs without a result.
        planned: Number of jobs, with those that have not been started.
    """

    path: Path
    columns: Sequence[str]
    settings: Mapping[str, Sequence[str]]
    baseline: str | None
    groups: Mapping[str, Sequence[Job]]
    rows: Sequence[ComparisonRow]
    missing: Sequence[MissingJob]
    planned: int

    @property
    def subject(self) -> str:
        """Return the heading of the first column: "arm", the keys of the settings, or both."""
        return " · ".join(self.columns)

    @property
    def marked(self) -> ComparisonRow:
        """Return the row whose mean the plot marks: the baseline, or the first one."""
        return next((row for row in self.rows if row.label == self.baseline), self.rows[0])

    @cached_property
    def jobs(self) -> list[Job]:
        """Return all jobs, finished or not."""
        return [job for jobs in self.groups.values() for job in jobs]

    @property
    def finished(self) -> int:
        """Return the number of finished jobs."""
        return sum(job.finished for job in self.jobs)

    @property
    def arms(self) -> dict[str, Sequence[Job]]:
        """Return the jobs by row, in the order of the rows."""
        return {row.label: self.groups[row.label] for row in self.rows}

    @property
    def tasks(self) -> list[str]:
        """Return the boosted task types that occur in any row."""
        return [task for task in BOOSTED if any(task in row.by_task for row in self.rows)]

    @property
    def has_differences(self) -> bool:
        """Return True if any row is compared with the baseline."""
        return any(row.difference is not None for row in self.rows)

    @property
    def tokens(self) -> list[float]:
        """Return the training tokens of each finished job."""
        return [tokens for row in self.rows for tokens in row.tokens.values()]

    @property
    def shared_artifacts(self) -> list[ArtifactCount]:
        """Return the counts of the artifacts that several jobs share."""
        return [count for count in self.artifact_counts if count.distinct < count.jobs]

    @property
    def artifact_counts(self) -> list[ArtifactCount]:
        """Count the distinct artifacts of each name, in the order of a run."""
        keys: defaultdict[str, list[str]] = defaultdict(list)
        for entry in (e for job in self.jobs if job.manifest for e in job.manifest.artifacts):
            keys[entry.name].append(entry.key)
        return [ArtifactCount(name, len(set(keys[name])), len(keys[name])) for name in keys]

    def report_of(self, job: Job) -> str | None:
        """Return the path of a job's page, relative to the sweep; None if it has none."""
        path = job.path / REPORT
        return str(path.relative_to(self.path)) if path.is_file() or job.finished else None


def load_sweep(sweep_dir: Path) -> Sweep:
    """Find the jobs below a directory, group them and compare the groups.

    Raises:
        StoreError: There is no job below the directory.
    """
    jobs = find_jobs(sweep_dir)
    if not jobs:
        raise StoreError(
            f"{sweep_dir} contains no job: expected directories with {MANIFEST}, {METRICS} or {CONFIG} below it. "
            "Give the directory of a sweep."
        )
    plan = SweepPlan.load(sweep_dir)
    keys = find_columns(jobs, plan.defaults)
    # The arm is a column if it varies, and if nothing else does.
    by_arm = len({job.arm for job in jobs}) > 1 or not keys
    groups = group_jobs(jobs, keys, by_arm, plan.defaults)
    columns = [*(["arm"] if by_arm else []), *keys]
    settings = {label: settings_of(members[0], keys, by_arm, plan.defaults) for label, members in groups.items()}
    # The arm of a sweep over arms is the paper's method, unless the sweep names another one.
    defaults = {**plan.defaults, "arm": BASELINE} if any(job.arm == BASELINE for job in jobs) else plan.defaults
    baseline = find_baseline(settings, columns, defaults, plan.baseline)
    rows = _compare_with_baseline([_row(label, members) for label, members in groups.items()], baseline)
    missing = [*unfinished_jobs(jobs, sweep_dir), *unstarted_jobs(groups)]
    # A sweep that was started again with other jobs keeps those of before.
    planned = max(plan.size, len(jobs))
    return Sweep(sweep_dir, columns, settings, baseline, groups, _sort(rows, by_arm, baseline), missing, planned)


def _row(label: str, jobs: Sequence[Job]) -> ComparisonRow:
    accuracy_by_seed = _by_seed(jobs, ACCURACY)
    tasks = {task: _by_seed(jobs, f"{TASK_PREFIX}{task}") for task in BOOSTED}
    return ComparisonRow(
        label=label,
        accuracy_by_seed=accuracy_by_seed,
        tokens=_by_seed(jobs, TOKENS),
        accuracy=interval_of(accuracy_by_seed.values()),
        by_task={task: found for task, values in tasks.items() if (found := interval_of(values.values()))},
        difference=None,
        p_holm=None,
        finished=sum(job.finished for job in jobs),
        jobs=len(jobs),
    )


def _by_seed(jobs: Iterable[Job], name: str) -> dict[int, float]:
    """Return a final metric of the finished jobs by seed, in the order of the seeds."""
    # Jobs without a benchmark, or with an unreadable seed, cannot be paired.
    pairs = ((job.seed, job.final_metric(name)) for job in jobs)
    return dict(sorted((seed, value) for seed, value in pairs if seed is not None and value is not None))


def interval_of(values: Iterable[float]) -> Interval | None:
    """Return the mean of shares with its 95 % t interval, cut to 0 and 1; None if there is no value."""
    sample = list(values)
    if not sample:
        return None
    interval = t_interval(sample)
    if interval.low is None or interval.high is None:
        return interval
    return replace(interval, low=max(0.0, interval.low), high=min(1.0, interval.high))


def _compare_with_baseline(rows: Sequence[ComparisonRow], label: str | None) -> list[ComparisonRow]:
    """Add to each row its paired difference from the baseline and the Holm-corrected p-value."""
    baseline = next((row for row in rows if row.label == label), None)
    if baseline is None:
        return list(rows)
    compared = [row if row is baseline else replace(row, difference=_difference(row, baseline)) for row in rows]
    p_values = {r.label: r.difference.p for r in compared if r.difference and r.difference.p is not None}
    # With one common seed there is no p-value, so that the row is no part of the correction.
    adjusted = holm(p_values)
    return [replace(row, p_holm=adjusted.get(row.label)) for row in compared]


def _difference(row: ComparisonRow, baseline: ComparisonRow) -> Difference | None:
    """Return the paired difference over the seeds that both rows have."""
    ours, theirs = row.accuracy_by_seed, baseline.accuracy_by_seed
    seeds = [seed for seed in ours if seed in theirs]
    return paired_difference([ours[s] for s in seeds], [theirs[s] for s in seeds]) if seeds else None


def _sort(rows: Sequence[ComparisonRow], by_arm: bool, baseline: str | None) -> list[ComparisonRow]:
    """Sort arms by accuracy with the baseline first, and settings by their values."""
    # Labels are texts, but 10.0 must follow 2.0.
    if not by_arm:
        return sorted(rows, key=lambda row: [_natural_order(part) for part in row.label.split(" · ")])
    return sorted(
        rows, key=lambda row: (row.label != baseline, -(row.accuracy.mean if row.accuracy else -1), row.label)
    )


def _natural_order(text: str) -> tuple[float, str]:
    """Return a sort key that puts numbers in numeric order, before other text."""
    try:
        return float(text), ""
    except ValueError:
        return math.inf, text
