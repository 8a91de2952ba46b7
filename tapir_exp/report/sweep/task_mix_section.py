"""Task mix by arm: the mean mix that its rounds were trained on, vs. the target."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tapir_exp.core.task_types import TaskType
from tapir_exp.report.run_view import boosted_first
from tapir_exp.report.sweep.jobs import Job
from tapir_exp.report.templates import RARE

MIX_PREFIX = "mix/task/"
Shares = Mapping[str, float]
"""Shares by task type or by column; they sum to 1."""


@dataclass(frozen=True)
class ArmMix:
    """Mean share of each column in the training mixes of an arm, over rounds and seeds."""

    label: str
    shares: Shares


@dataclass(frozen=True)
class TargetMix:
    """A target mix and the arms that had it."""

    target: Shares
    arms: tuple[ArmMix, ...]


@dataclass(frozen=True)
class TaskMix:
    """Training mixes of all arms, grouped by target.

    Attributes:
        columns: Task types; the last column may sum up rare ones.
        targets: Distinct targets with their arms.
        skipped: Reason by arm, for the arms without a mix.
    """

    columns: tuple[str, ...]
    targets: tuple[TargetMix, ...]
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class _Columns:
    """Task types that have a column each, and rare ones that share the last column."""

    common: tuple[str, ...]
    rare: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.common, f"{len(self.rare)} rare types") if self.rare else self.common

    def fold(self, shares: Shares) -> Shares:
        """Return the shares by column."""
        values = [shares.get(task, 0.0) for task in self.common]
        if self.rare:
            values.append(sum(shares.get(task, 0.0) for task in self.rare))
        return dict(zip(self.names, values, strict=True))


def task_mix(arms: Mapping[str, Sequence[Job]]) -> TaskMix:
    """Average the mixes of the finished jobs of each arm and group the arms by target."""
    mixes = {label: _mixes(jobs) for label, jobs in arms.items()}
    actual = {label: _mean(arm_mixes) for label, arm_mixes in mixes.items() if arm_mixes}
    wanted = {label: _mean(_targets(arms[label])) for label in actual}
    columns = _columns([*wanted.values(), *actual.values()])
    # Arms with the same target share a block of the table, below one line with that target.
    by_target: defaultdict[tuple[tuple[str, float], ...], list[ArmMix]] = defaultdict(list)
    for label, shares in actual.items():
        by_target[tuple(columns.fold(wanted[label]).items())].append(ArmMix(label, columns.fold(shares)))
    targets = tuple(TargetMix(dict(target), tuple(members)) for target, members in by_target.items())
    skipped = {label: _missing_reason(arms[label]) for label in arms if label not in actual}
    return TaskMix(columns.names, targets, skipped)


def _mixes(jobs: Sequence[Job]) -> list[Shares]:
    """Return the training mix of each round of each finished job; S_0 has none."""
    records = (record for job in jobs if job.finished for record in job.rounds[1:])
    mixes = (
        {name.removeprefix(MIX_PREFIX): float(share) for name, share in record.items() if name.startswith(MIX_PREFIX)}
        for record in records
    )
    return [mix for mix in mixes if mix]


def _targets(jobs: Sequence[Job]) -> list[Shares]:
    manifests = [job.manifest for job in jobs if job.finished and job.manifest]
    return [{str(task): share for task, share in m.target.items()} for m in manifests if m.target]


def _mean(mixes: Sequence[Shares]) -> Shares:
    """Return the mean share of each task type; a type that a mix lacks counts as 0 there."""
    tasks = dict.fromkeys(task for shares in mixes for task in shares)
    # Rounded, so that arms with the same target are grouped together even if their means differ in the last bit.
    return {task: round(fmean(shares.get(task, 0.0) for shares in mixes), 9) for task in tasks}


def _columns(mixes: Iterable[Shares]) -> _Columns:
    """Return columns for the task types that occur; those that are rare in every mix share one, if several are."""
    largest: defaultdict[str, float] = defaultdict(float)
    for shares in mixes:
        for task, share in shares.items():
            largest[task] = max(largest[task], share)
    tasks: list[str] = [str(task) for task in boosted_first(TaskType) if largest.get(task)]
    # Names that are no task type, such as None of rows without one, come last.
    tasks += sorted(task for task in largest if task not in tasks and largest[task])
    rare = [task for task in tasks if largest[task] < RARE]
    # A single rare type takes no more room under its name than as "1 rare types".
    if len(rare) < 2:
        return _Columns(tuple(tasks), ())
    return _Columns(tuple(task for task in tasks if task not in rare), tuple(rare))


def _missing_reason(jobs: Sequence[Job]) -> str:
    finished = [job for job in jobs if job.finished]
    if not finished:
        return "no finished job"
    if all(len(job.rounds) == 1 for job in finished):
        return "no rounds: trained on the seed data only"
    return "no mix in its metrics"
