"""The classifier that was trained: opened from its directory, or fit at once on the package's examples."""

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
from tapir_exp.distillation.classifier.card import ClassifierCard, read_card
from tapir_exp.distillation.classifier.dataset import package_examples
from tapir_exp.distillation.classifier.encoder_weights import REMEDY, find_encoder, weights_digest
from tapir_exp.distillation.classifier.trainable import ClassifierTrainer, TrainedClassifier, predict


class CachedClassifier:
    """A classifier that learnt its types from labelled instructions; it always names one, and how sure it is."""

    def __init__(self, config: ClassifierConfig) -> None:
        """Raises ConfigError where the classifier is not there, or not of the configured kind, or its encoder changed."""
        self._config, self._fit = config, ClassifierFitConfig(precision=config.precision)
        self._card = None if config.path is None else read_card(Path(config.path))
        self._recipe = _examples_recipe(self._fit) if self._card is None else _directory_recipe(config, self._card)

    def recipe(self) -> dict[str, Any]:
        """The digest of every file of the classifier, or of what it is fit on."""
        return {"labeller": self._recipe}

    def count_cached(self, examples: Sequence[Example]) -> int:
        """None: no chat model is asked."""
        return 0

    @property
    def source(self) -> str:
        """Kind and digest, as its labels carry them."""
        return f"{self._config.kind.value}:{sha256(repr(self._recipe).encode()).hexdigest()[:12]}"

    def label(self, examples: Sequence[Example], progress: str) -> list[Label]:
        """The likeliest type of each example, with its calibrated probability."""
        guesses = predict(self._learnt, [example.instruction for example in examples], progress)
        return [
            Label(id=example.id, task=made.task, raw="", confidence=made.confidence, source=self.source)
            for example, made in zip(examples, guesses, strict=True)
        ]

    @cached_property
    def _learnt(self) -> TrainedClassifier:
        if self._card is None or self._config.path is None:
            return open_trainer(self._fit, TrainerConfig()).learn(package_examples().rows, 0, "fitting the classifier")
        return open_trained(Path(self._config.path), self._card, self._config)


def open_trainer(fit: ClassifierFitConfig, trainer: TrainerConfig) -> ClassifierTrainer:
    """The way to train that a configuration asks for. Raises ConfigError where a package or its encoder is missing."""
    if find_spec("sklearn") is None:
        raise ConfigError([f"fit.kind = {fit.kind.value}: training takes scikit-learn, which is missing: {REMEDY}"])
    if fit.kind is ClassifierKind.deberta:
        from tapir_exp.distillation.classifier.deberta.trainer import DebertaTrainer

        return DebertaTrainer(fit, trainer)
    from tapir_exp.distillation.classifier.encoder.linear_probe import LinearProbeTrainer

    return LinearProbeTrainer(fit)


def open_trained(directory: Path, card: ClassifierCard, config: ClassifierConfig) -> TrainedClassifier:
    """A trained classifier from its directory, to label as configured."""
    batch, length = config.batch_size, int(card.settings["max_length"])
    if card.kind == ClassifierKind.deberta.value:
        from tapir_exp.distillation.classifier.deberta.trainer import open_deberta

        return open_deberta(directory, card.tasks, card.temperature, length, batch)
    from tapir_exp.distillation.classifier.encoder.linear_probe import open_linear

    encoder = str(card.base["encoder"])
    return open_linear(directory, encoder, card.tasks, card.temperature, length, batch, config.precision)


def _examples_recipe(fit: ClassifierFitConfig) -> dict[str, Any]:
    return {
        "examples": package_examples().digest,
        "encoder": weights_digest(find_encoder(fit.encoder)),
        **_precision_recipe(fit.precision),
        "fit": {name: value for name, value in asdict(fit).items() if name not in ("batch", "precision")},
    }


def _directory_recipe(config: ClassifierConfig, card: ClassifierCard) -> dict[str, Any]:
    if card.kind != config.kind.value:
        raise ConfigError([f"classifier.kind = {config.kind.value}: expected {card.kind}, which {config.path} is"])
    recipe: dict[str, Any] = {"kind": card.kind, "files": digest_files(Path(str(config.path)))}
    if config.kind is ClassifierKind.encoder:
        recipe |= _precision_recipe(config.precision)
        recipe["encoder"] = weights_digest(find_encoder(str(card.base["encoder"])))
        if recipe["encoder"] != card.base["sha256"]:
            raise ConfigError(
                [f"{card.base['encoder']}: other weights than {config.path} was trained on; train it anew"]
            )
    return recipe


def _precision_recipe(precision: Precision) -> dict[str, Any]:
    """Nothing where it is the default, so that labels made before there was a choice are found again."""
    return {} if precision is Precision.float32 else {"precision": precision.value}
