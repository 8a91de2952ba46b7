"""The comparison of a sweep: paired, honest about what is missing, and grouped by what varies."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tapir_exp.core.errors import StoreError
from tapir_exp.evals.statistics import paired_difference, t_interval
from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.formatting import cell_accuracy, cell_tokens
from tapir_exp.report.sweep.page import write_sweep_report

MakeRun = Callable[..., Path]


def accuracies(sweep_dir: Path, arm: str) -> list[float]:
    lines = [(sweep_dir / f"arm-{arm}_seed-{s}" / "metrics.jsonl").read_text().splitlines()[-1] for s in (1, 2, 3)]
    return [json.loads(line)["benchmark/accuracy"] for line in lines]


def table(sweep_dir: Path) -> dict[str, dict[str, str]]:
    with (sweep_dir / "comparison.csv").open() as file:
        return {row["group"]: row for row in csv.DictReader(file)}


def test_all_four_files_are_written(ablation: Path) -> None:
    assert write_sweep_report(ablation) == ablation / "index.html"
    svg = ElementTree.parse(ablation / "comparison.svg").getroot()
    style = svg.find("{http://www.w3.org/2000/svg}style")
    assert style is not None
    assert "prefers-color-scheme" in (style.text or "")
    assert (ablation / "comparison.md").read_text().startswith("| arm |")


def test_tapir_comes_first_and_then_the_best(ablation: Path) -> None:
    rows = load_sweep(ablation).rows
    assert rows[0].label == "tapir"
    others = [row.accuracy.mean for row in rows[1:] if row.accuracy]
    assert others == sorted(others, reverse=True)


def test_means_intervals_and_paired_differences(ablation: Path) -> None:
    write_sweep_report(ablation)
    row = table(ablation)["natural_mix"]
    ours, theirs = accuracies(ablation, "natural_mix"), accuracies(ablation, "tapir")
    interval, difference = t_interval(ours), paired_difference(ours, theirs)
    assert float(row["accuracy"]) == pytest.approx(interval.mean)
    assert float(row["low"]) == pytest.approx(interval.low)
    assert float(row["difference"]) == pytest.approx(difference.mean)
    assert float(row["difference_high"]) == pytest.approx(difference.high)
    assert float(row["p"]) == difference.p == 0.25
    assert float(row["p_holm"]) == 0.5
    assert row["seeds"] == "1 2 3"
    assert table(ablation)["tapir"]["difference"] == ""


def test_pairs_are_of_the_same_seed(ablation: Path) -> None:
    lost = ablation / "arm-tapir_seed-1" / "manifest.json"
    lost.unlink()
    write_sweep_report(ablation)
    row = table(ablation)["natural_mix"]
    expected = paired_difference(accuracies(ablation, "natural_mix")[1:], accuracies(ablation, "tapir")[1:])
    assert row["pairs"] == "2"
    assert float(row["difference"]) == pytest.approx(expected.mean)


def test_an_unfinished_job_is_listed_and_not_counted(ablation: Path) -> None:
    (ablation / "arm-tapir_seed-3" / "manifest.json").unlink()
    path = ablation / "arm-fixed_alpha_seed-2" / "metrics.jsonl"
    path.write_text("\n".join([*path.read_text().splitlines()[:2], '{"round": 2, "ws']))
    sweep = load_sweep(ablation)
    told = {missing.what: missing.reason for missing in sweep.missing}
    assert set(told) == {"tapir, seed 3", "fixed_alpha, seed 2"}
    assert "metrics end with round 3" in told["tapir, seed 3"]
    assert told["fixed_alpha, seed 2"] == "stopped after round 1 of 3"
    assert {row.label: (row.finished, row.jobs) for row in sweep.rows}["tapir"] == (2, 3)
    page = write_sweep_report(ablation).read_text()
    assert all(job in page and job in (ablation / "comparison.md").read_text() for job in told)


def test_a_damaged_manifest_is_a_missing_job(ablation: Path) -> None:
    (ablation / "arm-tapir_seed-3" / "manifest.json").write_text('{"name": 3')
    assert "cannot be read" in load_sweep(ablation).missing[0].reason


def test_a_seed_that_only_other_arms_have_is_missing(fake_run: MakeRun, ablation: Path) -> None:
    fake_run(name="sweep/arm-tapir_seed-4", arm="tapir", seed=4, size=40)
    told = {missing.what for missing in load_sweep(ablation).missing}
    assert told == {"natural_mix, seed 4", "fixed_alpha, seed 4"}


def test_a_job_that_only_hydra_knows_is_missing(ablation: Path) -> None:
    hydra = ablation / "arm-lion_seed-1" / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "config.yaml").write_text("arm: lion\nseed: 1\n")
    told = {missing.where: missing.what for missing in load_sweep(ablation).missing}
    assert told["arm-lion_seed-1"] == "lion, seed 1"


def test_what_lies_inside_a_job_is_no_job(ablation: Path) -> None:
    files = ablation / "arm-tapir_seed-1" / "wandb" / "offline-run" / "files"
    files.mkdir(parents=True)
    (files / "config.yaml").write_text("wandb: 1\n")
    assert len(load_sweep(ablation).jobs) == 9


def test_one_seed_gives_no_interval(fake_run: MakeRun) -> None:
    for arm in ("tapir", "lion"):
        run = fake_run(name=f"sweep/{arm}", arm=arm, seed=1, size=40)
    write_sweep_report(run.parent)
    row = (run.parent / "comparison.md").read_text().splitlines()[3]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "lion"
    assert cells[4] == "–"
    assert cells[6:9] == ["–", "–", "–"]


def test_a_setting_that_varies_is_what_is_compared(fake_run: MakeRun) -> None:
    for delta in (10.0, 2.0, 0.0):
        for seed in (1, 2):
            settings = {"curriculum.delta": delta, "student.seed": seed}
            run = fake_run(name=f"sweep/delta-{delta}_seed-{seed}", seed=seed, size=40, settings=settings)
    sweep = load_sweep(run.parent)
    assert sweep.subject == "curriculum.delta"
    assert [row.label for row in sweep.rows] == ["0.0", "2.0", "10.0"]
    assert [len(row.values) for row in sweep.rows] == [2, 2, 2]
    assert not sweep.compared
    assert not sweep.missing


def test_shared_artifacts_are_counted(fake_run: MakeRun) -> None:
    for delta in (0.0, 1.0, 2.0, 3.0, 4.0):
        run = fake_run(name=f"sweep/{delta}", size=40, settings={"curriculum.delta": delta})
    shared = {row.name: (row.distinct, row.jobs) for row in load_sweep(run.parent).shared}
    assert shared["student-0"] == (1, 5)
    assert shared["train_mix-1"] == (5, 5)
    write_sweep_report(run.parent)
    assert "student-0, 1 distinct over 5 jobs" in (run.parent / "comparison.md").read_text()


def test_boosted_task_types_are_columns(ablation: Path) -> None:
    write_sweep_report(ablation)
    assert "accuracy Math" in table(ablation)["tapir"]
    assert "accuracy Writing" not in table(ablation)["tapir"]
    seeds = [
        json.loads((ablation / f"arm-tapir_seed-{s}" / "metrics.jsonl").read_text().splitlines()[-1]) for s in (1, 2, 3)
    ]
    expected = sum(seed["benchmark/task/Math"] for seed in seeds) / 3
    assert float(table(ablation)["tapir"]["accuracy Math"]) == pytest.approx(expected)


def test_tokens_are_said_to_be_equal_only_where_they_are(fake_run: MakeRun, ablation: Path) -> None:
    write_sweep_report(ablation)
    assert "Training tokens are equal" in (ablation / "comparison.md").read_text()
    assert float(table(ablation)["tapir"]["tokens_mean"]) == (160 + 3 * 90) * 2048  # all fits, not the last one
    fake_run(name="sweep/arm-vanilla_sft_seed-1", arm="vanilla_sft", seed=1, rounds=0, size=40)
    write_sweep_report(ablation)
    assert "Training tokens differ" in (ablation / "comparison.md").read_text()
    assert cell_tokens([1000.0, 2000.0]) == "1\u202f500 (1k to 2k)"


def test_a_rebuilt_comparison_is_the_same(ablation: Path) -> None:
    names = ("comparison.md", "comparison.csv", "comparison.svg", "index.html")
    write_sweep_report(ablation)
    first = [(ablation / name).read_bytes() for name in names]
    write_sweep_report(ablation)
    assert [(ablation / name).read_bytes() for name in names] == first


def test_no_job_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no job"):
        write_sweep_report(tmp_path)


def test_names_are_escaped_on_the_page(fake_run: MakeRun) -> None:
    run = fake_run(name="sweep/one", arm="<i>arm</i>", seed=1, size=40)
    assert "<i>arm" not in write_sweep_report(run.parent).read_text()


def test_accuracy_without_an_interval_is_only_the_mean() -> None:
    assert cell_accuracy(t_interval([0.5])) == "50.0"
    assert cell_accuracy(None) == "–"
