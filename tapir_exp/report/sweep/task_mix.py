"""The task mix by arm: what its rounds were trained on, beside what was wanted."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tapir_exp.report.page import RARE
from tapir_exp.report.sweep.jobs import Job
from tapir_exp.report.view import by_interest
from tapir_exp.taxonomy import TaskType

MIX = "mix/task/"
Shares = Mapping[str, float]


@dataclass(frozen=True)
class ArmMix:
    """Mean share of each column in the mixes of an arm, over rounds and seeds."""

    label: str
    shares: Shares


@dataclass(frozen=True)
class Aim:
    """A target and the arms that had it."""

    target: Shares
    arms: tuple[ArmMix, ...]


@dataclass(frozen=True)
class TaskMix:
    """columns: task types, the rare ones together as the last; without: arms that have no mix, and why."""

    columns: tuple[str, ...]
    aims: tuple[Aim, ...]
    without: Mapping[str, str]


def task_mix(arms: Mapping[str, Sequence[Job]]) -> TaskMix:
    """The mixes of the finished jobs."""
    mixes = {label: _mixes(jobs) for label, jobs in arms.items()}
    wanted = {label: _mean(_targets(arms[label])) for label, found in mixes.items() if found}
    trained = {label: _mean(found) for label, found in mixes.items() if found}
    common, rare = _columns([*wanted.values(), *trained.values()])
    aims: defaultdict[tuple[tuple[str, float], ...], list[ArmMix]] = defaultdict(list)
    for label, shares in trained.items():
        aims[tuple(_fold(wanted[label], common, rare).items())].append(ArmMix(label, _fold(shares, common, rare)))
    columns = (*common, *([_together(rare)] if rare else []))
    without = {label: _why(arms[label]) for label, found in mixes.items() if not found}
    return TaskMix(columns, tuple(Aim(dict(target), tuple(found)) for target, found in aims.items()), without)


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


def _columns(found: Iterable[Shares]) -> tuple[list[str], list[str]]:
    """The task types that any arm wants or has; those that are rare everywhere are apart, if there are several."""
    most: defaultdict[str, float] = defaultdict(float)
    for shares in found:
        for task, share in shares.items():
            most[task] = max(most[task], share)
    known: list[str] = [str(task) for task in by_interest(TaskType) if most.get(task)]
    known += sorted(task for task in most if task not in known and most[task])
    rare = [task for task in known if most[task] < RARE]
    return ([task for task in known if task not in rare], rare) if len(rare) > 1 else (known, [])


def _fold(shares: Shares, common: Sequence[str], rare: Sequence[str]) -> dict[str, float]:
    folded = {task: shares.get(task, 0.0) for task in common}
    return folded | ({_together(rare): sum(shares.get(task, 0.0) for task in rare)} if rare else {})


def _together(rare: Sequence[str]) -> str:
    return f"{len(rare)} rare types"


def _why(jobs: Sequence[Job]) -> str:
    done = [job for job in jobs if job.finished]
    if not done:
        return "no finished job"
    if all(len(job.rounds) == 1 for job in done):
        return "no rounds: trained on the seeds as they come"
    return "its metrics tell of no mix"
