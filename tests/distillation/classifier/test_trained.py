"""The recipe of a trained classifier has what changes its labels, and nothing else."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from fakes import example

from tapir_exp.config import ClassifierConfig, ClassifierKind, Precision
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.card import ClassifierCard, write_card
from tapir_exp.distillation.classifier.encoder_weights import MINILM_SHA256, PACKAGE, weights_digest
from tapir_exp.distillation.classifier.forms import FORMS_DIGEST
from tapir_exp.distillation.classifier.trainable import Matrix
from tapir_exp.distillation.classifier.trained import CachedClassifier


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the extra `local` is not installed")
def test_recipe_omits_the_batch_size_and_the_default_precision() -> None:
    config = ClassifierConfig(kind=ClassifierKind.encoder)
    recipe = CachedClassifier(config).recipe()["classifier"]
    assert recipe["encoder"] == MINILM_SHA256
    assert not {"batch_size", "precision"} & recipe["fit"].keys()
    assert "precision" not in recipe
    half = ClassifierConfig(kind=ClassifierKind.encoder, precision=Precision.bfloat16, batch_size=3)
    assert CachedClassifier(half).recipe()["classifier"] == {**recipe, "precision": "bfloat16"}


class Fixed:
    """Scores every text as Math or Law with a probability of 0.6."""

    tasks, temperature, validation = (TaskType.MATH, TaskType.LAW), 1.0, None

    def score(self, texts: Sequence[str], progress: str) -> Matrix:
        return np.log(np.tile(np.array([[0.6, 0.4]], dtype=np.float32), (len(texts), 1)))

    def save(self, directory: Path) -> None:
        raise AssertionError("unexpected call")


@pytest.mark.parametrize(("least", "task"), [(None, TaskType.MATH), (0.6, TaskType.MATH), (0.61, None)])
def test_label_below_the_limit_has_no_type_but_a_best_guess(
    deberta_base: Path, tmp_path: Path, least: float | None, task: TaskType | None
) -> None:
    write_card(tmp_path, encoder_card(deberta_base))
    classifier = CachedClassifier(
        ClassifierConfig(kind=ClassifierKind.encoder, path=str(tmp_path), min_confidence=least)
    )
    classifier.__dict__["_classifier"] = Fixed()
    (label,) = classifier.label([example("Add 1 and 2.")], "")
    assert (label.task, label.best_guess, label.confidence) == (task, TaskType.MATH, pytest.approx(0.6))
    assert (label.failure is None) == (task is not None)
    assert classifier.recipe()["classifier"].get("min_confidence") == least


def test_classifier_with_other_form_rules_is_rejected(deberta_base: Path, tmp_path: Path) -> None:
    config = ClassifierConfig(kind=ClassifierKind.encoder, path=str(tmp_path))
    write_card(tmp_path, encoder_card(deberta_base, FORMS_DIGEST))
    CachedClassifier(config)
    write_card(tmp_path, encoder_card(deberta_base, "0" * 64))
    with pytest.raises(ConfigError, match="trained with other form rules; train the classifier again"):
        CachedClassifier(config)


def encoder_card(encoder: Path, forms: str | None = None) -> ClassifierCard:
    base = {"encoder": str(encoder), "sha256": weights_digest(encoder)}
    return ClassifierCard(
        kind="encoder", tasks=(), temperature=1, base=base, data={}, settings={}, figures={}, forms=forms
    )
