"""Families whose problems are posed in a few fixed wordings."""

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from random import Random
from string import Formatter
from typing import ClassVar

from tapir_exp.lab.family import Family, Problem

Slots = Mapping[str, str]
"""What stands in the places of a wording, by name."""


class WordedFamily(Family):
    """A family that poses by filling the slots of a wording and reads by matching it.

    wordings: templates with `{slot}` places; those with the same slots say the same thing.
    slots: a regular expression for each slot.
    """

    wordings: ClassVar[tuple[str, ...]]
    slots: ClassVar[Slots]
    _patterns: ClassVar[tuple[re.Pattern[str], ...]]

    def __init_subclass__(cls) -> None:
        """Compile the patterns that read the wordings of the family."""
        super().__init_subclass__()
        if "wordings" in cls.__dict__:
            cls._patterns = tuple(re.compile(pattern_of(wording, cls.slots)) for wording in cls.wordings)

    @abstractmethod
    def draw(self, rng: Random, level: int) -> Slots:
        """Draw what a problem of `level` has in its slots."""

    @abstractmethod
    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        """The problem that `instruction` poses with its `slots`, or None where they make no sense.

        Its key need not name the family: `read` adds that.
        """

    def pose(self, rng: Random, level: int) -> Problem:
        slots = self.draw(rng, level)
        instruction = rng.choice([w for w in self.wordings if slots_of(w) == set(slots)]).format(**slots)
        problem = self.read(instruction)
        if problem is None or problem.level != level:
            raise AssertionError(f"{self.name} cannot read its own problem of level {level}: {instruction!r}")
        return problem

    def read(self, instruction: str) -> Problem | None:
        for pattern in self._patterns:
            if match := pattern.fullmatch(instruction):
                problem = self.solve(instruction, match.groupdict())
                return problem and replace(problem, key=f"{self.name}: {problem.key}")
        return None


def slots_of(wording: str) -> set[str]:
    """The names of the slots of a wording."""
    return {slot for _, slot, _, _ in Formatter().parse(wording) if slot}


def pattern_of(wording: str, slots: Slots) -> str:
    """The regular expression of what `wording` can say; a slot that comes again must say the same."""
    pattern, seen = "", set[str]()
    for literal, slot, _, _ in Formatter().parse(wording):
        pattern += re.escape(literal)
        if slot:
            pattern += f"(?P={slot})" if slot in seen else f"(?P<{slot}>{slots[slot]})"
            seen.add(slot)
    return pattern


def one_of(words: Iterable[str]) -> str:
    """The regular expression of a choice among `words`."""
    return f"(?:{'|'.join(map(re.escape, words))})"


def some_of(item: str, separator: str, last: str | None = None) -> str:
    """The regular expression of two or more `item`s, `last` (or else `separator`) standing before the last one."""
    if last is None:
        return f"{item}(?:{separator}{item})+"
    return f"{item}(?:{separator}{item})*{last}{item}"


def listed(items: Iterable[str], last: str = " and ") -> str:
    """Two or more items as running text: `a, b and c`."""
    *most, end = items
    return ", ".join(most) + last + end


def unlisted(text: str, last: str = " and ") -> list[str]:
    """The items of a running text that `listed` wrote."""
    return text.replace(last, ", ").split(", ")
