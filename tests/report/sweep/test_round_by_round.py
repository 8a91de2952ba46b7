"""Round by round: means over the seeds, intervals only where there is one, and reasons for every dash."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tapir_exp.evals.statistics import t_interval
from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.formatting import cell_mean
from tapir_exp.report.sweep.page import render_page
from tapir_exp.report.sweep.rounds_section import AccuracyByRound, accuracies_by_round, panels

MakeRun = Callable[..., Path]


def course(sweep_dir: Path, arm: str) -> AccuracyByRound:
    return next(found for found in accuracies_by_round(load_sweep(sweep_dir).arms) if found.label == arm)


def test_every_student_has_its_mean_and_interval_over_the_seeds(ablation: Path) -> None:
    lines = [
        [json.loads(line) for line in (ablation / f"arm-tapir_seed-{seed}" / "metrics.jsonl").read_text().splitlines()]
        for seed in (1, 2, 3)
    ]
    expected = [t_interval([job[r]["benchmark/accuracy"] for job in lines]) for r in range(4)]
    assert list(course(ablation, "tapir").accuracies) == expected
    assert accuracies_by_round(load_sweep(ablation).arms)[0].label == "tapir"


def test_an_unfinished_job_counts_in_no_round(ablation: Path) -> None:
    (ablation / "arm-tapir_seed-3" / "manifest.json").unlink()
    assert [found.n for found in course(ablation, "tapir").accuracies if found] == [2, 2, 2, 2]


def test_an_arm_that_ends_sooner_says_so(fake_run: MakeRun, ablation: Path) -> None:
    fake_run(name="sweep/arm-vanilla_sft_seed-1", arm="vanilla_sft", seed=1, rounds=0, size=40)
    found = course(ablation, "vanilla_sft")
    assert found.accuracies[1:] == (None, None, None)
    assert found.reason == "ends with S₀"
    assert "ends with S₀" in render_page(load_sweep(ablation))


def test_an_arm_without_a_finished_job_or_a_benchmark_says_so(fake_run: MakeRun, ablation: Path) -> None:
    for seed in (1, 2, 3):
        (ablation / f"arm-tapir_seed-{seed}" / "manifest.json").unlink()
    fake_run(name="sweep/arm-lion_seed-1", arm="lion", seed=1, size=40, benchmark=False)
    assert course(ablation, "tapir").reason == "no finished job"
    assert course(ablation, "lion").reason == "a benchmark was not run"
    drawn = "".join(panels(accuracies_by_round(load_sweep(ablation).arms)))
    assert "natural_mix" in drawn
    assert "tapir" not in drawn
    assert "lion" not in drawn


def test_one_seed_gives_a_dash_and_no_whisker(fake_run: MakeRun) -> None:
    run = fake_run(name="sweep/one", arm="tapir", seed=1, size=40)
    found = course(run.parent, "tapir")
    assert all(cell_mean(accuracy).endswith(" ± –") for accuracy in found.accuracies)
    assert cell_mean(None) == "–"
    assert "whisker" not in panels([found])[0]


def test_an_interval_beyond_what_a_share_can_be_is_drawn_up_to_there() -> None:
    wide = AccuracyByRound("tapir", (t_interval([0.0, 0.02]), t_interval([0.98, 1.0])), "")
    ends = re.findall(r'y1="([^"]+)" x2="[^"]+" y2="([^"]+)" class="s-warm whisker"', panels([wide])[0])
    bottom, top = 136 - 24, 30
    assert float(ends[0][0]) == bottom
    assert float(ends[1][1]) == top
    assert cell_mean(wide.accuracies[0]) == "1.0 ± 12.7"  # the table keeps what was computed


def test_the_baseline_stands_behind_every_other_arm(ablation: Path) -> None:
    first, *others = panels(accuracies_by_round(load_sweep(ablation).arms))
    assert "s-quiet" not in first
    for svg in others:
        assert svg.count("s-quiet stroke") == 1
        assert svg.count("strong") == 1  # only the arm's own line is labelled
    assert "grey: tapir" in render_page(load_sweep(ablation))


def test_the_chart_says_in_words_what_it_shows(ablation: Path) -> None:
    found = course(ablation, "tapir")
    assert f"S₃: {cell_mean(found.accuracies[3])} %" in panels([found])[0]


def test_a_sweep_without_any_benchmark_says_so(fake_run: MakeRun) -> None:
    run = fake_run(name="sweep/one", size=40, benchmark=False)
    page = render_page(load_sweep(run.parent))
    assert "No finished job has a benchmark." in page
    assert "No problem of a boosted type was put to every arm." in page
    assert "seed 0 had no benchmark" in page


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_the_page_never_prints_an_interval_of_zero_for_one_seed(fake_run: MakeRun, seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        run = fake_run(name=f"sweep/{seed}", seed=seed, size=40, settings={"student.seed": seed})
    page = render_page(load_sweep(run.parent))
    assert (" ± –</td>" in page) == (len(seeds) == 1)
