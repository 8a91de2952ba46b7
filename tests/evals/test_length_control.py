"""The length-controlled win rate: it takes out what length earned, and gives the published figures."""

import json
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from assets import asset
from standins import length_control_csv

from tapir_exp.core.errors import EvaluationError
from tapir_exp.evals.length_control import (
    LengthComparison,
    LengthControlRow,
    length_controlled_win_rate,
    load_length_control_rows,
)

N = 120


@pytest.fixture(scope="module")
def gamed(tmp_path_factory: pytest.TempPathFactory) -> list[LengthControlRow]:
    path = tmp_path_factory.mktemp("gamed") / "df_gamed.csv"
    path.write_text(length_control_csv(N))
    return load_length_control_rows(path)


def comparisons(liking: float, longer: float = 1.0) -> list[LengthComparison]:
    """A model that is as good as the baseline, but writes longer; `liking` is what the annotator gives for length."""
    rng = random.Random(1)
    differences = [-longer + rng.gauss(0, 1) for _ in range(N)]
    spread = math.sqrt(sum((d - sum(differences) / N) ** 2 for d in differences) / (N - 1))
    return [
        LengthComparison(n, 5000, 5000 - round(1000 * d), 2 - 1 / (1 + math.exp(-liking * math.tanh(d / spread))))
        for n, d in enumerate(differences)
    ]


def test_what_length_earned_is_taken_out(gamed: list[LengthControlRow]) -> None:
    rows = comparisons(liking=1.5)
    raw = 100 * sum((row.preference or 0) - 1 for row in rows) / N
    found = length_controlled_win_rate(rows, gamed)
    assert raw > 60
    assert found.win_rate == pytest.approx(50, abs=3)
    assert found.length < -1


def test_an_annotator_that_does_not_care_changes_nothing(gamed: list[LengthControlRow]) -> None:
    flat = [replace(row, preference=1.3) for row in comparisons(liking=0, longer=0)]
    assert length_controlled_win_rate(flat, gamed).win_rate == pytest.approx(30, abs=1)


def test_a_missing_preference_is_predicted_but_not_fitted(gamed: list[LengthControlRow]) -> None:
    rows = comparisons(liking=1.5)
    holed = [replace(row, preference=None) if n < 10 else row for n, row in enumerate(rows)]
    absurd = [replace(row, preference=9.0) if n < 10 else row for n, row in enumerate(rows)]
    assert length_controlled_win_rate(holed, gamed) == length_controlled_win_rate(absurd, gamed)
    assert length_controlled_win_rate(holed, gamed).win_rate == pytest.approx(50, abs=4)


def noisy() -> list[LengthComparison]:
    """Preferences that length, the instruction and chance have made, with every seventh missing."""
    rng = random.Random(2)
    rows = [replace(row, preference=1 + rng.random() ** (1.5 + n / N)) for n, row in enumerate(comparisons(liking=1.5))]
    return [replace(row, preference=None) if n % 7 == 0 else row for n, row in enumerate(rows)]


def test_the_figures_are_alpaca_eval_s_own(gamed: list[LengthControlRow]) -> None:
    """Pinned from get_length_controlled_winrate of alpaca_eval 0.6.6 on the same rows and the same df_gamed.csv."""
    found = length_controlled_win_rate(noisy(), gamed)
    assert (found.win_rate, found.error) == pytest.approx((33.15798829394332, 0.10763259769641025), abs=1e-6)


def test_what_cannot_be_controlled_is_an_error(gamed: list[LengthControlRow]) -> None:
    rows = comparisons(liking=1.5)
    with pytest.raises(EvaluationError, match="1 instructions have no difficulty"):
        length_controlled_win_rate([*rows, LengthComparison(N, 1, 2, 1.0)], gamed)
    with pytest.raises(EvaluationError, match="varying amounts"):
        length_controlled_win_rate([replace(row, model_length=1) for row in rows], gamed)


def test_without_scikit_learn_the_remedy_is_told(
    gamed: list[LengthControlRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(EvaluationError, match=r"tapir-exp\[evals\]"):
        length_controlled_win_rate(comparisons(liking=1.5), gamed)


def test_another_file_is_not_taken_for_the_gamed_one(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"set evals\.alpaca_eval\.length_control_data"):
        load_length_control_rows(tmp_path / "nothing.csv")
    (tmp_path / "other.csv").write_text("index,preference\n1,2\n")
    with pytest.raises(EvaluationError, match=r"is not alpaca_eval's df_gamed\.csv"):
        load_length_control_rows(tmp_path / "other.csv")


@pytest.mark.parametrize("model", ["vicuna-7b", "alpaca-7b"])
def test_published_figures_come_out(model: str) -> None:
    golden = json.loads(asset(f"alpacaeval/golden_{model}.json").read_text())
    columns = zip(golden["index"], golden["len_baseline"], golden["len_model"], golden["preference"], strict=True)
    rows = [LengthComparison(*row) for row in columns]
    found = length_controlled_win_rate(rows, load_length_control_rows(asset("alpacaeval/df_gamed_surrogate.csv")))
    assert found.win_rate == pytest.approx(golden["published"]["length_controlled_winrate"], abs=1e-6)
    package = golden["package_lc_with_surrogate_df_gamed"]
    assert found.error == pytest.approx(package["lc_standard_error"], abs=1e-6)
    assert [found.length, found.difficulty, found.model] == pytest.approx(
        list(golden["published_glm_weights"].values()), abs=1e-5
    )
