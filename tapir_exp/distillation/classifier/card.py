"""The card of a trained classifier: what it is, what it learnt from, and how good it was found to be."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tapir_exp.config.validate import CARD
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.records import Record
from tapir_exp.core.store import write_text_atomic
from tapir_exp.core.task_types import TaskType


class ClassifierCard(Record):
    """Provenance of a trained classifier, beside its weights.

    tasks: the types it can name, in the order of its scores. temperature: divides the scores before the softmax.
    base: the encoder it started from, with the SHA-256 of its weights where they were a file.
    data: what it was trained on: name, SHA-256 of the file, rows, rows of each type.
    settings: how it was trained. figures: what was measured on rows held out, of its siblings trained on the others.
    """

    kind: str
    tasks: tuple[TaskType, ...]
    temperature: float
    base: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    figures: dict[str, Any]


def write_card(directory: Path, card: ClassifierCard) -> None:
    """Write the card, last, so that a directory with a card is whole."""
    write_text_atomic(directory / CARD, card.model_dump_json(indent=1) + "\n")


def read_card(directory: Path) -> ClassifierCard:
    """The card of a trained classifier. Raises ConfigError where there is none, or it cannot be read."""
    path = directory / CARD
    if not path.is_file():
        raise ConfigError([f"classifier.path = {directory}: expected a trained classifier, but there is no {CARD}"])
    try:
        return ClassifierCard.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ConfigError([f"{path} is not a classifier's card: {error}"]) from error
