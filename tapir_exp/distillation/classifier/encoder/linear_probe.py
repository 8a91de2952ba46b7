"""A logistic regression on an encoder's vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tapir_exp.config import ClassifierFitConfig, Precision
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.baselines import Baseline, fit_and_predict
from tapir_exp.distillation.classifier.batching import Matrix
from tapir_exp.distillation.classifier.calibration import fit_temperature
from tapir_exp.distillation.classifier.dataset import LabelledText, stratified_folds
from tapir_exp.distillation.classifier.encoder.embedding import Embedder
from tapir_exp.distillation.classifier.encoder_weights import find_encoder, weights_digest
from tapir_exp.distillation.classifier.trainable import known_tasks, targets_of

HEAD = "head.safetensors"
CALIBRATION_PARTS = 5
"""Parts of the training rows that set the temperature, each scored by a head fit on the others."""


@dataclass(frozen=True)
class Head:
    """A linear head: weight (tasks, width) and bias (tasks,)."""

    weight: Matrix
    bias: Matrix

    def logits(self, vectors: Matrix) -> Matrix:
        """(rows, tasks)."""
        scores: Matrix = vectors @ self.weight.T + self.bias
        return scores


@dataclass(frozen=True)
class LinearClassifier:
    """An encoder with a trained head."""

    embedder: Embedder
    head: Head
    tasks: tuple[TaskType, ...]
    temperature: float

    def score(self, texts: Sequence[str], progress: str) -> Matrix:
        """Logits: (texts, tasks)."""
        return self.head.logits(self.embedder.embed(texts, progress))

    def save(self, directory: Path) -> None:
        """Write the head; the encoder stays where it is, told by its digest."""
        save_file({"weight": self.head.weight, "bias": self.head.bias}, directory / HEAD)


class LinearProbeTrainer:
    """Trains heads on one encoder; a text that comes again is not embedded again."""

    def __init__(self, fit: ClassifierFitConfig) -> None:
        directory = find_encoder(fit.encoder)
        self._fit, self._digest = fit, weights_digest(directory)
        self._embedder = Embedder(directory, fit.max_length, fit.batch_size, fit.precision)
        self._known: dict[str, Matrix] = {}

    def base(self) -> dict[str, Any]:
        """The encoder and its digest."""
        return {"encoder": self._fit.encoder, "sha256": self._digest}

    def learn(self, rows: Sequence[LabelledText], seed: int, progress: str) -> LinearClassifier:
        """Fit the head and its temperature. Raises ConfigError where rows hold fewer than two types."""
        tasks = known_tasks(rows)
        if len(tasks) < 2:
            raise ConfigError([f"labelled: {len(rows)} rows of {len(tasks)} types are too few to train on"])
        vectors = self.vectors([row.text for row in rows], progress)
        targets = targets_of(rows, tasks)
        temperature = self._temperature(rows, vectors, targets, seed)
        return LinearClassifier(self._embedder, fit_head(vectors, targets, self._fit), tasks, temperature)

    def baselines(self) -> Mapping[str, Baseline]:
        """The nearest mean vector."""
        return {f"{self._fit.encoder}, nearest centroid": self._take_the_nearest}

    def _take_the_nearest(self, rows: Sequence[LabelledText], texts: Sequence[str]) -> list[TaskType]:
        from sklearn.neighbors import NearestCentroid

        known, asked = (self.vectors(found, "embedding") for found in ([row.text for row in rows], texts))
        return fit_and_predict(NearestCentroid(), known, rows, asked)

    def vectors(self, texts: Sequence[str], progress: str) -> Matrix:
        """One row a text."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(fresh, self._embedder.embed(fresh, progress), strict=True))
        return np.stack([self._known[text] for text in texts])

    def _temperature(
        self, rows: Sequence[LabelledText], vectors: Matrix, targets: NDArray[np.int64], seed: int
    ) -> float:
        """Of heads that did not see the rows they score; a row whose type only it has tells nothing."""
        count = int(targets.max()) + 1
        logits, scored = np.full((len(rows), count), -np.inf, dtype=np.float32), np.zeros(len(rows), dtype=bool)
        for part in stratified_folds(rows, CALIBRATION_PARTS, seed):
            rest = np.setdiff1d(np.arange(len(rows)), part)
            seen, places = np.unique(targets[rest], return_inverse=True)
            if len(seen) > 1:
                logits[np.ix_(np.array(part), seen)] = fit_head(vectors[rest], places, self._fit).logits(vectors[part])
                scored[part] = np.isin(targets[part], seen)
        return fit_temperature(logits[scored], targets[scored])


def fit_head(vectors: Matrix, targets: NDArray[np.int64], fit: ClassifierFitConfig) -> Head:
    """Multinomial logistic regression with an L2 penalty; targets are 0 to count - 1, each of them present."""
    from sklearn.linear_model import LogisticRegression

    weights = "balanced" if fit.class_weights else None
    model = LogisticRegression(C=fit.regularization_c, class_weight=weights, max_iter=1000).fit(vectors, targets)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # of two types, the regression holds the second against the first
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.append(np.zeros_like(bias), bias)
    # safetensors writes memory as it lies, whatever the strides say
    return Head(np.ascontiguousarray(weight, dtype=np.float32), np.ascontiguousarray(bias, dtype=np.float32))


def open_linear(
    directory: Path,
    encoder: str,
    tasks: tuple[TaskType, ...],
    temperature: float,
    max_length: int,
    batch: int,
    precision: Precision,
) -> LinearClassifier:
    """What `save` wrote, on its encoder."""
    head = load_file(directory / HEAD)
    embedder = Embedder(find_encoder(encoder), max_length, batch, precision)
    return LinearClassifier(embedder, Head(head["weight"], head["bias"]), tasks, temperature)
