"""Find how a job differs from the others of its sweep, by which tables of evaluations label it."""

from dataclasses import dataclass
from pathlib import Path

from tapir_exp.report.sweep.grouping import find_columns, is_same
from tapir_exp.report.sweep.jobs import find_jobs
from tapir_exp.report.sweep.plan_file import PLAN, SweepPlan

STUDENT = "student"
"""Group that a published row gives as its model."""


@dataclass(frozen=True)
class Variant:
    """Settings of a job, without its arm and its seed.

    Attributes:
        shown: Every setting that differs within the sweep, such as `curriculum.delta=1`.
        changed: Those that differ from the baseline, without the student, which the base model names.
    """

    shown: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


NO_VARIANT = Variant()


class Variants:
    """Variants of the jobs of sweeps; each sweep is read once."""

    def __init__(self) -> None:
        self._by_sweep: dict[Path, dict[Path, Variant]] = {}

    def of_run(self, run: Path) -> Variant:
        """Return the variant of a run; one without settings if it is no job of a sweep."""
        sweep = run.parent
        if not (sweep / PLAN).is_file():
            return NO_VARIANT
        if sweep not in self._by_sweep:
            self._by_sweep[sweep] = _read_variants(sweep)
        return self._by_sweep[sweep].get(run, NO_VARIANT)


def _read_variants(sweep: Path) -> dict[Path, Variant]:
    plan, jobs = SweepPlan.load(sweep), find_jobs(sweep)
    columns = find_columns(jobs, plan.defaults)
    baseline = {**plan.defaults, **plan.baseline}
    variants = {}
    for job in jobs:
        values = {key: job.setting(key, plan.defaults) for key in columns}
        changed = [
            f"{key}={value}"
            for key, value in values.items()
            if key.partition(".")[0] != STUDENT and not (key in baseline and is_same(value, baseline[key]))
        ]
        variants[job.path.resolve()] = Variant(tuple(f"{key}={value}" for key, value in values.items()), tuple(changed))
    return variants
