"""Tests of comparison.csv."""

import csv
import io
from pathlib import Path

import pytest

from sweeps import final_accuracies, final_metrics
from tapir_exp.evals.statistics import paired_difference, t_interval
from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.csv_table import to_csv


@pytest.fixture
def table(ablation: Path) -> dict[str, dict[str, str]]:
    text = to_csv(load_sweep(ablation))
    return {row["arm"]: row for row in csv.DictReader(io.StringIO(text))}


def test_to_csv_has_means_intervals_and_paired_differences(ablation: Path, table: dict[str, dict[str, str]]) -> None:
    row = table["natural_mix"]
    ours, theirs = final_accuracies(ablation, "natural_mix"), final_accuracies(ablation, "tapir")
    interval, difference = t_interval(ours), paired_difference(ours, theirs)
    assert float(row["accuracy"]) == pytest.approx(interval.mean)
    assert float(row["low"]) == pytest.approx(interval.low)
    assert float(row["difference"]) == pytest.approx(difference.mean)
    assert float(row["difference_high"]) == pytest.approx(difference.high)
    assert float(row["p"]) == difference.p == 0.25
    assert float(row["p_holm"]) == 0.5
    assert row["seeds"] == "1 2 3"
    assert row["pairs"] == "3"
    assert table["tapir"]["difference"] == ""


def test_to_csv_has_a_column_per_boosted_task_type(ablation: Path, table: dict[str, dict[str, str]]) -> None:
    assert "accuracy Math" in table["tapir"]
    assert "accuracy Writing" not in table["tapir"]
    expected = sum(metrics["benchmark/task/Math"] for metrics in final_metrics(ablation, "tapir")) / 3
    assert float(table["tapir"]["accuracy Math"]) == pytest.approx(expected)


def test_to_csv_counts_tokens_of_all_students(table: dict[str, dict[str, str]]) -> None:
    """The total covers every training stage, not only the last round."""
    assert float(table["tapir"]["tokens_mean"]) == (160 + 3 * 90) * 2048
