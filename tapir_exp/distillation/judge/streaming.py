"""Judging answers while others are still being written."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Self

from tapir_exp.config import JudgeConfig
from tapir_exp.core.records import Answer, Verdict
from tapir_exp.distillation.judge.parse import READERS, Scores
from tapir_exp.distillation.judge.recording import Listener
from tapir_exp.distillation.judge.requests import Match, Question, orders_of, questions_of
from tapir_exp.distillation.judge.score import verdicts_of
from tapir_exp.llm.chat import ChatModel
from tapir_exp.llm.streaming import AskAlong, HandOver

Hear = Callable[[Answer], None]
"""Gets every answer as soon as it is finished."""
Write = Callable[[Hear], list[Answer]]
"""Writes answers, and lets each be heard."""
Listen = Callable[[Write], list[Answer]]
"""Lets answers be written and hears them."""


class Hearing(AbstractContextManager["Hearing"]):
    """A judge that asks about every answer as soon as it hears it; the verdicts are those of `judge`, in its order."""

    def __init__(self, blanks: Sequence[Match], chat: ChatModel, config: JudgeConfig, label: str) -> None:
        """blanks: the matches, without the student's answers; an answer that belongs to none is not judged."""
        self._blanks: Mapping[str, tuple[int, Match]] = {blank.id: (n, blank) for n, blank in enumerate(blanks)}
        self._config = config
        self._listener = Listener(chat)
        self._asked: dict[int, tuple[str, Question]] = {}
        self._along: AskAlong[Scores] = AskAlong(
            self._listener,
            READERS[config.protocol],
            label=label,
            total=len(blanks) * len(orders_of(config)),
            concurrency=config.llm.concurrency,
            max_failed=config.max_failed,
        )

    def __enter__(self) -> Self:
        self._along.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._along.__exit__(kind, error, at)

    def during(self, write: Write) -> list[Answer]:
        """Let the answers be written, and ask about each once it is there."""
        return self._along.during(lambda hand_over: write(lambda answer: self._hear(answer, hand_over)))

    def verdicts(self, answers: Iterable[Answer]) -> list[Verdict]:
        """One verdict a match, in order, when all are there. Raises as `judge`.

        answers: all of them; those that were never heard, since another process wrote them, are asked about now.
        """
        heard = {row for row, _ in self._asked.values()}
        for answer in answers:
            if answer.id not in heard:
                self._hear(answer, self._along.add)
        outcomes = self._along.finish()
        places = sorted(outcomes)
        return verdicts_of([self._asked[n] for n in places], [outcomes[n] for n in places], self._listener)

    def _hear(self, answer: Answer, hand_over: HandOver) -> None:
        if answer.id not in self._blanks:
            return
        number, blank = self._blanks[answer.id]
        questions = questions_of(fill(blank, answer), self._config)
        for place, question in enumerate(questions, number * len(questions)):
            self._asked[place] = (answer.id, question)
            hand_over(place, question.request)


def fill(blank: Match, answer: Answer) -> Match:
    """A match with the student's answer, empty where it gave none."""
    return replace(blank, student=answer.text or "")


def unheard(write: Write) -> list[Answer]:
    """Let answers be written that nobody waits for."""
    return write(lambda _: None)
