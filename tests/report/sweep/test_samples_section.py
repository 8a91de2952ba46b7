"""Tests of the sample responses: how the problems are selected, and how the page shows them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workspaces import record_files

from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.page import render_page
from tapir_exp.report.sweep.samples_section import SampleResponses, sample_responses

MakeRun = Callable[..., Path]


def samples_of(sweep_dir: Path) -> SampleResponses:
    return sample_responses(load_sweep(sweep_dir).arms)


def results_path(sweep_dir: Path, arm: str, number: int = 3, seed: int = 1) -> Path:
    """Return the file with the benchmark results of a student."""
    job = sweep_dir / f"arm-{arm}_seed-{seed}"
    entries = json.loads((job / "manifest.json").read_text())["artifacts"]
    key = next(entry["key"] for entry in entries if entry["name"] == f"benchmark-{number}")
    return sweep_dir.parent / "store" / "benchmark" / key / "rows.jsonl"


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))
    record_files(path.parent)


def solve_only(solved: set[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a change of rows that marks exactly these problems as solved."""
    return lambda row: {**row, "exact": row["instruction"] in solved, "response": f"says {row['instruction']}"}


def test_first_problem_on_which_arms_differ_is_shown(ablation: Path) -> None:
    rewrite(results_path(ablation, "tapir"), solve_only({"Math 1 0", "Math 1 4", "Math 2 3"}))
    rewrite(results_path(ablation, "natural_mix"), solve_only({"Math 1 0", "Math 2 3"}))
    rewrite(results_path(ablation, "fixed_alpha"), solve_only({"Math 1 0"}))
    math = next(c for c in samples_of(ablation).problems if c.problem.task is TaskType.MATH)
    assert math.problem.instruction == "Math 1 4"
    assert math.arms_differ
    assert {arm: result.exact for arm, result in math.results.items()} == {
        "tapir": True, "natural_mix": False, "fixed_alpha": False,
    }  # fmt: skip
    assert next(iter(math.results)) == "tapir"


def test_first_problem_is_shown_if_arms_never_differ(ablation: Path) -> None:
    for arm in ("tapir", "natural_mix", "fixed_alpha"):
        rewrite(results_path(ablation, arm), solve_only(set()))
    samples = samples_of(ablation)
    assert [c.problem.instruction for c in samples.problems] == [f"{task} 1 0" for task in BOOSTED]
    assert not any(c.arms_differ for c in samples.problems)
    page = render_page(load_sweep(ablation))
    assert page.count("The arms differ on no problem of this type.") == len(BOOSTED)
    assert page.count("✗ wrong") == 3 * len(BOOSTED)
    assert "✓ correct" not in page


def test_last_student_of_first_finished_seed_is_shown(ablation: Path) -> None:
    (ablation / "arm-tapir_seed-1" / "manifest.json").unlink()
    rewrite(results_path(ablation, "tapir", seed=2), solve_only({"Math 1 0"}))
    samples = samples_of(ablation)
    assert samples.students == {"tapir": "S₃, seed 2", "fixed_alpha": "S₃, seed 1", "natural_mix": "S₃, seed 1"}
    assert samples.problems[0].results["tapir"].response.startswith("says ")


def test_only_problems_answered_by_all_arms_are_shown(ablation: Path) -> None:
    rewrite(results_path(ablation, "natural_mix"), lambda row: None if row["instruction"] == "Math 1 0" else row)
    for arm in ("tapir", "natural_mix", "fixed_alpha"):
        rewrite(results_path(ablation, arm), solve_only(set()))
    assert samples_of(ablation).problems[0].problem.instruction == "Math 1 1"


def test_arm_that_cannot_be_shown_has_a_reason(fake_run: MakeRun, ablation: Path) -> None:
    fake_run(name="sweep/arm-lion_seed-1", arm="lion", seed=1, size=40, benchmark=False)
    shutil.rmtree(results_path(ablation, "natural_mix").parent)
    for seed in (1, 2, 3):
        (ablation / f"arm-fixed_alpha_seed-{seed}" / "manifest.json").unlink()
    samples = samples_of(ablation)
    assert samples.skipped == {
        "lion": "seed 1 has no benchmark",
        "natural_mix": "the benchmark of seed 1 is no longer in the store",
        "fixed_alpha": "no finished job",
    }
    assert all(set(c.results) == {"tapir"} for c in samples.problems)
    assert "natural_mix: the benchmark of seed 1 is no longer in the store." in render_page(load_sweep(ablation))


def test_empty_and_html_responses_are_shown_as_text(ablation: Path) -> None:
    rewrite(results_path(ablation, "tapir"), lambda row: {**row, "response": ""})
    rewrite(results_path(ablation, "natural_mix"), lambda row: {**row, "response": "<script>1</script>"})
    page = render_page(load_sweep(ablation))
    assert page.count("empty response") == len(BOOSTED)
    assert "<script" not in page
    assert "&lt;script&gt;1" in page
