"""Base class of a family of checkable tasks: it poses problems, reads them back from text, and grades responses."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from difflib import SequenceMatcher
from random import Random
from typing import ClassVar

from tapir_exp.core.task_types import TaskType

FULL_MARKS = 10
ANSWER_MARK = "Answer:"


@dataclass(frozen=True)
class Problem:
    """One checkable task with its responses.

    Attributes:
        key: identifies the problem in any wording; it determines the held-out split.
        level: difficulty, from 1.
        instruction: the problem as text.
        answer: the exact answer, as `Family.final` extracts it from a right response.
        terse: the right response as open instruction data has it.
        refined: the right response in the style of the task type (worked steps, commented code, ...).
        slip: a plausible wrong response, for a teacher that errs.
    """

    key: str
    level: int
    instruction: str
    answer: str
    terse: str
    refined: str
    slip: str


@dataclass(frozen=True)
class Grade:
    """A score from 1 to 10 and the reason for it, as the end of a sentence."""

    score: int
    reason: str


class Family(ABC):
    """A kind of checkable task at several levels of difficulty."""

    name: ClassVar[str]
    task: ClassVar[TaskType]
    levels: ClassVar[tuple[int, ...]] = (1, 2, 3)

    @abstractmethod
    def pose(self, rng: Random, level: int) -> Problem:
        """Draw a problem of a level; the same state of `rng` gives the same problem."""

    @abstractmethod
    def read(self, instruction: str) -> Problem | None:
        """Return the problem that an instruction poses; None if it is not of this family.

        `read(pose(rng, level).instruction)` returns the posed problem, field for field.
        """

    def final(self, response: str) -> str:
        """Return the answer in a response: the text after the last `Answer:`, or all of it."""
        return " ".join(response.rpartition(ANSWER_MARK)[2].split())

    def is_exact(self, problem: Problem, response: str) -> bool:
        """Return whether the response has the exact answer."""
        return self.final(response) == problem.answer

    def grade(self, problem: Problem, response: str) -> Grade:
        """Score a response: full marks for the exact answer in good style, partial credit for a similar one."""
        if self.is_exact(problem, response):
            return self._grade_style(problem, response)
        similarity = SequenceMatcher(None, self.final(response), problem.answer, autojunk=False).ratio()
        return Grade(1 + round(5 * similarity), f"wrong: expected '{problem.answer}', got '{self.final(response)}'")

    def _grade_style(self, problem: Problem, response: str) -> Grade:
        # Length stands for style: a refined response is longer than a terse one, if the two differ at all.
        if len(response) >= len(problem.refined) or problem.refined == problem.terse:
            return Grade(FULL_MARKS, "right, with the detail the task wants")
        return Grade(FULL_MARKS - 1, "right, but terse")
