"""The comparison of curricula pairs seeds within a world and reports what each arm cost."""

import csv
import json
from pathlib import Path
from statistics import fmean
from types import ModuleType

import pytest
from scripts import load_script

from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import Manifest
from tapir_exp.evals.statistics import Difference, paired_difference

ROUNDS = {1: 0.71, 2: 0.74, 3: 0.69}
"""Accuracy of the arm `rounds` by seed."""
ONE_FIT = {1: 0.70, 2: 0.70, 3: 0.68, 4: 0.99}


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    """Load the script, which is no module of the package."""
    return load_script("benchmarks/curriculum/compare.py")


def write_job(sweep: Path, arm: str, seed: int, accuracy: float, *, rows: int = 1000, lab: str = "seed: 1") -> Path:
    path = sweep / f"{arm}-{seed}-{rows}-{lab}"
    path.mkdir(parents=True)
    Manifest(
        name="lab", arm=arm, seed=seed, store="../store", delta=2.0, alphas=(0.3,), target=None, artifacts=()
    ).write(path)
    metrics = [
        {
            "round": number,
            "benchmark/accuracy": accuracy,
            "benchmark/level/1": 2 * accuracy - 0.5,
            "benchmark/level/2": 0.5,
            "train/tokens_total": 10,
            "teacher/rows_total": number * rows,
        }
        for number in (0, 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    settings = f"arm: {arm}\nseed: {seed}\nlab: {{{lab}}}\ncurriculum: {{max_new_rows: {rows}}}\n"
    (path / "config.yaml").write_text(settings)
    return path


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for seed, accuracy in ROUNDS.items():
        write_job(tmp_path / "sweep", "rounds", seed, accuracy)
    for seed, accuracy in ONE_FIT.items():
        write_job(tmp_path / "sweep", "one_fit", seed, accuracy)
    return tmp_path / "sweep"


def test_difference_pairs_the_seeds_that_both_arms_have(compare: ModuleType, sweep: Path) -> None:
    (arms,) = compare.load_worlds([sweep]).values()
    one_fit, rounds = sorted(arms, key=lambda arm: arm.label)
    expected = paired_difference([71.0, 74.0, 69.0], [70.0, 70.0, 68.0])
    change = compare.difference(rounds, one_fit)
    assert (change.n, change.mean, change.low) == pytest.approx((3, expected.mean, expected.low))
    assert compare.difference(one_fit, one_fit) is None


def test_worlds_are_tables_of_their_own(compare: ModuleType, sweep: Path) -> None:
    write_job(sweep, "rounds", 1, 0.2, lab="world: ladder, seed: 1")
    write_job(sweep, "rounds", 1, 0.3, lab="world: ladder, seed: 2")
    worlds = compare.load_worlds([sweep])
    names = ["default world, lab.seed 1", "ladder world, lab.seed 1", "ladder world, lab.seed 2"]
    assert list(worlds) == names
    assert [len(arms) for arms in worlds.values()] == [2, 1, 1]


def test_unfinished_jobs_do_not_count(compare: ModuleType, sweep: Path, tmp_path: Path) -> None:
    (sweep / "rounds-3-1000-seed: 1" / "manifest.json").unlink()
    (arms,) = compare.load_worlds([sweep]).values()
    assert {arm.label: len(arm.accuracy) for arm in arms} == {"rounds": 2, "one_fit": 4}
    write_job(tmp_path / "other", "rounds", 1, 0.5)
    next((tmp_path / "other").glob("*/manifest.json")).unlink()
    with pytest.raises(StoreError, match="no finished job"):
        compare.load_worlds([tmp_path / "other"])


def test_report_has_costs_and_a_plot_over_teacher_rows(compare: ModuleType, sweep: Path, tmp_path: Path) -> None:
    for rows in (2000, 8000):
        for seed, accuracy in ROUNDS.items():
            write_job(sweep, "rounds", seed, accuracy + rows / 1e5, rows=rows)
    text = compare.write_comparison(compare.load_worlds([sweep]), "one_fit · 1000", tmp_path / "out")
    assert text == (tmp_path / "out" / "comparison.md").read_text()
    (row, _) = [line for line in text.splitlines() if line.startswith("| rounds · 8000")]
    assert row.split(" | ")[-3:] == ["8,000", "unknown", "10 |"]
    assert "+10.0" in row
    (best, _) = [line for line in text.splitlines() if line.startswith("| one_fit · 1000")]
    assert best.split(" | ")[3:7] == ["–"] * 4
    chart = (tmp_path / "out" / "accuracy_over_rows_1.svg").read_text()
    assert all(f">{tick}<" in chart for tick in ("1k", "2k", "4k", "8k"))
    assert chart.count("<circle") == 4


def test_levels_have_paired_differences(compare: ModuleType, sweep: Path) -> None:
    (arms,) = compare.load_worlds([sweep]).values()
    table = compare.render_levels(arms, "one_fit")
    rounds, one_fit = sorted(table.splitlines()[2:], key=lambda row: "one_fit" in row)
    cells = rounds.split(" | ")
    assert cells[1] == f"{200 * fmean(ROUNDS.values()) - 50:.1f}"
    assert cells[2].startswith("+4.0 (")  # level 1: twice the difference of the accuracies
    assert cells[3:] == ["50.0", "+0.0 (+0.0 to +0.0) |"]
    assert one_fit.split(" | ")[2] == "–"


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((0.1, 3.0), "better"),
        ((-1.9, 1.0), "no more than 2 worse"),
        ((-2.1, 1.0), "inconclusive"),
        ((-1.5, -0.1), "worse"),
        ((-5.0, -2.1), "worse by more than 2"),
        ((None, None), "one pair"),
    ],
)
def test_verdict_follows_the_interval(
    compare: ModuleType, bounds: tuple[float | None, float | None], words: str
) -> None:
    assert compare.verdict(Difference(0.0, *bounds, p=None, n=3)) == words


def test_runs_hold_the_values_of_each_seed(compare: ModuleType, sweep: Path, tmp_path: Path) -> None:
    worlds = compare.load_worlds([sweep])
    compare.write_comparison(worlds, "one_fit", tmp_path / "out")
    with (tmp_path / "out" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(ROUNDS) + len(ONE_FIT)
    for row in rows:
        accuracy = {"rounds": ROUNDS, "one_fit": ONE_FIT}[row["arm"]][int(row["seed"])]
        assert float(row["accuracy"]) == pytest.approx(100 * accuracy)
        assert float(row["level_1"]) == pytest.approx(100 * (2 * accuracy - 0.5))
        assert (row["world"], row["teacher_rows"], row["teacher_calls"]) == ("default world, lab.seed 1", "1000", "")


def test_unknown_base_is_an_error_that_lists_the_arms(
    compare: ModuleType, sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["compare.py", str(sweep), "--base", "tapir", "--out", str(sweep / "out")])
    with pytest.raises(SystemExit):
        compare.main()
    assert "--base = tapir: expected an arm of the sweeps: one_fit, rounds" in capsys.readouterr().err
    assert not (sweep / "out").exists()
