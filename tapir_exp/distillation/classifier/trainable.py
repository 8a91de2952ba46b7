"""Protocols of a trained classifier and of its trainer, and what both kinds share."""

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tapir_exp.core.batching import length_sorted_batches
from tapir_exp.core.console import Progress
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.stored_rows import KeptVectors, StoredVector
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.baselines import Baseline
from tapir_exp.distillation.classifier.calibration import softmax
from tapir_exp.distillation.classifier.confidence import Validation
from tapir_exp.distillation.classifier.dataset import LabelledText

Matrix = NDArray[np.float32]
"""One row per text."""


class TrainedClassifier(Protocol):
    """A model that returns a logit for each type of its training rows."""

    @property
    def tasks(self) -> Sequence[TaskType]:
        """Predicted types, in the order of the logits."""
        ...

    @property
    def temperature(self) -> float:
        """Divisor of the logits before the softmax, which calibrates the confidence."""
        ...

    @property
    def validation(self) -> Validation | None:
        """Figures of the rows that set the temperature; None if there are none."""
        ...

    def score(self, texts: Sequence[str], progress: str, kept: KeptVectors | None = None) -> Matrix:
        """Return uncalibrated logits: (texts, tasks); `kept` as in `encode_in_batches`."""
        ...

    def save(self, directory: Path) -> None:
        """Write everything that `open_trained` needs, except the card."""
        ...


class ClassifierTrainer(Protocol):
    """A way to train a classifier."""

    def fit(self, rows: Sequence[LabelledText], seed: int, progress: str) -> TrainedClassifier:
        """Train on labelled rows; the same arguments give the same classifier."""
        ...

    def base(self) -> dict[str, Any]:
        """Return the name of the encoder it starts from, and the SHA-256 of its weights if they are a local file."""
        ...

    def baselines(self) -> Mapping[str, Baseline]:
        """Return baselines on the same encoder, by name; empty if there are none."""
        ...


@dataclass(frozen=True)
class Prediction:
    """A predicted type with its confidence, 0 to 1; None if the classifier states no confidence."""

    task: TaskType | None
    confidence: float | None


def encode_in_batches(
    texts: Sequence[str],
    width: int,
    batch_size: int,
    encode: Callable[[list[str]], Matrix],
    progress: str,
    kept: KeptVectors | None = None,
) -> Matrix:
    """Return the result of an encoder for every text, in order: (texts, width).

    Args:
        texts: The texts; batches are of similar length.
        width: Numbers per text.
        batch_size: Texts per batch.
        encode: Returns the results of a batch: (batch, width).
        progress: Name of the work in the terminal.
        kept: Results that an earlier process made, and new ones as they come. A batch is encoded as a whole, so that a
            resumed process has the batches, and the rounding, of any other.
    """
    rows = np.zeros((len(texts), width), dtype=np.float32)
    with Progress(progress, len(texts)) as bar:
        for indices in length_sorted_batches([len(text) for text in texts], batch_size, longest_first=False):
            if kept is not None and all(index in kept for index in indices):
                rows[indices] = [np.frombuffer(b64decode(kept[index].values), "<f4") for index in indices]
            else:
                rows[indices] = encode([texts[index] for index in indices])
                if kept is not None:
                    values = [b64encode(rows[index].astype("<f4").tobytes()).decode() for index in indices]
                    kept.update(zip(indices, [StoredVector(values=text) for text in values], strict=True))
            bar.advance(len(indices))
    return rows


def predict(
    classifier: TrainedClassifier, texts: Sequence[str], progress: str, kept: KeptVectors | None = None
) -> list[Prediction]:
    """Return the most probable type of each text with its calibrated probability; `kept` as in `encode_in_batches`."""
    if not texts:
        return []
    # Only a classifier that keeps results has the argument for them.
    logits = classifier.score(texts, progress) if kept is None else classifier.score(texts, progress, kept)
    probabilities = softmax(logits, classifier.temperature)
    best = probabilities.argmax(1)
    return [
        Prediction(classifier.tasks[int(index)], round(float(row[index]), 6))
        for index, row in zip(best, probabilities, strict=True)
    ]


def known_tasks(rows: Sequence[LabelledText]) -> tuple[TaskType, ...]:
    """Return the types of the rows, in the order of `TaskType`."""
    present = {row.task for row in rows}
    return tuple(task for task in TaskType if task in present)


def too_few_rows(rows: Sequence[LabelledText], tasks: Sequence[TaskType]) -> ConfigError:
    """Return the error for a data set that no classifier can be trained on."""
    size = f"{len(rows)} rows of {len(tasks)} types"
    return ConfigError([f"classifier_data: {size} are too few to train on; expected at least two types"])


def task_indices(rows: Sequence[LabelledText], tasks: Sequence[TaskType]) -> NDArray[np.int64]:
    """Return the index of each row's type in `tasks`: (rows,)."""
    return np.array([tasks.index(row.task) for row in rows], dtype=np.int64)


def balanced_weights(targets: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return a weight per type under which all types weigh the same and the mean row weighs 1: (count,)."""
    rows = np.bincount(targets, minlength=count)
    return len(targets) / (count * np.maximum(rows, 1))
