"""A chat model, asked by prompt, names the type of each instruction."""

from collections.abc import Sequence
from typing import Any

from tapir_exp.config import ClassifierConfig
from tapir_exp.core.errors import ReplyError
from tapir_exp.core.records import Example, Label
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.prompts import load_prompt
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message
from tapir_exp.llm.executor import run_requests

_BY_NAME = {task.casefold(): task for task in TaskType}


class LLMClassifier:
    """A classifier that asks a chat model; it says nothing of how sure it is."""

    def __init__(self, chat: ChatModel, config: ClassifierConfig) -> None:
        self._chat, self._config = chat, config

    def recipe(self) -> dict[str, Any]:
        """The model, the length of its reply, and the prompt."""
        settings = {"model": self._chat.identity(), "max_tokens": self._config.max_tokens}
        return {"labeller": settings, "label prompt": load_prompt("label").text}

    def count_cached(self, examples: Sequence[Example]) -> int:
        """How many of the examples need no call."""
        return self._chat.count_cached(
            [build_classification_request(example.instruction, self._config) for example in examples]
        )

    def label(self, examples: Sequence[Example], progress: str) -> list[Label]:
        """One label an example, in order; a reply that names no type leaves the row unlabelled, never "Others".

        Raises TooManyFailures where more than `max_failure_rate` of the rows are unlabelled.
        """
        outcomes = run_requests(
            self._chat,
            [build_classification_request(example.instruction, self._config) for example in examples],
            parse_task,
            label=progress,
            concurrency=self._config.llm.concurrency,
            max_failure_rate=self._config.max_failure_rate,
        )
        source = str(self._chat.identity()["model"])
        return [
            Label(id=example.id, task=outcome.value, raw=outcome.raw, failure=outcome.failure, source=source)
            for example, outcome in zip(examples, outcomes, strict=True)
        ]


def build_classification_request(instruction: str, config: ClassifierConfig) -> ChatRequest:
    """The call that asks for the type of one instruction."""
    text = load_prompt("label").fill(types=", ".join(TaskType), instruction=instruction)
    return ChatRequest(messages=(Message(role="user", content=text),), max_tokens=config.max_tokens)


def parse_task(reply: Completion) -> TaskType:
    """The type that the reply consists of. Raises ReplyError where it holds anything else."""
    name = reply.text.strip().rstrip(".").casefold()
    if name not in _BY_NAME:
        raise ReplyError(f"It must be the name of one type and nothing else, but it is {reply.text.strip()[:80]!r}.")
    return _BY_NAME[name]
