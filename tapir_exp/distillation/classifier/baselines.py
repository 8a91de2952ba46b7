"""Baselines for a trained classifier: the commonest type, and scikit-learn's text classifiers on word counts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from warnings import catch_warnings

from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.dataset import LabelledText

Baseline = Callable[[Sequence[LabelledText], Sequence[str]], list[TaskType]]
"""Takes training rows and the texts to classify; returns the type of each text."""


def majority_class(rows: Sequence[LabelledText], texts: Sequence[str]) -> list[TaskType]:
    """Return the commonest type of the training rows for every text."""
    return [Counter(row.task for row in rows).most_common(1)[0][0]] * len(texts)


def tfidf_logreg(rows: Sequence[LabelledText], texts: Sequence[str]) -> list[TaskType]:
    """Classify with a logistic regression on TF-IDF of words and word pairs."""
    from sklearn.linear_model import LogisticRegression

    return _fit_on_tfidf(LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000), rows, texts)


def nearest_centroid(rows: Sequence[LabelledText], texts: Sequence[str]) -> list[TaskType]:
    """Return the type with the nearest mean TF-IDF vector for each text."""
    from sklearn.neighbors import NearestCentroid

    return _fit_on_tfidf(NearestCentroid(), rows, texts)


def _fit_on_tfidf(classifier: Any, rows: Sequence[LabelledText], texts: Sequence[str]) -> list[TaskType]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    return fit_and_predict(make_pipeline(vectorizer, classifier), [row.text for row in rows], rows, texts)


def fit_and_predict(model: Any, features: Any, rows: Sequence[LabelledText], queries: Any) -> list[TaskType]:
    """Fit a scikit-learn classifier and return its predictions.

    Args:
        model: A classifier or a pipeline that ends in one.
        features: Features of the training rows, in order.
        rows: The training rows, for their types.
        queries: Features to classify.
    """
    with catch_warnings(action="ignore"):  # of features that are constant within a type
        model.fit(features, [str(row.task) for row in rows])
    return [TaskType(name) for name in model.predict(queries)]


BASELINES: Mapping[str, Baseline] = {
    "commonest type": majority_class,
    "TF-IDF, logistic regression": tfidf_logreg,
    "TF-IDF, nearest centroid": nearest_centroid,
}
