"""AlpacaEval's length-controlled win rate, computed offline with scikit-learn.

This is the logistic regression of alpaca_eval 0.6.6 (`length_controlled_v1`; Dubois et al., arXiv 2404.04475). It has
three terms: difference in length, difficulty of the instruction, and model. The win rate is its prediction for equal
lengths. Two "gamed" baselines, which differ from the baseline only in length, regularise the length term.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tapir_exp.core.errors import EvaluationError
from tapir_exp.evals.statistics import mean_and_error
from tapir_exp.evals.win_rate import is_preference, win_share

GAMED_WEIGHT = 0.1
"""Weight of a row of the gamed baselines: alpaca_eval's lambda of 0.2, divided by their number."""
INVERSE_STRENGTHS = tuple(10 ** (-4 + 8 * step / 9) for step in range(10))
"""Inverse regularisation strengths (scikit-learn's C) of the cross-validation."""
COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")
FOLDS = 5
SEED = 123
"""Seed of liblinear, as in alpaca_eval."""
MIN_PROBABILITY = 1e-15
"""Distance from 0 and 1 to which predicted probabilities are clipped before their logarithm is taken."""


@dataclass(frozen=True)
class LengthControlRow:
    """A row of alpaca_eval's df_gamed.csv.

    Attributes:
        index: Index of the instruction.
        preference: Share of a win, 0 to 1, or None.
        std_delta_len: Difference in length from the baseline, in standard deviations.
        difficulty: Difficulty of the instruction.
        is_model: Whether the row is of an evaluated model; False for the gamed baselines.
    """

    index: int
    preference: float | None
    std_delta_len: float
    difficulty: float
    is_model: bool


@dataclass(frozen=True)
class LengthComparison:
    """Comparison of two outputs.

    Attributes:
        index: Index of the instruction in the benchmark.
        baseline_length: Length of the baseline's output in characters.
        model_length: Length of the model's output in characters.
        preference: From 1 (baseline) to 2 (model), or None.
    """

    index: int
    baseline_length: int
    model_length: int
    preference: float | None


@dataclass(frozen=True)
class LengthControlled:
    """Result of the length control.

    Attributes:
        win_rate: Length-controlled win rate in per cent.
        error: Its standard error in per cent; None for a single comparison.
        length: Weight of the difference in length.
        difficulty: Weight of the difficulty.
        model: Weight of the evaluated model, the intercept of its comparisons.
    """

    win_rate: float
    error: float | None
    length: float
    difficulty: float
    model: float


def load_length_control_rows(path: Path) -> list[LengthControlRow]:
    """Read `df_gamed.csv`.

    Raises:
        EvaluationError: If there is no file, or it has different columns.
    """
    if not path.is_file():
        raise EvaluationError(
            f"{path} is missing: set evals.alpaca_eval.length_control_data to alpaca_eval's df_gamed.csv, or to null "
            "to omit the length-controlled win rate."
        )
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            return [_parse_row(row) for row in csv.DictReader(file)]
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"{path} is not alpaca_eval's df_gamed.csv: {error!r}. Expected the columns {', '.join(COLUMNS)}."
            ) from error


def _parse_row(row: dict[str, str]) -> LengthControlRow:
    return LengthControlRow(
        index=int(row["index"]),
        preference=float(row["preference"]) if row["preference"] else None,
        std_delta_len=float(row["std_delta_len"]),
        difficulty=float(row["instruction_difficulty"]),
        is_model={"True": True, "False": False}[row["not_gamed_baseline"]],
    )


def length_controlled_win_rate(
    comparisons: Sequence[LengthComparison], control: Sequence[LengthControlRow]
) -> LengthControlled:
    """Fit the regression to the gamed baselines and the comparisons, and predict each comparison for equal lengths.

    Args:
        comparisons: Comparisons in the order of their instructions, which determines the folds. Those without a
            preference are predicted, but not fitted.
        control: Rows of df_gamed.csv.

    Raises:
        EvaluationError: If an instruction has no difficulty, the differences in length do not vary, or scikit-learn is
            not installed.
    """
    difficulties = _look_up_difficulties(comparisons, control)
    spread = _spread(comparisons)
    # tanh bounds the effect of extreme lengths. The constant 1 is the intercept of the evaluated model.
    features = [[math.tanh(row.std_delta_len), row.difficulty, float(row.is_model)] for row in control]
    features += [
        [math.tanh((c.baseline_length - c.model_length) / spread), difficulty, 1.0]
        for c, difficulty in zip(comparisons, difficulties, strict=True)
    ]
    # Both columns hold shares of a win: df_gamed.csv has them already, preferences are converted.
    wins = [row.preference for row in control]
    wins += [win_share(c.preference) if is_preference(c.preference) else None for c in comparisons]
    weights = [1.0 if row.is_model else GAMED_WEIGHT for row in control] + [1.0] * len(comparisons)
    length, difficulty, model = _fit(features, wins, weights)
    # The length term is 0 for equal lengths.
    predicted = [100 * _logistic(difficulty * value + model) for value in difficulties]
    estimate = mean_and_error(predicted)
    return LengthControlled(estimate.mean, estimate.error, length, difficulty, model)


