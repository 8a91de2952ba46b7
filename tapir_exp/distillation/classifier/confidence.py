"""Confidence of a trained classifier: its validation, and a warning if a pool is unlike the validation rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapir_exp.core.records import Label, LabelledInstruction, Record
from tapir_exp.distillation.classifier.calibration import Logits, softmax

MIN_ROWS = 30
"""Rows below which a mean confidence is imprecise: its standard error is then about 0.05."""
MARGIN = 0.1
"""Distance of the mean confidence from that of the validation which gives a warning."""


class Validation(Record):
    """Figures of a classifier on rows that it was not trained on.

    Attributes:
        rows: Number of rows.
        accuracy: Share of correct rows, 0 to 1, if every row gets a type.
        mean_confidence: Mean probability of the most probable type, 0 to 1.
    """

    rows: int
    accuracy: float
    mean_confidence: float


@dataclass(frozen=True)
class PoolConfidence:
    """Confidence of a classifier over a pool.

    Attributes:
        rows: Rows with a confidence.
        mean_confidence: Their mean confidence, 0 to 1.
        abstained: Rows whose confidence was too low for a type.
    """

    rows: int = 0
    mean_confidence: float = 0.0
    abstained: int = 0

    def add(self, other: "PoolConfidence") -> "PoolConfidence":
        """Return the figures of both pools together."""
        rows = self.rows + other.rows
        total = self.rows * self.mean_confidence + other.rows * other.mean_confidence
        return PoolConfidence(rows, total / rows if rows else 0.0, self.abstained + other.abstained)

    def warning(self, validation: Validation | None) -> str | None:
        """Return a warning if the classifier is much less confident than on its validation rows, else None."""
        if validation is None or self.rows < MIN_ROWS or self.mean_confidence >= validation.mean_confidence - MARGIN:
            return None
        abstained = f"; {self.abstained / self.rows:.0%} of the rows got no type" if self.abstained else ""
        return (
            f"The task classifier is out of its depth: its mean confidence over {self.rows} rows is "
            f"{self.mean_confidence:.2f}, compared with {validation.mean_confidence:.2f} on its validation rows, of "
            f"which it classified {validation.accuracy:.0%} correctly{abstained}. Its labels are unreliable here. Use "
            "a chat model, or train a classifier on rows like these (docs/guides/task_classifier.md)."
        )


def pool_confidence(labels: Sequence[Label | LabelledInstruction]) -> PoolConfidence:
    """Return the confidence over labels; labels of a chat model have none."""
    values = [(label.confidence, label.task) for label in labels if label.confidence is not None]
    mean = sum(confidence for confidence, _ in values) / len(values) if values else 0.0
    return PoolConfidence(len(values), mean, sum(task is None for _, task in values))


def validate(logits: Logits, targets: NDArray[np.int64], temperature: float) -> Validation | None:
    """Return the figures of held-out rows; None without rows.

    Args:
        logits: (rows, tasks).
        targets: Index of each row's type: (rows,).
        temperature: Divisor of the logits.
    """
    if not len(targets):
        return None
    probabilities = softmax(logits, temperature)
    return Validation(
        rows=len(targets),
        accuracy=round(float((probabilities.argmax(1) == targets).mean()), 4),
        mean_confidence=round(float(probabilities.max(1).mean()), 4),
    )
