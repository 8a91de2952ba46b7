"""Stand-ins that several tests share."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tapir_exp.core.records import Example, Origin, TrainingExample, example_id
from tapir_exp.llm.chat import ChatRequest, Completion, Usage
from tapir_exp.llm.failures import CallError, FailureKind

Said = str | Completion | CallError


class ScriptedChat:
    """A chat model that says what `script` makes of each request, and remembers what it was asked.

    script: a function of the request, or the replies in the order in which they are to come. A CallError is raised.
    """

    def __init__(self, script: Callable[[ChatRequest], Said] | Sequence[Said]) -> None:
        self.requests: list[ChatRequest] = []
        self.given_up: list[CallError] = []
        self._script = script

    def identity(self) -> dict[str, Any]:
        return {"model": "scripted"}

    @asynccontextmanager
    async def connected(self, requests: Sequence[ChatRequest]) -> AsyncIterator[None]:
        yield

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        return 0

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        self.given_up.append(error)

    async def complete(self, request: ChatRequest) -> Completion:
        self.requests.append(request)
        said = self._script(request) if callable(self._script) else self._script[len(self.requests) - 1]
        if isinstance(said, CallError):
            raise said
        return reply_of(said) if isinstance(said, str) else said


def reply_of(text: str, finish_reason: str = "stop") -> Completion:
    """A reply of this text."""
    return Completion(
        text=text, finish_reason=finish_reason, usage=Usage(prompt_tokens=1, completion_tokens=1, usd=None)
    )


def time_out() -> CallError:
    """The failure of a call that took too long."""
    return CallError(FailureKind.TIMEOUT, "no reply in 1 s")


def said_to(request: ChatRequest) -> str:
    """The prompt of a request: its first message."""
    return request.messages[0].content


def tagged(text: str, tag: str) -> list[str]:
    """What stands between each pair of these tags."""
    return re.findall(rf"<{tag}>\n(.*?)\n</{tag}>", text, re.DOTALL)


def example(instruction: str, response: str = "a response", origin: Origin = Origin.SEED) -> Example:
    """An example with the id of its instruction."""
    return Example(id=example_id(instruction), instruction=instruction, response=response, origin=origin)


def training_row(instruction: str, **fields: Any) -> TrainingExample:
    """A new row of a mix; `fields` replace the defaults."""
    defaults: dict[str, Any] = {
        "id": example_id(instruction),
        "instruction": instruction,
        "response": "a response",
        "task": "Math",
        "subset": "hard",
        "origin": "expansion",
        "parents": ("p",),
        "created_in_round": 1,
        "difficulty": None,
    }
    return TrainingExample(**(defaults | fields))
