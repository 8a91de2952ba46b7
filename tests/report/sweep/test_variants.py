"""How a job differs from the baseline of its sweep, by which tables of evaluations tell jobs apart."""

import json
from pathlib import Path

from tapir_exp.report.sweep.plan_file import SweepPlan
from tapir_exp.report.sweep.variants import NO_VARIANT, Variant, Variants


def write_job(sweep: Path, name: str, *overrides: str) -> Path:
    (sweep / name / ".hydra").mkdir(parents=True)
    (sweep / name / ".hydra/overrides.yaml").write_text(json.dumps(overrides))
    return sweep / name


def test_variant_has_what_differs_from_the_baseline(tmp_path: Path) -> None:
    values = [("1", "a"), ("2", "a"), ("2.0", "b")]
    jobs = {
        value: write_job(tmp_path, "-".join(value), f"curriculum.delta={value[0]}", f"student={value[1]}", "seed=1")
        for value in values
    }
    SweepPlan([], {"curriculum.delta": "2", "student": "a"}).write(tmp_path)
    variants = Variants()
    found = [variants.of_run(jobs[value]) for value in values]
    assert [variant.changed for variant in found] == [("curriculum.delta=1",), (), ()]
    assert found[2].shown == ("curriculum.delta=2.0", "student=b")


def test_run_of_no_sweep_has_no_variant(tmp_path: Path) -> None:
    assert Variants().of_run(write_job(tmp_path, "a", "curriculum.delta=1")) == NO_VARIANT == Variant()
