"""Filters and escaping of the report templates."""

import pytest

from tapir_exp.evals.statistics import Estimate
from tapir_exp.report.templates import FILTERS, NONE, student_name


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("count", 1234567, "1\u202f234\u202f567"),
        ("percent", 0.1234, "12.3 %"),
        ("decimal", 2.375, "2.38"),
        ("signed", -0.5, "−0.50"),
        ("signed", 0.5, "+0.50"),
        ("plain", -1.5, "−1.5"),
        ("loss", 1.23456, "1.235"),
        ("usd", 0.12345, "$0.1235"),
        ("usd", 12.345, "$12.35"),
        ("accuracy", Estimate(0.5, None, 1), "50.0"),
        ("accuracy", Estimate(0.5, 0.1, 9), "50.0 ± 10.0"),
        ("duration", 59.94, "59.9 s"),
        ("duration", 61, "1 min 01 s"),
        ("duration", 3660, "1 h 01 min"),
        ("student", 12, "S₁₂"),
    ],
)
def test_filter_formats_a_value(name: str, value: object, text: str) -> None:
    assert FILTERS[name](value) == text


@pytest.mark.parametrize("name", sorted(set(FILTERS) - {"duration", "student"}))
def test_filter_of_none_is_a_dash(name: str) -> None:
    assert FILTERS[name](None) == NONE


def test_student_name_has_the_round_as_a_subscript() -> None:
    assert student_name(0) == "S₀"
