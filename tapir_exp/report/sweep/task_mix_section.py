"""The task mix by arm: what its rounds were trained on, beside what was wanted."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tapir_exp.core.task_types import TaskType
from tapir_exp.report.run_view import boosted_first
from tapir_exp.report.sweep.jobs import Job
from tapir_exp.report.templates import RARE

MIX = "mix/task/"
Shares = Mapping[str, float]


@dataclass(frozen=True)
class ArmMix:
    """Mean share of each column in the mixes of an arm, over rounds and seeds."""

    label: str
    shares: Shares


@dataclass(frozen=True)
class TargetMix:
    """A target and the arms that had it."""

    target: Shares
    arms: tuple[ArmMix, ...]


@dataclass(frozen=True)
class TaskMix:
    """columns: task types, the rare ones together as the last; without: arms that have no mix, and why."""

    columns: tuple[str, ...]
    aims: tuple[TargetMix, ...]
    without: Mapping[str, str]


@dataclass(frozen=True)
class _Columns:
    """The task types with a column of their own, and those that share one."""

    common: tuple[str, ...]
    rare: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.common, *((f"{len(self.rare)} rare types",) if self.rare else ()))

    def fold(self, shares: Shares) -> Shares:
        """The shares by column."""
        folded = [shares.get(task, 0.0) for task in self.common]
        together = sum(shares.get(task, 0.0) for task in self.rare)
        return dict(zip(self.names, (*folded, *((together,) if self.rare else ())), strict=True))


def task_mix(arms: Mapping[str, Sequence[Job]]) -> TaskMix:
    """The mixes of the finished jobs."""
    mixes = {label: _mixes(jobs) for label, jobs in arms.items()}
    trained = {label: _mean(found) for label, found in mixes.items() if found}
    wanted = {label: _mean(_targets(arms[label])) for label in trained}
    columns = _columns([*wanted.values(), *trained.values()])
    aims: list[TargetMix] = []
    for target in _different(columns.fold(shares) for shares in wanted.values()):
        had = (label for label in trained if columns.fold(wanted[label]) == target)
        aims.append(TargetMix(target, tuple(ArmMix(label, columns.fold(trained[label])) for label in had)))
    without = {label: _why(arms[label]) for label in arms if label not in trained}
    return TaskMix(columns.names, tuple(aims), without)


def _mixes(jobs: Sequence[Job]) -> list[Shares]:
    """The mix of every round of every finished job."""
    lines = (line for job in jobs if job.finished for line in job.rounds[1:])
    mixes = ({k.removeprefix(MIX): float(v) for k, v in line.items() if k.startswith(MIX)} for line in lines)
    return [mix for mix in mixes if mix]


def _targets(jobs: Sequence[Job]) -> list[Shares]:
    manifests = [job.manifest for job in jobs if job.finished and job.manifest]
    return [{str(task): share for task, share in m.target.items()} for m in manifests if m.target]


def _mean(found: Sequence[Shares]) -> Shares:
    tasks = dict.fromkeys(task for shares in found for task in shares)
    return {task: round(fmean(shares.get(task, 0.0) for shares in found), 9) for task in tasks}


def _different(found: Iterable[Shares]) -> list[Shares]:
    """Each once, in their order."""
    return [dict(target) for target in dict.fromkeys(tuple(shares.items()) for shares in found)]


def _columns(found: Iterable[Shares]) -> _Columns:
    """Columns for the task types that any arm wants or has; those that are rare everywhere share one, if several."""
    most: defaultdict[str, float] = defaultdict(float)
    for shares in found:
        for task, share in shares.items():
            most[task] = max(most[task], share)
    known: list[str] = [str(task) for task in boosted_first(TaskType) if most.get(task)]
    known += sorted(task for task in most if task not in known and most[task])
    rare = [task for task in known if most[task] < RARE]
    if len(rare) < 2:
        return _Columns(tuple(known), ())
    return _Columns(tuple(task for task in known if task not in rare), tuple(rare))


def _why(jobs: Sequence[Job]) -> str:
    done = [job for job in jobs if job.finished]
    if not done:
        return "no finished job"
    if all(len(job.rounds) == 1 for job in done):
        return "no rounds: trained on the seeds as they come"
    return "its metrics tell of no mix"
