"""Side by side: the same problem to every arm, chosen by rule, right and wrong in words."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.page import render_page
from tapir_exp.report.sweep.samples_section import SideBySide, side_by_side

MakeRun = Callable[..., Path]


def beside(sweep_dir: Path) -> SideBySide:
    return side_by_side(load_sweep(sweep_dir).arms)


def benchmark(sweep_dir: Path, arm: str, number: int = 3, seed: int = 1) -> Path:
    """Where the results of a student lie."""
    job = sweep_dir / f"arm-{arm}_seed-{seed}"
    entries = json.loads((job / "manifest.json").read_text())["artifacts"]
    key = next(entry["key"] for entry in entries if entry["name"] == f"benchmark-{number}")
    return sweep_dir.parent / "store" / "benchmark" / key / "rows.jsonl"


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))


def answered(right: set[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Exactly these problems solved."""
    return lambda row: {**row, "exact": row["instruction"] in right, "response": f"says {row['instruction']}"}


def test_the_first_problem_on_which_the_arms_differ_is_shown(ablation: Path) -> None:
    rewrite(benchmark(ablation, "tapir"), answered({"Math 1 0", "Math 1 4", "Math 2 3"}))
    rewrite(benchmark(ablation, "natural_mix"), answered({"Math 1 0", "Math 2 3"}))
    rewrite(benchmark(ablation, "fixed_alpha"), answered({"Math 1 0"}))
    math = next(c for c in beside(ablation).problems if c.problem.task is TaskType.MATH)
    assert math.problem.instruction == "Math 1 4"
    assert math.differ
    assert {arm: result.exact for arm, result in math.results.items()} == {
        "tapir": True, "natural_mix": False, "fixed_alpha": False,
    }  # fmt: skip
    assert next(iter(math.results)) == "tapir"


def test_where_arms_never_differ_the_first_problem_is_shown_and_that_is_said(ablation: Path) -> None:
    for arm in ("tapir", "natural_mix", "fixed_alpha"):
        rewrite(benchmark(ablation, arm), answered(set()))
    found = beside(ablation)
    assert [c.problem.instruction for c in found.problems] == [f"{task} 1 0" for task in BOOSTED]
    assert not any(c.differ for c in found.problems)
    page = render_page(load_sweep(ablation))
    assert page.count("On no problem of this type do the arms differ.") == len(BOOSTED)
    assert page.count("✗ wrong") == 3 * len(BOOSTED)
    assert "✓ right" not in page


def test_the_last_student_of_the_first_finished_seed_answers(ablation: Path) -> None:
    (ablation / "arm-tapir_seed-1" / "manifest.json").unlink()
    rewrite(benchmark(ablation, "tapir", seed=2), answered({"Math 1 0"}))
    found = beside(ablation)
    assert found.students == {"tapir": "S₃, seed 2", "fixed_alpha": "S₃, seed 1", "natural_mix": "S₃, seed 1"}
    assert found.problems[0].results["tapir"].response.startswith("says ")


def test_only_problems_that_every_arm_had_are_compared(ablation: Path) -> None:
    rewrite(benchmark(ablation, "natural_mix"), lambda row: None if row["instruction"] == "Math 1 0" else row)
    for arm in ("tapir", "natural_mix", "fixed_alpha"):
        rewrite(benchmark(ablation, arm), answered(set()))
    assert beside(ablation).problems[0].problem.instruction == "Math 1 1"


def test_an_arm_that_cannot_be_shown_says_why(fake_run: MakeRun, ablation: Path) -> None:
    fake_run(name="sweep/arm-lion_seed-1", arm="lion", seed=1, size=40, benchmark=False)
    shutil.rmtree(benchmark(ablation, "natural_mix").parent)
    for seed in (1, 2, 3):
        (ablation / f"arm-fixed_alpha_seed-{seed}" / "manifest.json").unlink()
    found = beside(ablation)
    assert found.without == {
        "lion": "seed 1 had no benchmark",
        "natural_mix": "the benchmark of seed 1 is no longer in the store",
        "fixed_alpha": "no finished job",
    }
    assert all(set(c.results) == {"tapir"} for c in found.problems)
    assert "natural_mix: the benchmark of seed 1 is no longer in the store." in render_page(load_sweep(ablation))


def test_an_empty_answer_and_a_nasty_one_are_shown_as_they_are(ablation: Path) -> None:
    rewrite(benchmark(ablation, "tapir"), lambda row: {**row, "response": ""})
    rewrite(benchmark(ablation, "natural_mix"), lambda row: {**row, "response": "<script>1</script>"})
    page = render_page(load_sweep(ablation))
    assert page.count("an empty answer") == len(BOOSTED)
    assert "<script" not in page
    assert "&lt;script&gt;1" in page
