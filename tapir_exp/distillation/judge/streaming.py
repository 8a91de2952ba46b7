"""Judging answers while others are still being written."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Self

from tapir_exp.config import JudgeConfig
from tapir_exp.core.records import Response, Verdict
from tapir_exp.distillation.judge.parse import PARSERS, Scores
from tapir_exp.distillation.judge.recording import Listener
from tapir_exp.distillation.judge.requests import JudgeRequest, ResponsePair, presentation_orders, requests_for
from tapir_exp.distillation.judge.score import build_verdicts
from tapir_exp.llm.chat import ChatModel
from tapir_exp.llm.streaming import AskAlong, HandOver

Hear = Callable[[Response], None]
"""Gets every answer as soon as it is finished."""
Write = Callable[[Hear], list[Response]]
"""Writes answers, and lets each be heard."""
Listen = Callable[[Write], list[Response]]
"""Lets answers be written and hears them."""


class Hearing(AbstractContextManager["Hearing"]):
    """A judge that asks about every answer as soon as it hears it; the verdicts are those of `judge`, in its order."""

    def __init__(self, blanks: Sequence[ResponsePair], chat: ChatModel, config: JudgeConfig, label: str) -> None:
        """blanks: the matches, without the student's answers; an answer that belongs to none is not judged."""
        self._blanks: Mapping[str, tuple[int, ResponsePair]] = {blank.id: (n, blank) for n, blank in enumerate(blanks)}
        self._config = config
        self._listener = Listener(chat)
        self._asked: dict[int, tuple[str, JudgeRequest]] = {}
        self._along: AskAlong[Scores] = AskAlong(
            self._listener,
            PARSERS[config.protocol],
            label=label,
            total=len(blanks) * len(presentation_orders(config)),
            concurrency=config.llm.concurrency,
            max_failure_rate=config.max_failure_rate,
        )

    def __enter__(self) -> Self:
        self._along.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._along.__exit__(kind, error, at)

    def during(self, write: Write) -> list[Response]:
        """Let the answers be written, and ask about each once it is there."""
        return self._along.during(lambda hand_over: write(lambda answer: self._hear(answer, hand_over)))

    def verdicts(self, answers: Iterable[Response]) -> list[Verdict]:
        """One verdict a match, in order, when all are there. Raises as `judge`.

        answers: all of them; those that were never heard, since another process wrote them, are asked about now.
        """
        heard = {row for row, _ in self._asked.values()}
        for answer in answers:
            if answer.id not in heard:
                self._hear(answer, self._along.add)
        outcomes = self._along.finish()
        places = sorted(outcomes)
        return build_verdicts([self._asked[n] for n in places], [outcomes[n] for n in places], self._listener)

    def _hear(self, answer: Response, hand_over: HandOver) -> None:
        if answer.id not in self._blanks:
            return
        number, blank = self._blanks[answer.id]
        questions = requests_for(fill(blank, answer), self._config)
        for place, question in enumerate(questions, number * len(questions)):
            self._asked[place] = (answer.id, question)
            hand_over(place, question.request)


def fill(blank: ResponsePair, answer: Response) -> ResponsePair:
    """A match with the student's answer, empty where it gave none."""
    return replace(blank, student=answer.text or "")


def unheard(write: Write) -> list[Response]:
    """Let answers be written that nobody waits for."""
    return write(lambda _: None)
