"""A provider whose replies are often useless, and students that take no time, for runs of random settings."""

import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapir_exp import tapir
from tapir_exp.core.records import Response, rollout_id
from tapir_exp.core.store import Artifact
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.llm.completions import estimate_prompt
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.transport import RawCompletion
from tapir_exp.pipeline import generation, held_out, measures
from tapir_exp.pipeline.measures import ScoringInputs
from tapir_exp.pipeline.subject import EvalQuestion, EvaluatedModel
from tapir_exp.pipeline.workspace import StageOutput, Workspace

TYPES = ("Math", "Writing", "Law")
PAIR = "<pair>\n<instruction>\n{}\n</instruction>\n<response>\n{}\n</response>\n</pair>"


class UnreliableProvider:
    """Replies in the form that a prompt asks for, or with a share of bad replies of every kind.

    Prompts have as many tokens as `estimate_tokens` allows, and completions up to the limit of their request.
    """

    def __init__(self, seed: int, bad: float, room: int) -> None:
        """Set up the provider.

        Args:
            seed: Seed of the replies.
            bad: Share of the bad ones.
            room: Tokens of thoughts that a call allows.
        """
        self._random, self._bad, self._room = random.Random(seed), bad, room
        self._count = 0

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        yield

    async def send(self, request: ChatRequest) -> RawCompletion:
        prompt, limit = estimate_prompt(request), request.max_tokens + self._room
        if self._random.random() < self._bad:
            match self._random.choice(("cut", "unreadable", "empty", "unfinished", "malformed", "server")):
                case "cut":
                    return RawCompletion(words(limit), "length", prompt, limit)
                case "unreadable":
                    return RawCompletion(words(limit, "</odd>"), "stop", prompt, limit)
                case "empty":
                    return RawCompletion("", "stop", prompt, limit)
                case "unfinished":
                    return RawCompletion(words(limit), "error", prompt, limit)
                case "malformed":
                    raise CallError(FailureKind.MALFORMED, "{}" * 100)
                case _:
                    raise CallError(FailureKind.SERVER, "500")
        text = self._reply(request)
        return RawCompletion(text, "stop", prompt, self._random.randint(1, limit))

    def _reply(self, request: ChatRequest) -> str:
        prompt = request.messages[0].content
        long = words(self._random.randint(1, max(1, request.max_tokens // 2)))
        if prompt.startswith("Name the type"):
            instruction = prompt.partition("<instruction>\n")[2]
            return TYPES[int(sha256(instruction.encode()).hexdigest(), 16) % len(TYPES)]
        if "<assistant_1>" in prompt:
            return f"{self._random.randint(1, 10)} {self._random.randint(1, 10)}\n{long}"
        if "Model:" in prompt or "[[rating]]" in prompt:
            return "Rating: [[5]]"
        if found := re.search(r"<count>(\d+)</count>", prompt):
            count = int(found[1]) * self._random.choice((0, 1, 1, 4))
            return "\n".join(PAIR.format(f"{self._next()} {long}", long) for _ in range(count)) or long
        if "Rewrite the response" in prompt:
            return f"<response>\n{long}\n</response>"
        return "7" if "1 (worst) to 10" in prompt or "complex" in prompt else f"{self._next()} {long}"

    def _next(self) -> str:
        self._count += 1
        return sha256(str(self._count).encode()).hexdigest()[:12]


def words(count: int, word: str = "word") -> str:
    """Return a text of so many words."""
    return " ".join([word] * count)


def stand_in_students(patch: pytest.MonkeyPatch) -> None:
    """Replace fits, generation and losses by functions that need no model."""
    patch.setattr(tapir.students, "base_model", _base_model)
    patch.setattr(tapir.students, "finetune_on_seeds", lambda ws, seeds, *_: _student(ws, 0, {"seeds": seeds.key}))
    patch.setattr(tapir.students, "finetune_round", _finetune_round)
    patch.setattr(tapir.students, "judged_student", lambda ws, number, student, mix, alpha: student)
    patch.setattr(generation, "_generate", _generate)
    patch.setattr(measures, "rollouts", _rollouts)
    patch.setattr(held_out, "held_out_losses", lambda *_: None)
    patch.setattr(EvaluatedModel, "converse", _converse)


def _base_model(ws: Workspace) -> tuple[Any, dict[str, Any]]:
    return SimpleNamespace(path=Path("base")), {"model": "base"}


def _student(ws: Workspace, number: int, recipe: Mapping[str, Any]) -> Artifact:
    def make(directory: Path) -> Mapping[str, Any]:
        (directory / "weights").write_text(f"{number}")
        return {}

    return ws.directory("student", number, recipe, make)


def _finetune_round(ws: Workspace, number: int, previous: Artifact, mix: Artifact, *_: Any, **__: Any) -> Artifact:
    return _student(ws, number, {"previous": previous.key, "mix": mix.key})


def _generate(ws: Workspace, model: Path, prompts: Sequence[tuple[str, str]], *others: Any) -> list[Response]:
    on_response = others[2] if len(others) > 2 else None
    length = ws.config.student.max_new_tokens
    rows = [Response(id=row_id, text=_answer(row_id, f"{model}", length)) for row_id, _ in prompts]
    for row in rows:
        if on_response is not None:
            on_response(row)
    return rows


def _rollouts(ws: Workspace, scored: ScoringInputs) -> Artifact:
    length, count = ws.config.student.max_new_tokens, ws.config.curriculum.rollouts.num_samples
    rows = [
        Response(id=rollout_id(pair.id, number), text=_answer(pair.id, f"{number}", length))
        for pair in scored.pairs
        for number in range(count)
    ]
    return ws.rows(f"{scored.prefix}rollouts", scored.round, {"of": scored.inputs}, lambda: StageOutput(rows, {}))


def _converse(_: EvaluatedModel, questions: Sequence[EvalQuestion], *__: Any) -> list[list[Response]]:
    return [[Response(id=row.id, text=words(9)) for _ in row.turns] for row in questions]


def _answer(row_id: str, name: str, length: int) -> str:
    """Return a response of a length that depends on the row and the student."""
    return words(1 + int(sha256(f"{row_id}{name}".encode()).hexdigest(), 16) % length)
