"""A logistic regression on the embeddings of an encoder, and on the form of the task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tapir_exp.config import ClassifierFitConfig, Precision
from tapir_exp.core.stored_rows import KeptVectors
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.baselines import Baseline, fit_and_predict
from tapir_exp.distillation.classifier.calibration import fit_temperature
from tapir_exp.distillation.classifier.confidence import Validation, validate
from tapir_exp.distillation.classifier.dataset import LabelledText, calibration_folds
from tapir_exp.distillation.classifier.encoder.embedding import Embedder
from tapir_exp.distillation.classifier.encoder_weights import find_encoder, weights_digest
from tapir_exp.distillation.classifier.forms import add_forms
from tapir_exp.distillation.classifier.trainable import Matrix, known_tasks, task_indices, too_few_rows

HEAD = "head.safetensors"
CALIBRATION_FOLDS = 5
"""Folds of the training rows that set the temperature, each scored by a head fitted on the others."""


@dataclass(frozen=True)
class Head:
    """A linear head: weight (tasks, width) and bias (tasks,); the width includes forms if it was trained on them."""

    weight: Matrix
    bias: Matrix

    def logits(self, vectors: Matrix) -> Matrix:
        """Return the logits: (rows, tasks)."""
        scores: Matrix = vectors @ self.weight.T + self.bias
        return scores


@dataclass(frozen=True)
class LinearClassifier:
    """An encoder with a trained head."""

    embedder: Embedder
    head: Head
    tasks: tuple[TaskType, ...]
    temperature: float
    validation: Validation | None = None

    def score(self, texts: Sequence[str], progress: str, kept: KeptVectors | None = None) -> Matrix:
        """Return uncalibrated logits: (texts, tasks); `kept` has the embeddings."""
        vectors = self.embedder.embed(texts, progress, kept)
        # A head that was trained without form rules is as wide as the vectors.
        has_forms = self.head.weight.shape[1] > vectors.shape[1]
        return self.head.logits(add_forms(vectors, texts) if has_forms else vectors)

    def save(self, directory: Path) -> None:
        """Write the head; the card records the encoder by its digest."""
        save_file({"weight": self.head.weight, "bias": self.head.bias}, directory / HEAD)


class LinearProbeTrainer:
    """Trainer of heads on one encoder; each text is embedded once.

    Attributes:
        embedded: The vector of each text so far.
    """

    def __init__(self, fit: ClassifierFitConfig) -> None:
        directory = find_encoder(fit.encoder)
        self._fit, self._digest = fit, weights_digest(directory)
        self._embedder = Embedder(directory, fit.max_length, fit.batch_size, fit.precision)
        self.embedded: dict[str, Matrix] = {}

    def base(self) -> dict[str, Any]:
        """Return the encoder and its digest."""
        return {"encoder": self._fit.encoder, "sha256": self._digest}

    def fit(self, rows: Sequence[LabelledText], seed: int, progress: str) -> LinearClassifier:
        """Fit the head and its temperature.

        Raises:
            ConfigError: If the rows have fewer than two types.
        """
        classifier = self.fit_head(rows, 1.0, progress)
        vectors = self.vectors([row.text for row in rows], progress)
        temperature, validation = self._calibrate(rows, vectors, task_indices(rows, classifier.tasks), seed)
        return replace(classifier, temperature=temperature, validation=validation)

    def fit_head(self, rows: Sequence[LabelledText], temperature: float, progress: str) -> LinearClassifier:
        """Fit the head for a given temperature.

        Raises:
            ConfigError: If the rows have fewer than two types.
        """
        tasks = known_tasks(rows)
        if len(tasks) < 2:
            raise too_few_rows(rows, tasks)
        vectors = self.vectors([row.text for row in rows], progress)
        head = fit_head(vectors, task_indices(rows, tasks), self._fit)
        return LinearClassifier(self._embedder, head, tasks, temperature)

    def baselines(self) -> Mapping[str, Baseline]:
        """Return the nearest mean vector as a baseline."""
        return {f"{self._fit.encoder}, nearest centroid": self._nearest_centroid}

    def _nearest_centroid(self, rows: Sequence[LabelledText], texts: Sequence[str]) -> list[TaskType]:
        from sklearn.neighbors import NearestCentroid

        features, queries = (self.vectors(batch, "embedding") for batch in ([row.text for row in rows], texts))
        return fit_and_predict(NearestCentroid(), features, rows, queries)

    def vectors(self, texts: Sequence[str], progress: str) -> Matrix:
        """Return one vector per text, in order, with its form if form rules are used: (texts, width)."""
        # Folds and baselines embed the same texts many times.
        new = [text for text in dict.fromkeys(texts) if text not in self.embedded]
        self.embedded.update(zip(new, self._embedder.embed(new, progress), strict=True))
        vectors = np.stack([self.embedded[text] for text in texts])
        return add_forms(vectors, texts) if self._fit.form_rules else vectors

    def _calibrate(
        self, rows: Sequence[LabelledText], vectors: Matrix, targets: NDArray[np.int64], seed: int
    ) -> tuple[float, Validation | None]:
        """Return the temperature of heads on rows that they were not fitted on, and their figures on these rows.

        A row counts only if its type occurs outside its fold: no other head can predict it.
        """
        count = int(targets.max()) + 1
        logits, scored = np.full((len(rows), count), -np.inf, dtype=np.float32), np.zeros(len(rows), dtype=bool)
        for fold in calibration_folds(rows, CALIBRATION_FOLDS, seed):
            rest = np.setdiff1d(np.arange(len(rows)), fold)
            # The head of a fold has only the types of the other rows; `indices` numbers these without gaps.
            seen, indices = np.unique(targets[rest], return_inverse=True)
            if len(seen) > 1:
                logits[np.ix_(np.array(fold), seen)] = fit_head(vectors[rest], indices, self._fit).logits(vectors[fold])
                scored[fold] = np.isin(targets[fold], seen)
        temperature = fit_temperature(logits[scored], targets[scored])
        return temperature, validate(logits[scored], targets[scored], temperature)


def fit_head(vectors: Matrix, targets: NDArray[np.int64], fit: ClassifierFitConfig) -> Head:
    """Fit a multinomial logistic regression with an L2 penalty.

    Args:
        vectors: (rows, width).
        targets: Index of each row's type, (rows,); every index from 0 to the largest must occur.
        fit: Penalty and class weights.
    """
    from sklearn.linear_model import LogisticRegression

    weights = "balanced" if fit.class_weights else None
    model = LogisticRegression(C=fit.regularization_c, class_weight=weights, max_iter=1000).fit(vectors, targets)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # for two types, scikit-learn returns one logit: second against first
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.append(np.zeros_like(bias), bias)
    # safetensors writes the memory as it is, without regard to strides.
    return Head(np.ascontiguousarray(weight, dtype=np.float32), np.ascontiguousarray(bias, dtype=np.float32))


def open_linear(
    directory: Path,
    encoder: str,
    tasks: tuple[TaskType, ...],
    temperature: float,
    max_length: int,
    batch_size: int,
    precision: Precision,
) -> LinearClassifier:
    """Load a head that `save` wrote, with its encoder."""
    head = load_file(directory / HEAD)
    embedder = Embedder(find_encoder(encoder), max_length, batch_size, precision)
    return LinearClassifier(embedder, Head(head["weight"], head["bias"]), tasks, temperature)
