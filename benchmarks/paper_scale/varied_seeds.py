"""Varied seed rows: words with the frequencies of a language, a task type in each instruction, and a natural mix."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tapir_exp.core.task_types import TaskType

VOCABULARY = 40_000
WORDS_PER_INSTRUCTION = 18
WORDS_PER_RESPONSE = 45
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
TASKS = list(TaskType)
MARKERS = {task: "about " + "".join(c for c in task.lower() if c.isalpha()) for task in TASKS}
"""Words that show the task type of an instruction, which the endpoint reads."""


class Texts:
    """Draws texts of a vocabulary in which a word of rank r has a frequency of about 1 / r."""

    def __init__(self, seed: object) -> None:
        self._random = Random(str(seed))

    def task(self) -> TaskType:
        """Return a task type: the first ones are the most frequent, and the last is ten times as rare."""
        return TASKS[int(len(TASKS) * self._random.random() ** 2)]

    def words(self, mean: int) -> str:
        """Return a text of a length that is spread widely around the mean."""
        count = max(3, int(self._random.lognormvariate(0, 0.5) * mean))
        return " ".join(_word(int(VOCABULARY ** self._random.random())) for _ in range(count))

    def instruction(self, task: TaskType) -> str:
        """Return an instruction of a task type."""
        return f"{self.words(WORDS_PER_INSTRUCTION)} {MARKERS[task]}".capitalize() + "."

    def response(self) -> str:
        """Return a response."""
        return self.words(WORDS_PER_RESPONSE).capitalize() + "."


def write_seeds(path: Path, count: int) -> None:
    """Write rows in Alpaca's format, as JSON lines."""
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{json.dumps(row)}\n" for row in seed_rows(count))


def seed_rows(count: int) -> Iterator[dict[str, str]]:
    """Yield rows with the fields instruction, input and output."""
    texts = Texts("seeds")
    for _ in range(count):
        yield {"instruction": texts.instruction(texts.task()), "input": "", "output": texts.response()}


def task_of(instruction: str) -> TaskType:
    """Return the task type that an instruction names; Others if it names none."""
    return next((task for task, marker in MARKERS.items() if f"{marker}." in instruction), TaskType.OTHERS)


def _word(rank: int) -> str:
    """Return the word of a rank from 1; frequent words are short."""
    word = ""
    while rank:
        rank, index = divmod(rank, len(SYLLABLES))
        word += SYLLABLES[index]
    return word
