"""What a classifier has to beat: the commonest type, and scikit-learn's text classifiers on word counts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from warnings import catch_warnings

from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.dataset import LabelledText

Baseline = Callable[[Sequence[LabelledText], Sequence[str]], list[TaskType]]
"""Takes training rows and the texts to label."""


def majority_class(rows: Sequence[LabelledText], texts: Sequence[str]) -> list[TaskType]:
    """The commonest type of the training rows, whatever the text."""
    return [Counter(row.task for row in rows).most_common(1)[0][0]] * len(texts)


def tfidf_logreg(rows: Sequence[LabelledText], texts: Sequence[str]) -> list[TaskType]:
    """Logistic regression on TF-IDF of words and pairs of words."""
    from sklearn.linear_model import LogisticRegression

    return _named_by(LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000), rows, texts)


def nearest_centroid(rows: Sequence[LabelledText], texts: Sequence[str]) -> list[TaskType]:
    """The type whose mean TF-IDF vector is the nearest."""
    from sklearn.neighbors import NearestCentroid

    return _named_by(NearestCentroid(), rows, texts)


def _named_by(classifier: Any, rows: Sequence[LabelledText], texts: Sequence[str]) -> list[TaskType]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    return fit_and_predict(make_pipeline(words, classifier), [row.text for row in rows], rows, texts)


def fit_and_predict(model: Any, known: Any, rows: Sequence[LabelledText], asked: Any) -> list[TaskType]:
    """What a classifier of scikit-learn says to `asked`, fit on `known`, which holds the features of the rows."""
    with catch_warnings(action="ignore"):  # of words that every row of a type has
        model.fit(known, [str(row.task) for row in rows])
    return [TaskType(name) for name in model.predict(asked)]


BASELINES: Mapping[str, Baseline] = {
    "commonest type": majority_class,
    "TF-IDF, logistic regression": tfidf_logreg,
    "TF-IDF, nearest centroid": nearest_centroid,
}
