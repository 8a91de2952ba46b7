"""A classifier that prompts a chat model for the type of each instruction."""

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, Self

from tapir_exp.config import ClassifierConfig
from tapir_exp.core.errors import ReplyError
from tapir_exp.core.records import Example, Label
from tapir_exp.core.stored_rows import KeptVectors, LazySequence, in_order
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.prompts import load_prompt
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message
from tapir_exp.llm.executor import OnResult, RequestResult, run_each

# A reply must equal a name: "This is not Math" must not count as Math.
_BY_NAME = {task.casefold(): task for task in TaskType}


class LLMClassifier:
    """A prompted chat model; its labels have no confidence."""

    def __init__(self, chat: ChatModel, config: ClassifierConfig) -> None:
        self._chat, self._config = chat, config

    def recipe(self) -> dict[str, Any]:
        """Return the model, the length limit of its replies, and the prompt."""
        settings = {"model": self._chat.identity(), "max_tokens": self._config.max_tokens}
        return {"classifier": settings, "label prompt": load_prompt("label").text}

    def validation(self) -> None:
        """Return None: a chat model states no confidence."""

    def count_cached(self, examples: Sequence[Example]) -> int:
        """Return the number of examples that need no call."""
        return self._chat.count_cached(self._requests(examples))

    def watched(self, watch: Callable[[ChatModel], ChatModel]) -> Self:
        """Return the same classifier whose model is `watch(model)`, with any number of unlabelled rows."""
        return type(self)(watch(self._chat), replace(self._config, max_failure_rate=1.0))

    def label(
        self,
        examples: Sequence[Example],
        progress: str,
        on_result: OnResult | None = None,
        labels: MutableMapping[int, Label] | None = None,
        *,
        kept: KeptVectors | None = None,
    ) -> Sequence[Label]:
        """Return one label per example, in order.

        A reply without a type leaves the row unlabelled. It never becomes "Others".

        Args:
            examples: The instructions.
            progress: Name of the work in the terminal and in errors.
            on_result: Called with the index and the result of each request.
            labels: Gets the labels, by the index of their example; by default they stay in memory.
            kept: Not used, since completions are cached.

        Raises:
            TooManyFailures: If more than `max_failure_rate` of the rows are unlabelled.
        """
        labels, source = {} if labels is None else labels, str(self._chat.identity()["model"])

        def add(index: int, result: RequestResult[TaskType]) -> None:
            labels[index] = Label(
                id=examples[index].id, task=result.value, raw=result.raw, failure=result.failure, source=source
            )
            if on_result is not None:
                on_result(index, result)

        run_each(
            self._chat,
            self._requests(examples),
            parse_task,
            add,
            label=progress,
            concurrency=self._config.llm.most_in_flight,
            max_failure_rate=self._config.max_failure_rate,
        )
        return in_order(labels, len(examples))

    def _requests(self, examples: Sequence[Example]) -> Sequence[ChatRequest]:
        return LazySequence(
            len(examples), lambda index: build_classification_request(examples[index].instruction, self._config)
        )


def build_classification_request(instruction: str, config: ClassifierConfig) -> ChatRequest:
    """Return the call for the type of one instruction."""
    text = load_prompt("label").fill(types=", ".join(TaskType), instruction=instruction)
    return ChatRequest(messages=(Message(role="user", content=text),), max_tokens=config.max_tokens)


def parse_task(completion: Completion) -> TaskType:
    """Return the type that a reply consists of.

    Raises:
        ReplyError: If the reply contains anything else.
    """
    name = completion.text.strip().rstrip(".").casefold()
    if name not in _BY_NAME:
        # The message is sent to the model with the second try, so it is part of a cache key: do not edit it.
        text = completion.text.strip()[:80]
        raise ReplyError(f"It must be the name of one type and nothing else, but it is {text!r}.")
    return _BY_NAME[name]
