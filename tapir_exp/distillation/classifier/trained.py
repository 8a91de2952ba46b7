"""A trained classifier: opened from its directory, or fitted on the package's examples."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tapir_exp.config import ClassifierConfig, ClassifierFitConfig, ClassifierKind, Precision, TrainerConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.records import Example, Label
from tapir_exp.core.store import digest_files
from tapir_exp.core.stored_rows import KeptVectors
from tapir_exp.distillation.classifier.card import ClassifierCard, read_card
from tapir_exp.distillation.classifier.confidence import Validation
from tapir_exp.distillation.classifier.dataset import package_examples
from tapir_exp.distillation.classifier.encoder_weights import REMEDY, find_encoder, weights_digest
from tapir_exp.distillation.classifier.forms import FORMS_DIGEST
from tapir_exp.distillation.classifier.trainable import (
    ClassifierTrainer,
    Prediction,
    TrainedClassifier,
    predict,
)

PACKAGE_TEMPERATURE = 0.95
"""Temperature of the head on the package's examples, fitted on four sources that none of the examples comes from.

Folds of the examples would give a lower one: their author is the same. benchmarks/classifier/sources.py measures it.
"""
PACKAGE_VALIDATION = Validation(rows=419, accuracy=0.605, mean_confidence=0.5635)
"""Means over these sources. Folds left out in turn gave about the same confidence, 0.56."""


class CachedClassifier:
    """A trained classifier that loads its weights on first use.

    It gives each row a confidence, and no type to a row whose confidence is below `classifier.min_confidence`.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        """Check the classifier without loading its weights.

        Raises:
            ConfigError: If the classifier is missing or of another kind, or if its encoder has changed.
        """
        self._config, self._fit = config, ClassifierFitConfig(precision=config.precision)
        self._card = None if config.path is None else read_card(Path(config.path))
        self._recipe = _examples_recipe(self._fit) if self._card is None else _directory_recipe(config, self._card)

    def recipe(self) -> dict[str, Any]:
        """Return the digest of every file of the classifier, or of its training data."""
        # Labels without abstention keep the keys of earlier versions.
        least = self._config.min_confidence
        return {"classifier": self._recipe if least is None else {**self._recipe, "min_confidence": least}}

    def validation(self) -> Validation | None:
        """Return the validation in the card, or that of the package's examples; nothing is loaded."""
        return PACKAGE_VALIDATION if self._card is None else self._card.validation

    def count_cached(self, examples: Sequence[Example]) -> int:
        """Return 0: there are no calls to a chat model."""
        return 0

    @property
    def source(self) -> str:
        """Kind and digest, the source of its labels."""
        return f"{self._config.kind.value}:{sha256(repr(self._recipe).encode()).hexdigest()[:12]}"

    def label(self, examples: Sequence[Example], progress: str, *, kept: KeptVectors | None = None) -> list[Label]:
        """Return the most probable type of each example with its calibrated probability, or no type below the limit.

        Args:
            examples: The instructions.
            progress: Name of the work in the terminal.
            kept: Results of the encoder that an earlier process made, and new ones as they come.
        """
        predictions = predict(self._classifier, [example.instruction for example in examples], progress, kept)
        return [self._label(example, made) for example, made in zip(examples, predictions, strict=True)]

    def _label(self, example: Example, made: Prediction) -> Label:
        least = self._config.min_confidence
        if least is None or made.confidence is None or made.confidence >= least:
            return Label(id=example.id, task=made.task, raw="", confidence=made.confidence, source=self.source)
        return Label(
            id=example.id,
            task=None,
            raw=str(made.task),
            failure=f"abstained: confidence below classifier.min_confidence = {least:g}",
            confidence=made.confidence,
            source=self.source,
        )

    # Loading or fitting takes seconds, which a run with cached labels must not pay.
    @cached_property
    def _classifier(self) -> TrainedClassifier:
        if self._card is None or self._config.path is None:
            return fit_package_head(self._fit)
        return open_trained(Path(self._config.path), self._card, self._config)


