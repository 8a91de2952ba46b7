"""What a classifier is, and the one that a configuration asks for."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tapir_exp.config import ClassifierConfig, ClassifierKind
from tapir_exp.core.records import Example, Label
from tapir_exp.llm.chat import ChatModel


class TaskClassifier(Protocol):
    """Anything that names the task types of instructions."""

    def recipe(self) -> dict[str, Any]:
        """Everything about the classifier that changes its labels; part of artifact keys."""
        ...

    def label(self, examples: Sequence[Example], progress: str) -> list[Label]:
        """One label an example, in order; `progress` names the work in the terminal and in errors."""
        ...

    def count_cached(self, examples: Sequence[Example]) -> int:
        """How many of the examples have the reply of a chat model at hand; 0 where none is asked."""
        ...


def open_classifier(config: ClassifierConfig, open_chat: Callable[[], ChatModel]) -> TaskClassifier:
    """The classifier of a configuration; `open_chat` opens the chat model, where one is asked.

    Raises ConfigError where a trained classifier, its encoder or a package that it needs is missing or another.
    """
    if config.kind is ClassifierKind.llm:
        from tapir_exp.distillation.classifier.llm import LLMClassifier

        return LLMClassifier(open_chat(), config)
    from tapir_exp.distillation.classifier.trained import CachedClassifier

    return CachedClassifier(config)