def _look_up_difficulties(comparisons: Sequence[LengthComparison], control: Sequence[LengthControlRow]) -> list[float]:
    # The file repeats the difficulty of an instruction for each baseline.
    by_index: dict[int, float] = {}
    for row in control:
        by_index.setdefault(row.index, row.difficulty)
    missing = [c.index for c in comparisons if c.index not in by_index]
    if missing:
        raise EvaluationError(
            f"{len(missing)} instructions have no difficulty in df_gamed.csv, the first has the index {missing[0]}. "
            "Length control is possible for AlpacaEval's own 805 instructions only."
        )
    return [by_index[c.index] for c in comparisons]


def _spread(comparisons: Sequence[LengthComparison]) -> float:
    """Return the standard deviation of the differences in length."""
    differences = [c.baseline_length - c.model_length for c in comparisons]
    spread = stdev(differences) if len(differences) > 1 else 0.0
    if not spread:
        raise EvaluationError(
            "Length control needs outputs that differ from the baseline's in length by varying amounts, but "
            f"the differences of the {len(differences)} comparisons are equal."
        )
    return spread


def _fit(
    features: Sequence[Sequence[float]], wins: Sequence[float | None], weights: Sequence[float]
) -> tuple[float, float, float]:
    """Return the weights of the features, with the regularisation that predicts held-out rows best.

    Args:
        features: Length, difficulty and model of each row, shape (rows, 3).
        wins: Share of a win of each row, 0 to 1; rows with None are dropped.
        weights: Weight of each row.

    Returns:
        The weights of length, difficulty and model.
    """
    import numpy as np

    selection = _sklearn("model_selection")
    labelled = [index for index, share in enumerate(wins) if share is not None]
    x, p, w = (np.array([column[index] for index in labelled]) for column in (features, wins, weights))
    # LogisticRegression takes classes, not shares: a row with share p becomes a win of weight p and a loss of weight
    # 1 - p. Both have the same group, so that no fold trains on one and tests on the other.
    x, p, w = np.concatenate([x, x]), np.concatenate([p, 1 - p]), np.concatenate([w, w])
    y = np.repeat([1, 0], len(labelled))
    groups = np.tile(np.arange(len(labelled)), 2)
    folds = list(selection.GroupKFold(n_splits=FOLDS).split(x, y, groups))
    scores = [fmean(_score(c, x, y, p, w, *fold) for fold in folds) for c in INVERSE_STRENGTHS]
    best = INVERSE_STRENGTHS[scores.index(max(scores))]
    length, difficulty, model = _logistic_regression(best).fit(x, y, sample_weight=p * w).coef_[0]
    return float(length), float(difficulty), float(model)


def _score(inverse_strength: float, x: Any, y: Any, p: Any, w: Any, train: Any, test: Any) -> float:
    """Return the weighted mean log-likelihood of the rows of `test` for a model fitted to those of `train`."""
    import numpy as np

    fitted = _logistic_regression(inverse_strength).fit(x[train], y[train], sample_weight=(p * w)[train])
    predicted = np.clip(fitted.predict_proba(x[test])[:, 1], MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    # As in alpaca_eval, a row counts with its weight w here, and not with p * w as in the fit.
    share = np.where(y[test] == 1, p[test], 1 - p[test])
    return float(np.mean(w[test] * (share * np.log(predicted) + (1 - share) * np.log(1 - predicted))))


def _logistic_regression(inverse_strength: float) -> Any:
    # An l1_ratio of 1 is an L1 penalty, which only some solvers support.
    return _sklearn("linear_model").LogisticRegression(
        l1_ratio=1, solver="liblinear", C=inverse_strength, fit_intercept=False, random_state=SEED
    )


def _sklearn(name: str) -> Any:
    """Import a module of scikit-learn, which is an optional dependency."""
    try:
        return import_module(f"sklearn.{name}")
    except ImportError as error:
        raise EvaluationError(
            "The length-controlled win rate needs scikit-learn, which is not installed. Install it with "
            "`pip install 'tapir-exp[evals]'`, or set evals.alpaca_eval.length_control_data to null to omit the figure."
        ) from error


def _logistic(x: float) -> float:
    # Two forms, so that exp never overflows.
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
