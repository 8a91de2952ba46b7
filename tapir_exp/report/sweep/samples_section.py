"""Sample responses: what the last student of each arm answered to the same held-out problems."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import BenchmarkResult
from tapir_exp.core.store import Store
from tapir_exp.core.task_types import BOOSTED
from tapir_exp.report.sweep.jobs import Job, seed_label
from tapir_exp.report.templates import student_name

Results = Mapping[str, BenchmarkResult]
"""Benchmark results of one student by instruction, in the order of the benchmark."""


@dataclass(frozen=True)
class ComparedProblem:
    """A problem with the results of every arm.

    Attributes:
        problem: The problem.
        results: Results by arm.
        arms_differ: True if some arms solved it and some did not.
    """

    problem: BenchmarkResult
    results: Mapping[str, BenchmarkResult]
    arms_differ: bool


@dataclass(frozen=True)
class SampleResponses:
    """Sample problems and responses.

    Attributes:
        problems: At most one problem of each boosted task type.
        students: Name of the student shown, by arm.
        skipped: Reason by arm, for the arms that cannot be shown.
    """

    problems: tuple[ComparedProblem, ...]
    students: Mapping[str, str]
    skipped: Mapping[str, str]


def sample_responses(arms: Mapping[str, Sequence[Job]]) -> SampleResponses:
    """Select one problem of each boosted type: the first on which the arms differ, or the first of all.

    The last student of each arm's first finished seed is shown. Only problems that all of them answered count.
    """
    students: dict[str, str] = {}
    results: dict[str, Results] = {}
    skipped: dict[str, str] = {}
    for label, jobs in arms.items():
        try:
            students[label], results[label] = _last_results(jobs)
        except StoreError as error:
            skipped[label] = str(error)
    return SampleResponses(tuple(_select_problems(results)), students, skipped)


def _last_results(jobs: Sequence[Job]) -> tuple[str, Results]:
    """Return the name and the results of the last student of the first finished seed.

    Raises:
        StoreError: There is no finished job, or its benchmark is missing; the message is the reason.
    """
    finished = [(job, job.manifest) for job in jobs if job.finished and job.manifest]
    if not finished:
        raise StoreError("no finished job")
    # A fixed choice: the sample must not depend on how well a seed did.
    job, manifest = min(finished, key=lambda pair: pair[1].seed)
    rows = _open_benchmark(job, manifest)
    return f"{student_name(len(manifest.alphas))}, {seed_label(job.seed)}", {row.instruction: row for row in rows}


def _open_benchmark(job: Job, manifest: Manifest) -> list[BenchmarkResult]:
    name = f"benchmark-{len(manifest.alphas)}"
    entry = next((entry for entry in manifest.artifacts if entry.name == name), None)
    if entry is None:
        raise StoreError(f"{seed_label(job.seed)} has no benchmark")
    try:
        return Store((job.path / manifest.store).resolve()).open(entry.stage, entry.key).rows(BenchmarkResult)
    except StoreError:
        raise StoreError(f"the benchmark of {seed_label(job.seed)} is no longer in the store") from None


def _select_problems(results: Mapping[str, Results]) -> Iterator[ComparedProblem]:
    """Yield the sample problem of each boosted type that has one."""
    # Arms may have different benchmarks, for example with another number of problems per level.
    first = next(iter(results.values()), {})
    common = [row for row in first.values() if all(row.instruction in by_arm for by_arm in results.values())]
    for task in BOOSTED:
        problems = [_compare(row, results) for row in common if row.task is task]
        if problems:
            yield next((problem for problem in problems if problem.arms_differ), problems[0])


def _compare(problem: BenchmarkResult, results: Mapping[str, Results]) -> ComparedProblem:
    by_arm = {label: rows[problem.instruction] for label, rows in results.items()}
    return ComparedProblem(problem, by_arm, len({result.exact for result in by_arm.values()}) > 1)
