"""What can be trained to label, and what it is when it is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.baselines import Baseline
from tapir_exp.distillation.classifier.batching import Matrix
from tapir_exp.distillation.classifier.calibration import softmax
from tapir_exp.distillation.classifier.dataset import LabelledText


class TrainedClassifier(Protocol):
    """A trained model: it scores texts for the types that it learnt."""

    @property
    def tasks(self) -> Sequence[TaskType]:
        """The types it can name, in the order of its scores."""
        ...

    @property
    def temperature(self) -> float:
        """By what its scores are divided before the softmax, so that its confidence is what it promises."""
        ...

    def score(self, texts: Sequence[str], progress: str) -> Matrix:
        """Logits, uncalibrated: (texts, tasks)."""
        ...

    def save(self, directory: Path) -> None:
        """Write what `open_learnt` needs, the card excepted."""
        ...


class ClassifierTrainer(Protocol):
    """A way to train a classifier."""

    def learn(self, rows: Sequence[LabelledText], seed: int, progress: str) -> TrainedClassifier:
        """Train on labelled rows; the same arguments give the same classifier."""
        ...

    def base(self) -> dict[str, Any]:
        """What it starts from: name of the encoder, and the SHA-256 of its weights where they are a file here."""
        ...

    def baselines(self) -> Mapping[str, Baseline]:
        """Simpler ways to label with what it starts from; empty where there are none."""
        ...


@dataclass(frozen=True)
class Prediction:
    """A type, and how sure the classifier is of it: 0 to 1, or None where it does not say."""

    task: TaskType | None
    confidence: float | None


def predict(learnt: TrainedClassifier, texts: Sequence[str], progress: str) -> list[Prediction]:
    """The likeliest type of each text with its calibrated probability."""
    if not texts:
        return []
    sure = softmax(learnt.score(texts, progress), learnt.temperature)
    best = sure.argmax(1)
    return [
        Prediction(learnt.tasks[int(place)], round(float(row[place]), 6)) for place, row in zip(best, sure, strict=True)
    ]


def known_tasks(rows: Sequence[LabelledText]) -> tuple[TaskType, ...]:
    """The types that rows hold, in the order of the taxonomy."""
    present = {row.task for row in rows}
    return tuple(task for task in TaskType if task in present)


def targets_of(rows: Sequence[LabelledText], tasks: Sequence[TaskType]) -> NDArray[np.int64]:
    """The place of each row's type among the tasks."""
    return np.array([tasks.index(row.task) for row in rows], dtype=np.int64)


def balanced_weights(targets: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """A weight for each type under which all weigh the same, and the mean row weighs 1."""
    rows = np.bincount(targets, minlength=count)
    return len(targets) / (count * np.maximum(rows, 1))
