"""The card of a trained classifier: its kind, its training data, and its measured quality."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tapir_exp.config.validate import CARD
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.records import Record
from tapir_exp.core.store import write_text_atomic
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.confidence import Validation


class ClassifierCard(Record):
    """Provenance of a trained classifier, stored next to its weights.

    Attributes:
        kind: A value of `ClassifierKind`.
        tasks: The types that it predicts, in the order of its logits.
        temperature: Divisor of the logits before the softmax.
        base: The encoder it started from, with the SHA-256 of its weights if they were a file.
        data: Its training data: name, SHA-256 of the file, rows, rows of each type.
        settings: Settings of its training.
        figures: Measurements on held-out folds, of classifiers trained on the other folds.
        forms: SHA-256 of the form rules whose features the head has; None if it has none.
        validation: Figures of the rows that set the temperature; None in cards of earlier versions.
    """

    kind: str
    tasks: tuple[TaskType, ...]
    temperature: float
    base: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    figures: dict[str, Any]
    forms: str | None = None
    validation: Validation | None = None


def write_card(directory: Path, card: ClassifierCard) -> None:
    """Write the card. Write it last: a directory with a card is complete."""
    write_text_atomic(directory / CARD, card.model_dump_json(indent=1) + "\n")


def read_card(directory: Path) -> ClassifierCard:
    """Return the card of a trained classifier.

    Raises:
        ConfigError: If there is no card, or if it is invalid.
    """
    path = directory / CARD
    if not path.is_file():
        expected = f"expected a directory with a {CARD}, as tapir classify job=train writes it"
        raise ConfigError([f"classifier.path = {directory}: {expected}"])
    try:
        return ClassifierCard.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ConfigError([f"{path}: expected the card of a classifier, but it is invalid: {error}"]) from error
