"""The recipe of a trained classifier has what changes its labels, and nothing else."""

from importlib.util import find_spec

import pytest

from tapir_exp.config import ClassifierConfig, ClassifierKind, Precision
from tapir_exp.distillation.classifier.encoder_weights import MINILM_SHA256, PACKAGE
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
