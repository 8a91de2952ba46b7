"""Mathematics: a stock that changes step by step, and a dial of ten digits that turns."""

import re
from random import Random

from tapir_exp.core.task_types import TaskType
from tapir_exp.lab.families.wording import Slots, WordedFamily, one_of, several_of
from tapir_exp.lab.families.words import NAMES
from tapir_exp.lab.family import ANSWER_MARK, Problem

ITEMS = ("apples", "books", "coins", "eggs", "pens", "rings")
GAINS = ("buys", "finds", "gets")
LOSSES = ("loses", "sells", "drops")
LARGEST_STEP = 2


class Totals(WordedFamily):
    """A stock of at most nine that changes 3, 4 or 5 times; refined: the stock after each change."""

    name = "totals"
    task = TaskType.MATH
    wordings = (
        "How many {items} now? {name} has {start}, then {changes}.",
        "Count the {items} that {name} has: {start}, then {changes}.",
        "{name} collects {items}. How many at the end? First {start}, then {changes}.",
    )
    slots = {
        "name": one_of(NAMES),
        "start": r"\d",
        "items": one_of(ITEMS),
        "changes": several_of(rf"{one_of(GAINS + LOSSES)} [1-{LARGEST_STEP}]", ", then "),
    }

    def draw(self, rng: Random, level: int) -> Slots:
        start = total = rng.randint(0, 9)
        changes = []
        for _ in range(level + 2):
            # Only steps that keep the stock between 0 and 9.
            step = rng.choice([s for s in range(-LARGEST_STEP, LARGEST_STEP + 1) if s and 0 <= total + s <= 9])
            total += step
            changes.append(f"{rng.choice(GAINS if step > 0 else LOSSES)} {abs(step)}")
        changed = ", then ".join(changes)
        return {"name": rng.choice(NAMES), "start": str(start), "items": rng.choice(ITEMS), "changes": changed}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        steps = re.findall(r"(\w+) (\d)", slots["changes"])
        changes = [int(number) if word in GAINS else -int(number) for word, number in steps]
        # A stock below 0 or above 9 is rejected, so that every value is a single digit.
        totals = running_values(int(slots["start"]), changes)
        if len(changes) not in (3, 4, 5) or not all(0 <= total <= 9 for total in totals):
            return None
        return steps_problem(instruction, totals, changes, "; ", slip=totals[-2])


class Dials(WordedFamily):
    """A dial of ten digits that turns 3, 4 or 5 times; refined: the digit after each turn."""

    name = "dials"
    task = TaskType.MATH
    wordings = (
        "What does a dial of ten show that turns from {start}, then {turns}?",
        "Compute modulo 10: {start}, then {turns}.",
        "On a ring of ten digits go from {start}, then {turns}.",
    )
    slots = {"start": r"\d", "turns": several_of(rf"[+-][1-{LARGEST_STEP}]", ", then ")}

    def draw(self, rng: Random, level: int) -> Slots:
        turns = [f"{rng.choice('+-')}{rng.randint(1, LARGEST_STEP)}" for _ in range(level + 2)]
        return {"start": str(rng.randint(0, 9)), "turns": ", then ".join(turns)}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        turns = [int(turn) for turn in re.findall(r"[+-]\d", slots["turns"])]
        if len(turns) not in (3, 4, 5):
            return None
        digits = [value % 10 for value in running_values(int(slots["start"]), turns)]
        return steps_problem(instruction, digits, turns, " ", slip=(digits[-1] + 1) % 10)


def running_values(start: int, changes: list[int]) -> list[int]:
    """Return the start and the value after each change."""
    values = [start]
    for change in changes:
        values.append(values[-1] + change)
    return values


def steps_problem(instruction: str, values: list[int], changes: list[int], pause: str, slip: int) -> Problem:
    """Return the problem of following a value through changes; at level l there are l + 2 of them.

    Args:
        instruction: the problem as text.
        values: the start and the value after each change.
        changes: the signed changes.
        pause: separator of the steps in the refined response.
        slip: the wrong answer of an erring teacher.
    """
    steps = pause.join(f"{change:+d}={value}" for change, value in zip(changes, values[1:], strict=True))
    return Problem(
        key="".join([str(values[0]), *(f"{change:+d}" for change in changes)]),
        level=len(changes) - 2,
        instruction=instruction,
        answer=str(values[-1]),
        terse=str(values[-1]),
        refined=f"{steps}. {ANSWER_MARK} {values[-1]}",
        slip=str(slip),
    )
