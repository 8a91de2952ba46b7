"""Families of problems with a few fixed wordings."""

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from random import Random
from string import Formatter
from typing import ClassVar

from tapir_exp.lab.family import Family, Problem

Slots = Mapping[str, str]
"""Texts that fill the slots of a wording, by name."""


class WordedFamily(Family):
    """A family that poses a problem by filling the slots of a wording, and reads it by matching the wording.

    Attributes:
        wordings: templates with `{slot}` fields; those with the same slots have the same meaning.
        slots: a regular expression for each slot.
    """

    wordings: ClassVar[tuple[str, ...]]
    slots: ClassVar[Slots]
    _patterns: ClassVar[tuple[re.Pattern[str], ...]]

    def __init_subclass__(cls) -> None:
        """Compile the patterns of the family's wordings."""
        super().__init_subclass__()
        if "wordings" in cls.__dict__:
            cls._patterns = tuple(re.compile(wording_pattern(wording, cls.slots)) for wording in cls.wordings)

    @abstractmethod
    def draw(self, rng: Random, level: int) -> Slots:
        """Draw the texts for the slots of a problem of a level."""

    @abstractmethod
    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        """Return the problem with these slots; None if they make no sense together.

        Args:
            instruction: the whole instruction.
            slots: the texts of its slots.

        Returns:
            The problem. Its key need not contain the family's name, which `read` adds.
        """

    def pose(self, rng: Random, level: int) -> Problem:
        slots = self.draw(rng, level)
        # The level determines which slots are filled, and the slots determine which wordings fit.
        instruction = rng.choice([w for w in self.wordings if slot_names(w) == set(slots)]).format(**slots)
        problem = self.read(instruction)
        if problem is None or problem.level != level:
            raise AssertionError(f"{self.name} cannot read its own problem of level {level}: {instruction!r}")
        return problem

    def read(self, instruction: str) -> Problem | None:
        # The whole instruction must match: a problem with additional text is another problem.
        for pattern in self._patterns:
            if match := pattern.fullmatch(instruction):
                problem = self.solve(instruction, match.groupdict())
                return problem and replace(problem, key=f"{self.name}: {problem.key}")
        return None


def slot_names(wording: str) -> set[str]:
    """Return the names of a wording's slots."""
    return {slot for _, slot, _, _ in Formatter().parse(wording) if slot}


def wording_pattern(wording: str, slots: Slots) -> str:
    """Return the regular expression of all instructions of a wording; a repeated slot must have the same text."""
    pattern, seen = "", set[str]()
    for literal, slot, _, _ in Formatter().parse(wording):
        pattern += re.escape(literal)
        if slot:  # a named group captures the first occurrence, a back reference demands the same text again
            pattern += f"(?P={slot})" if slot in seen else f"(?P<{slot}>{slots[slot]})"
            seen.add(slot)
    return pattern


def one_of(words: Iterable[str]) -> str:
    """Return the regular expression of a choice among words."""
    return f"(?:{'|'.join(map(re.escape, words))})"


def several_of(item: str, separator: str, last: str | None = None) -> str:
    """Return the regular expression of two or more items.

    Args:
        item: regular expression of one item.
        separator: text between two items.
        last: text before the last item; None means `separator`.
    """
    if last is None:
        return f"{item}(?:{separator}{item})+"
    return f"{item}(?:{separator}{item})*{last}{item}"


def join_items(items: Iterable[str], last: str = " and ") -> str:
    """Join two or more items to running text: `a, b and c`."""
    *others, final = items
    return ", ".join(others) + last + final


def split_items(text: str, last: str = " and ") -> list[str]:
    """Split a running text of `join_items` into its items."""
    return text.replace(last, ", ").split(", ")
