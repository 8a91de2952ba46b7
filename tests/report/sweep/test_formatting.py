"""Tests of the formatters of the comparison."""

from tapir_exp.evals.statistics import t_interval
from tapir_exp.report.sweep.formatting import cell_accuracy, cell_mean, cell_tokens


def test_cell_accuracy_of_one_seed_is_the_mean() -> None:
    assert cell_accuracy(t_interval([0.5])) == "50.0"
    assert cell_accuracy(None) == "–"


def test_cell_mean_of_one_seed_has_a_dash_as_interval() -> None:
    assert cell_mean(t_interval([0.5])) == "50.0 ± –"
    assert cell_mean(None) == "–"


def test_cell_tokens_shows_the_range_if_jobs_differ() -> None:
    assert cell_tokens([1000.0, 2000.0]) == "1\u202f500 (1k to 2k)"
    assert cell_tokens([2000.0, 2000.0]) == "2\u202f000"
    assert cell_tokens([12_030.0, 12_050.0]) == "12\u202f040 (12\u202f030 to 12\u202f050)"