def fit_package_head(fit: ClassifierFitConfig) -> TrainedClassifier:
    """Return the head on the package's examples, with the temperature for texts of other sources."""
    from tapir_exp.distillation.classifier.encoder.linear_probe import LinearProbeTrainer

    check_scikit_learn(fit)
    trainer = LinearProbeTrainer(fit)
    return trainer.fit_head(package_examples().rows, PACKAGE_TEMPERATURE, "fitting the classifier")


def check_scikit_learn(fit: ClassifierFitConfig) -> None:
    """Check that training is possible.

    Raises:
        ConfigError: If scikit-learn is missing.
    """
    if find_spec("sklearn") is None:
        kind = f"classifier_training.kind = {fit.kind.value}"
        raise ConfigError([f"{kind}: training needs scikit-learn, which is not installed. Install it: {REMEDY}"])


def open_trainer(fit: ClassifierFitConfig, trainer: TrainerConfig) -> ClassifierTrainer:
    """Return the configured trainer.

    Raises:
        ConfigError: If a package or the encoder is missing.
    """
    check_scikit_learn(fit)
    # Imported here: each kind needs other packages.
    if fit.kind is ClassifierKind.deberta:
        from tapir_exp.distillation.classifier.deberta.trainer import DebertaTrainer

        return DebertaTrainer(fit, trainer)
    from tapir_exp.distillation.classifier.encoder.linear_probe import LinearProbeTrainer

    return LinearProbeTrainer(fit)


def open_trained(directory: Path, card: ClassifierCard, config: ClassifierConfig) -> TrainedClassifier:
    """Open a trained classifier with the configured batch size and precision."""
    batch_size, max_length = config.batch_size, int(card.settings["max_length"])
    if card.kind == ClassifierKind.deberta.value:
        from tapir_exp.distillation.classifier.deberta.trainer import open_deberta

        return open_deberta(directory, card.tasks, card.temperature, max_length, batch_size)
    from tapir_exp.distillation.classifier.encoder.linear_probe import open_linear

    encoder = str(card.base["encoder"])
    return open_linear(directory, encoder, card.tasks, card.temperature, max_length, batch_size, config.precision)


def _examples_recipe(fit: ClassifierFitConfig) -> dict[str, Any]:
    return {
        "examples": package_examples().digest,
        "forms": FORMS_DIGEST,
        "temperature": PACKAGE_TEMPERATURE,
        "encoder": weights_digest(find_encoder(fit.encoder)),
        **_precision_recipe(fit.precision),
        # The batch size only changes the speed; the precision has a separate entry.
        "fit": {name: value for name, value in asdict(fit).items() if name not in ("batch_size", "precision")},
    }


def _directory_recipe(config: ClassifierConfig, card: ClassifierCard) -> dict[str, Any]:
    if card.kind != config.kind.value:
        raise ConfigError([f"classifier.kind = {config.kind.value}: expected {card.kind}, the kind of {config.path}"])
    recipe: dict[str, Any] = {"kind": card.kind, "files": digest_files(Path(str(config.path)))}
    if config.kind is ClassifierKind.encoder:
        recipe |= _precision_recipe(config.precision)
        if card.forms not in (None, FORMS_DIGEST):
            raise ConfigError([f"{config.path} was trained with other form rules; train the classifier again"])
        # The head is useless on other weights than those it was trained on.
        recipe["encoder"] = weights_digest(find_encoder(str(card.base["encoder"])))
        if recipe["encoder"] != card.base["sha256"]:
            problem = f"the weights differ from those that {config.path} was trained on; train the classifier again"
            raise ConfigError([f"{card.base['encoder']}: {problem}"])
    return recipe


def _precision_recipe(precision: Precision) -> dict[str, Any]:
    """Return the precision, or nothing for float32, so that labels of earlier versions keep their keys."""
    return {} if precision is Precision.float32 else {"precision": precision.value}
