"""Tests of the accuracy by round: means and intervals over seeds, charts, and reasons for missing values."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tapir_exp.evals.statistics import t_interval
from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.formatting import cell_mean
from tapir_exp.report.sweep.page import render_page
from tapir_exp.report.sweep.rounds_section import AccuracyByRound, accuracies_by_round, draw_panels

MakeRun = Callable[..., Path]


def arm_row(sweep_dir: Path, arm: str) -> AccuracyByRound:
    return next(row for row in accuracies_by_round(load_sweep(sweep_dir).arms) if row.label == arm)


@pytest.mark.slow
def test_accuracies_are_means_with_intervals_over_seeds(ablation: Path) -> None:
    lines = [
        [json.loads(line) for line in (ablation / f"arm-tapir_seed-{seed}" / "metrics.jsonl").read_text().splitlines()]
        for seed in (1, 2, 3)
    ]
    expected = [t_interval([job[number]["benchmark/accuracy"] for job in lines]) for number in range(4)]
    assert list(arm_row(ablation, "tapir").accuracies) == expected
    assert accuracies_by_round(load_sweep(ablation).arms)[0].label == "tapir"


def test_unfinished_job_counts_in_no_round(ablation: Path) -> None:
    (ablation / "arm-tapir_seed-3" / "manifest.json").unlink()
    assert [accuracy.n for accuracy in arm_row(ablation, "tapir").accuracies if accuracy] == [2, 2, 2, 2]


def test_arm_with_fewer_rounds_gives_a_reason(fake_run: MakeRun, ablation: Path) -> None:
    fake_run(name="sweep/arm-vanilla_sft_seed-1", arm="vanilla_sft", seed=1, rounds=0, size=40)
    row = arm_row(ablation, "vanilla_sft")
    assert row.accuracies[1:] == (None, None, None)
    assert row.missing_reason == "ends with S₀"
    assert "ends with S₀" in render_page(load_sweep(ablation))


def test_arm_without_job_or_benchmark_gives_a_reason(fake_run: MakeRun, ablation: Path) -> None:
    for seed in (1, 2, 3):
        (ablation / f"arm-tapir_seed-{seed}" / "manifest.json").unlink()
    fake_run(name="sweep/arm-lion_seed-1", arm="lion", seed=1, size=40, benchmark=False)
    assert arm_row(ablation, "tapir").missing_reason == "no finished job"
    assert arm_row(ablation, "lion").missing_reason == "benchmark not run"
    charts = "".join(draw_panels(accuracies_by_round(load_sweep(ablation).arms)))
    assert "natural_mix" in charts
    assert "tapir" not in charts
    assert "lion" not in charts


def test_one_seed_gives_a_dash_and_no_whisker(fake_run: MakeRun) -> None:
    run = fake_run(name="sweep/one", arm="tapir", seed=1, size=40)
    row = arm_row(run.parent, "tapir")
    assert all(cell_mean(accuracy).endswith(" ± –") for accuracy in row.accuracies)
    assert cell_mean(None) == "–"
    assert "whisker" not in draw_panels([row])[0]


def test_panel_clips_intervals_to_0_and_100_per_cent() -> None:
    wide = AccuracyByRound("tapir", (t_interval([0.0, 0.02]), t_interval([0.98, 1.0])), "")
    ends = re.findall(r'y1="([^"]+)" x2="[^"]+" y2="([^"]+)" class="s-warm whisker"', draw_panels([wide])[0])
    bottom, top = 136 - 24, 30
    assert float(ends[0][0]) == bottom
    assert float(ends[1][1]) == top
    assert cell_mean(wide.accuracies[0]) == "1.0 ± 12.7"  # the table is not clipped


def test_panels_show_the_baseline_in_the_background(ablation: Path) -> None:
    first, *others = draw_panels(accuracies_by_round(load_sweep(ablation).arms))
    assert "s-quiet" not in first
    for svg in others:
        assert svg.count("s-quiet stroke") == 1
        assert svg.count("strong") == 1  # only the arm's own line is labelled
    assert "grey: tapir" in render_page(load_sweep(ablation))


def test_panel_description_lists_the_accuracies(ablation: Path) -> None:
    row = arm_row(ablation, "tapir")
    assert f"S₃: {cell_mean(row.accuracies[3])} %" in draw_panels([row])[0]


def test_page_of_a_sweep_without_benchmark_states_it(fake_run: MakeRun) -> None:
    run = fake_run(name="sweep/one", size=40, benchmark=False)
    page = render_page(load_sweep(run.parent))
    assert "No finished job has a benchmark." in page
    assert "No problem of a boosted task type was answered by every arm." in page
    assert "seed 0 has no benchmark" in page


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_page_shows_a_dash_as_interval_of_one_seed(fake_run: MakeRun, seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        run = fake_run(name=f"sweep/{seed}", seed=seed, size=40, settings={"student.seed": seed})
    page = render_page(load_sweep(run.parent))
    assert (" ± –</td>" in page) == (len(seeds) == 1)
