"""The protocol of a task classifier, and the factory that opens the configured one."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tapir_exp.config import ClassifierConfig, ClassifierKind
from tapir_exp.core.records import Example, Label
from tapir_exp.core.stored_rows import KeptVectors
from tapir_exp.distillation.classifier.confidence import Validation
from tapir_exp.llm.chat import ChatModel


class TaskClassifier(Protocol):
    """A classifier of instructions by task type."""

    def recipe(self) -> dict[str, Any]:
        """Return everything about the classifier that changes its labels; part of artifact keys."""
        ...

    def label(self, examples: Sequence[Example], progress: str, *, kept: KeptVectors | None = None) -> Sequence[Label]:
        """Return one label per example, in order.

        Args:
            examples: The instructions.
            progress: Name of the work in the terminal and in errors.
            kept: Results that a trained classifier has computed, by the index of the example. Those of an earlier
                process are used, and new ones are added as they come.
        """
        ...

    def validation(self) -> Validation | None:
        """Return the figures of rows that the classifier was not trained on; None if it has none."""
        ...

    def count_cached(self, examples: Sequence[Example]) -> int:
        """Return the number of examples with a cached completion; 0 if the classifier calls no chat model."""
        ...


def open_classifier(config: ClassifierConfig, open_chat: Callable[[], ChatModel]) -> TaskClassifier:
    """Open the configured classifier; `open_chat` is called only if it needs a chat model.

    Raises:
        ConfigError: If a trained classifier, its encoder or a package is missing, or if the encoder has changed.
    """
    # Imported here: a run with a chat model needs no torch, and one with an encoder no prompt.
    if config.kind is ClassifierKind.llm:
        from tapir_exp.distillation.classifier.llm import LLMClassifier

        return LLMClassifier(open_chat(), config)
    from tapir_exp.distillation.classifier.trained import CachedClassifier

    return CachedClassifier(config)
