"""Two judges on the same pairs: agreement, and the wins of an origin by one judge minus those by the other."""

import pytest

from tapir_exp.evals.judge_comparison import compare_judges

NAMES = ("a", "b")


def test_compare_judges_skips_unscored_pairs() -> None:
    found = compare_judges(NAMES, ([1, -2, 0, None], [3, 2, 0, 1]), [("", "")] * 4)
    assert found is not None
    assert (found.same.mean, found.same.n) == (2 / 3, 3)
    assert found.favours == ()
    assert compare_judges(NAMES, ([None], [1]), [("", "")]) is None


def test_compare_judges_favour_is_of_the_origin_on_either_side() -> None:
    """Judge a lets x win always; judge b finds half of these pairs equal. The scale of their points does not matter."""
    origins = [("x", "y"), ("y", "x")] * 4
    own = [5.0, -5.0] * 4
    other = [0.1, -0.1, 0.0, 0.0] * 2
    found = compare_judges(NAMES, (own, other), origins)
    assert found is not None
    by_origin = {favour.origin: favour for favour in found.favours}
    assert by_origin["x"].wins.mean == pytest.approx(0.25)
    assert by_origin["y"].wins.mean == pytest.approx(-0.25)
    assert by_origin["x"].pairs == 8


def test_compare_judges_same_origin_on_both_sides_says_nothing() -> None:
    found = compare_judges(NAMES, ([1.0] * 8, [-1.0] * 8), [("x", "x")] * 8)
    assert found is not None
    assert found.favours == ()


def test_compare_judges_few_pairs_have_no_figure() -> None:
    found = compare_judges(NAMES, ([1.0] * 4, [-1.0] * 4), [("x", "y")] * 4)
    assert found is not None
    assert found.favours == ()
