"""Length-controlled win rate: it removes the effect of length, and reproduces the published figures."""

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
def control(tmp_path_factory: pytest.TempPathFactory) -> list[LengthControlRow]:
    path = tmp_path_factory.mktemp("length_control") / "df_gamed.csv"
    path.write_text(length_control_csv(N))
    return load_length_control_rows(path)


def comparisons(length_bias: float, extra_length: float = 1.0) -> list[LengthComparison]:
    """Return comparisons of a model as good as the baseline.

    Args:
        length_bias: Effect of length on the annotator; 0 is none.
        extra_length: Mean extra length of the model's outputs.
    """
    rng = random.Random(1)
    differences = [-extra_length + rng.gauss(0, 1) for _ in range(N)]
    spread = math.sqrt(sum((d - sum(differences) / N) ** 2 for d in differences) / (N - 1))
    return [
        LengthComparison(n, 5000, 5000 - round(1000 * d), 2 - 1 / (1 + math.exp(-length_bias * math.tanh(d / spread))))
        for n, d in enumerate(differences)
    ]


def test_win_rate_removes_the_effect_of_length(control: list[LengthControlRow]) -> None:
    rows = comparisons(length_bias=1.5)
    raw = 100 * sum((row.preference or 0) - 1 for row in rows) / N
    result = length_controlled_win_rate(rows, control)
    assert raw > 60
    assert result.win_rate == pytest.approx(50, abs=3)
    assert result.length < -1


def test_win_rate_unbiased_annotator_changes_nothing(control: list[LengthControlRow]) -> None:
    flat = [replace(row, preference=1.3) for row in comparisons(length_bias=0, extra_length=0)]
    assert length_controlled_win_rate(flat, control).win_rate == pytest.approx(30, abs=1)


def test_win_rate_missing_preference_is_predicted_not_fitted(control: list[LengthControlRow]) -> None:
    rows = comparisons(length_bias=1.5)
    missing = [replace(row, preference=None) if n < 10 else row for n, row in enumerate(rows)]
    invalid = [replace(row, preference=9.0) if n < 10 else row for n, row in enumerate(rows)]
    assert length_controlled_win_rate(missing, control) == length_controlled_win_rate(invalid, control)
    assert length_controlled_win_rate(missing, control).win_rate == pytest.approx(50, abs=4)


def noisy() -> list[LengthComparison]:
    """Return preferences that depend on length, instruction and chance; every seventh is missing."""
    rng = random.Random(2)
    rows = [
        replace(row, preference=1 + rng.random() ** (1.5 + n / N)) for n, row in enumerate(comparisons(length_bias=1.5))
    ]
    return [replace(row, preference=None) if n % 7 == 0 else row for n, row in enumerate(rows)]


def test_win_rate_matches_alpaca_eval(control: list[LengthControlRow]) -> None:
    """Compare with get_length_controlled_winrate of alpaca_eval 0.6.6 on the same rows and the same df_gamed.csv."""
    result = length_controlled_win_rate(noisy(), control)
    assert (result.win_rate, result.error) == pytest.approx((33.15798829394332, 0.10763259769641025), abs=1e-6)


def test_win_rate_unknown_instruction_or_equal_lengths_fail(control: list[LengthControlRow]) -> None:
    rows = comparisons(length_bias=1.5)
    with pytest.raises(EvaluationError, match="1 instructions have no difficulty"):
        length_controlled_win_rate([*rows, LengthComparison(N, 1, 2, 1.0)], control)
    with pytest.raises(EvaluationError, match="varying amounts"):
        length_controlled_win_rate([replace(row, model_length=1) for row in rows], control)


def test_win_rate_without_scikit_learn_names_the_extra(
    control: list[LengthControlRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(EvaluationError, match=r"tapir-exp\[evals\]"):
        length_controlled_win_rate(comparisons(length_bias=1.5), control)


def test_load_length_control_rows_wrong_file_fails(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"set evals\.alpaca_eval\.length_control_data"):
        load_length_control_rows(tmp_path / "nothing.csv")
    (tmp_path / "other.csv").write_text("index,preference\n1,2\n")
    with pytest.raises(EvaluationError, match=r"is not alpaca_eval's df_gamed\.csv"):
        load_length_control_rows(tmp_path / "other.csv")


@pytest.mark.parametrize("model", ["vicuna-7b", "alpaca-7b"])
def test_win_rate_reproduces_published_figures(model: str) -> None:
    golden = json.loads(asset(f"alpacaeval/golden_{model}.json").read_text())
    columns = zip(golden["index"], golden["len_baseline"], golden["len_model"], golden["preference"], strict=True)
    rows = [LengthComparison(*row) for row in columns]
    result = length_controlled_win_rate(rows, load_length_control_rows(asset("alpacaeval/df_gamed_surrogate.csv")))
    assert result.win_rate == pytest.approx(golden["published"]["length_controlled_winrate"], abs=1e-6)
    package = golden["package_lc_with_surrogate_df_gamed"]
    assert result.error == pytest.approx(package["lc_standard_error"], abs=1e-6)
    assert [result.length, result.difficulty, result.model] == pytest.approx(
        list(golden["published_glm_weights"].values()), abs=1e-5
    )
