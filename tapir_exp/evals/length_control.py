"""AlpacaEval's length-controlled win rate, computed offline with scikit-learn.

The logistic model of alpaca_eval 0.6.6 (`length_controlled_v1`; Dubois et al., arXiv 2404.04475): what a preference
owes to the difference in length, to the instruction's difficulty and to the model; the win rate is what it predicts
where the lengths are equal. Two "gamed" baselines, which only change their length, hold the length's part in place.
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
"""Weight of a row of the gamed baselines: alpaca_eval's lambda of 0.2, divided by the two of them."""
INVERSE_STRENGTHS = tuple(10 ** (-4 + 8 * step / 9) for step in range(10))
"""The inverse regularisation strengths that are tried."""
FOLDS = 5
SEED = 123
MIN_PROBABILITY = 1e-15
"""Predicted probabilities are kept so far from 0 and 1 where a fold is scored."""


@dataclass(frozen=True)
class LengthControlRow:
    """A row of alpaca_eval's df_gamed.csv; the preference is a share of a win, 0 to 1."""

    index: int
    preference: float | None
    std_delta_len: float
    difficulty: float
    is_model: bool


@dataclass(frozen=True)
class LengthComparison:
    """The lengths of two outputs in characters, and the preference from 1 to 2; index: place of the instruction."""

    index: int
    baseline_length: int
    model_length: int
    preference: float | None


@dataclass(frozen=True)
class LengthControlled:
    """The length-controlled win rate and its error in per cent, with the model's weights."""

    win_rate: float
    error: float | None
    length: float
    difficulty: float
    model: float


def load_length_control_rows(path: Path) -> list[LengthControlRow]:
    """Read `df_gamed.csv`. Raises EvaluationError where it is not there or has other columns."""
    if not path.is_file():
        raise EvaluationError(
            f"There is no {path}; set evals.alpaca_eval.length_control_data to alpaca_eval's df_gamed.csv."
        )
    with path.open(newline="", encoding="utf-8-sig") as lines:
        try:
            return [_gamed_row(row) for row in csv.DictReader(lines)]
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(f"{path} is not alpaca_eval's df_gamed.csv: {error!r}.") from error


def _gamed_row(row: dict[str, str]) -> LengthControlRow:
    return LengthControlRow(
        index=int(row["index"]),
        preference=float(row["preference"]) if row["preference"] else None,
        std_delta_len=float(row["std_delta_len"]),
        difficulty=float(row["instruction_difficulty"]),
        is_model={"True": True, "False": False}[row["not_gamed_baseline"]],
    )


def length_controlled_win_rate(
    comparisons: Sequence[LengthComparison], gamed: Sequence[LengthControlRow]
) -> LengthControlled:
    """Fit the model on the gamed rows and on the comparisons, and predict every comparison at equal lengths.

    Comparisons stand in the order of their instructions, which decides the folds. One without a preference is
    predicted too, but not fitted. Raises EvaluationError for an instruction without difficulty, for comparisons whose
    lengths do not vary, and where scikit-learn is not installed.
    """
    difficulties = _difficulties(comparisons, gamed)
    spread = _spread(comparisons)
    features = [[math.tanh(row.std_delta_len), row.difficulty, float(row.is_model)] for row in gamed]
    features += [
        [math.tanh((c.baseline_length - c.model_length) / spread), difficulty, 1.0]
        for c, difficulty in zip(comparisons, difficulties, strict=True)
    ]
    wins = [row.preference for row in gamed]
    wins += [win_share(c.preference) if is_preference(c.preference) else None for c in comparisons]
    weights = [1.0 if row.is_model else GAMED_WEIGHT for row in gamed] + [1.0] * len(comparisons)
    length, difficulty, model = _fit(features, wins, weights)
    predicted = [100 * _logistic(difficulty * hard + model) for hard in difficulties]
    estimate = mean_and_error(predicted)
    return LengthControlled(estimate.mean, estimate.error, length, difficulty, model)


def _difficulties(comparisons: Sequence[LengthComparison], gamed: Sequence[LengthControlRow]) -> list[float]:
    known: dict[int, float] = {}
    for row in gamed:
        known.setdefault(row.index, row.difficulty)
    missing = [c.index for c in comparisons if c.index not in known]
    if missing:
        raise EvaluationError(
            f"{len(missing)} instructions have no difficulty in the gamed file, the first at place {missing[0]}: "
            "length control is for AlpacaEval's own instructions."
        )
    return [known[c.index] for c in comparisons]


def _spread(comparisons: Sequence[LengthComparison]) -> float:
    """The standard deviation of the differences in length."""
    differences = [c.baseline_length - c.model_length for c in comparisons]
    spread = stdev(differences) if len(differences) > 1 else 0.0
    if not spread:
        raise EvaluationError(
            "Length control needs outputs whose lengths differ from the baseline's by varying amounts."
        )
    return spread


def _fit(
    features: Sequence[Sequence[float]], wins: Sequence[float | None], weights: Sequence[float]
) -> tuple[float, float, float]:
    """Weights of the features at the strength that predicts left-out rows best.

    A row with win share w is one row of class 1 with weight w and one of class 0 with weight 1 - w, in one fold.
    """
    np, selection = _numpy(), _sklearn("model_selection")
    kept = [place for place, share in enumerate(wins) if share is not None]
    x, p, w = (np.array([column[place] for place in kept]) for column in (features, wins, weights))
    x, p, w = np.concatenate([x, x]), np.concatenate([p, 1 - p]), np.concatenate([w, w])
    y = np.repeat([1, 0], len(kept))
    groups = np.tile(np.arange(len(kept)), 2)
    folds = list(selection.GroupKFold(n_splits=FOLDS).split(x, y, groups))
    scores = [fmean(_score(strength, x, y, p, w, *fold) for fold in folds) for strength in INVERSE_STRENGTHS]
    best = INVERSE_STRENGTHS[scores.index(max(scores))]
    length, difficulty, model = _logistic_regression(best).fit(x, y, sample_weight=p * w).coef_[0]
    return float(length), float(difficulty), float(model)


def _score(strength: float, x: Any, y: Any, p: Any, w: Any, train: Any, test: Any) -> float:
    """The weighted mean log-likelihood of the left-out rows; every row weighs by w alone, as in alpaca_eval."""
    np = _numpy()
    fitted = _logistic_regression(strength).fit(x[train], y[train], sample_weight=(p * w)[train])
    predicted = np.clip(fitted.predict_proba(x[test])[:, 1], MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    share = np.where(y[test] == 1, p[test], 1 - p[test])
    return float(np.mean(w[test] * (share * np.log(predicted) + (1 - share) * np.log(1 - predicted))))


def _logistic_regression(strength: float) -> Any:
    return _sklearn("linear_model").LogisticRegression(
        l1_ratio=1, solver="liblinear", C=strength, fit_intercept=False, random_state=SEED
    )


def _numpy() -> Any:
    import numpy

    return numpy


def _sklearn(subset: str) -> Any:
    """A module of scikit-learn, which only this figure needs."""
    try:
        return import_module(f"sklearn.{subset}")
    except ImportError as error:
        raise EvaluationError(
            "The length-controlled win rate needs scikit-learn: pip install 'tapir-exp[evals]', "
            "or set evals.alpaca_eval.length_control_data to null to do without it."
        ) from error


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
