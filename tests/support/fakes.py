"""Scripted models and small records that several tests share."""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from tapir_exp.config import CurriculumConfig
from tapir_exp.core.records import Example, Origin, TrainingExample, example_id
from tapir_exp.distillation.curriculum.sampling import PlanSettings
from tapir_exp.distillation.curriculum.task_mix import Shares
from tapir_exp.llm.chat import ChatRequest, Completion, Usage
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.ledger import Spend

Scripted = str | Completion | CallError


class ScriptedChat:
    """Chat model with scripted completions, which records the requests.

    Args:
        script: A function of the request, or the completions in order. A CallError is raised.
    """

    def __init__(self, script: Callable[[ChatRequest], Scripted] | Sequence[Scripted]) -> None:
        self.requests: list[ChatRequest] = []
        self.given_up: list[CallError] = []
        self._script = script

    def identity(self) -> dict[str, Any]:
        return {"model": "scripted"}

    @asynccontextmanager
    async def connected(self, requests: Sequence[ChatRequest]) -> AsyncIterator[None]:
        yield

    @contextmanager
    def reopened(self, stage: str) -> Iterator[tuple["ScriptedChat", Mapping[str, Spend]]]:
        yield self, {}

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        return 0

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        self.given_up.append(error)

    async def complete(self, request: ChatRequest) -> Completion:
        self.requests.append(request)
        scripted = self._script(request) if callable(self._script) else self._script[len(self.requests) - 1]
        if isinstance(scripted, CallError):
            raise scripted
        return completion_of(scripted) if isinstance(scripted, str) else scripted


def completion_of(text: str, finish_reason: str = "stop") -> Completion:
    """Return a completion with this text."""
    return Completion(
        text=text, finish_reason=finish_reason, usage=Usage(prompt_tokens=1, completion_tokens=1, usd=None)
    )


def timeout_error() -> CallError:
    """Return the failure of a call that timed out."""
    return CallError(FailureKind.TIMEOUT, "no reply in 1 s")


def prompt_of(request: ChatRequest) -> str:
    """Return the prompt of a request: its first message."""
    return request.messages[0].content


def tagged(text: str, tag: str) -> list[str]:
    """Return the texts between each pair of these tags."""
    return re.findall(rf"<{tag}>\n(.*?)\n</{tag}>", text, re.DOTALL)


def example(instruction: str, response: str = "a response", origin: Origin = Origin.SEED) -> Example:
    """Return an example with the id of its instruction."""
    return Example(id=example_id(instruction), instruction=instruction, response=response, origin=origin)


def training_row(instruction: str, **fields: Any) -> TrainingExample:
    """Return a new row of a mix; `fields` replace the defaults."""
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


def plan_settings(target: Shares, rows: int, alpha: float, seed: int = 0, round_number: int = 1) -> PlanSettings:
    """Return the settings of a plan; every seed and round draws other rows."""
    curriculum = CurriculumConfig(rows_per_round=rows, alpha=alpha, delta_alpha=0.0)
    return PlanSettings.for_round(round_number, target, curriculum, seed)
