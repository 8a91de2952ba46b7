"""Side by side: what the last student of every arm answered to the same held-out problems."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import BenchmarkResult
from tapir_exp.core.store import Store
from tapir_exp.core.task_types import BOOSTED
from tapir_exp.report.sweep.jobs import Job, named
from tapir_exp.report.templates import student_name

Results = Mapping[str, BenchmarkResult]
"""What one student made of the problems, by instruction, in the order of the benchmark."""


@dataclass(frozen=True)
class Compared:
    """A problem and the results by arm; differ: whether some arms have it right and some wrong."""

    problem: BenchmarkResult
    results: Mapping[str, BenchmarkResult]
    differ: bool


@dataclass(frozen=True)
class SideBySide:
    """students: by arm, which student answered; without: the arms that cannot be shown, and why."""

    problems: tuple[Compared, ...]
    students: Mapping[str, str]
    without: Mapping[str, str]


def side_by_side(arms: Mapping[str, Sequence[Job]]) -> SideBySide:
    """One problem of each boosted type: the first on which the arms differ, or the first where they never do.

    Of every arm the last student of its first finished seed is shown; only problems that all of them had count.
    """
    students: dict[str, str] = {}
    answered: dict[str, Results] = {}
    without: dict[str, str] = {}
    for label, jobs in arms.items():
        try:
            students[label], answered[label] = _answered(jobs)
        except StoreError as error:
            without[label] = str(error)
    return SideBySide(tuple(_chosen(answered)), students, without)


def _answered(jobs: Sequence[Job]) -> tuple[str, Results]:
    """Who answered, and what. Raises StoreError with the reason where nobody did."""
    done = [(job, job.manifest) for job in jobs if job.finished and job.manifest]
    if not done:
        raise StoreError("no finished job")
    job, manifest = min(done, key=lambda pair: pair[1].seed)
    rows = _benchmark(job, manifest)
    return f"{student_name(len(manifest.alphas))}, {named(job.seed)}", {row.instruction: row for row in rows}


def _benchmark(job: Job, manifest: Manifest) -> list[BenchmarkResult]:
    name = f"benchmark-{len(manifest.alphas)}"
    entry = next((entry for entry in manifest.artifacts if entry.name == name), None)
    if entry is None:
        raise StoreError(f"{named(job.seed)} had no benchmark")
    try:
        return Store((job.path / manifest.store).resolve()).open(entry.stage, entry.key).rows(BenchmarkResult)
    except StoreError:
        raise StoreError(f"the benchmark of {named(job.seed)} is no longer in the store") from None


def _chosen(answered: Mapping[str, Results]) -> Iterator[Compared]:
    first = next(iter(answered.values()), {})
    common = [row for row in first.values() if all(row.instruction in results for results in answered.values())]
    for task in BOOSTED:
        problems = [_compared(row, answered) for row in common if row.task is task]
        if problems:
            yield next((problem for problem in problems if problem.differ), problems[0])


def _compared(problem: BenchmarkResult, answered: Mapping[str, Results]) -> Compared:
    results = {label: results[problem.instruction] for label, results in answered.items()}
    return Compared(problem, results, len({result.exact for result in results.values()}) > 1)
