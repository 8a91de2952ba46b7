"""Mathematics: sums of long numbers, and totals that change step by step."""

import re
from random import Random

from tapir_exp.lab.families.wording import Slots, WordedFamily, listed, one_of, some_of
from tapir_exp.lab.families.words import NAMES
from tapir_exp.lab.family import ANSWER_MARK, Problem
from tapir_exp.taxonomy import TaskType


class Sums(WordedFamily):
    """Adding two numbers of 2, 3 or 4 digits; refined: column by column with carries."""

    name = "sums"
    task = TaskType.MATH
    wordings = ("What is {a} + {b}?", "Compute {a} + {b}.", "Find the sum of {a} + {b}.")
    slots = {"a": r"[1-9]\d{1,3}", "b": r"[1-9]\d{1,3}"}

    def draw(self, rng: Random, level: int) -> Slots:
        a, b = (rng.randrange(10**level, 10 ** (level + 1)) for _ in "ab")
        return {"a": str(a), "b": str(b)}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        a, b = slots["a"], slots["b"]
        if len(a) != len(b):
            return None
        value = int(a) + int(b)
        return Problem(
            key="+".join(sorted((a, b))),
            level=len(a) - 1,
            instruction=instruction,
            answer=str(value),
            terse=str(value),
            refined=f"{'; '.join(column_sums(a, b))}. {ANSWER_MARK} {value}",
            slip=str(value - 10),
        )


def column_sums(a: str, b: str) -> list[str]:
    """The sums of the columns of two numbers of the same length, the ones first: `7+5=12`, `4+8+1=13`."""
    sums, carry = [], 0
    for upper, lower in zip(map(int, reversed(a)), map(int, reversed(b)), strict=True):
        value = upper + lower + carry
        sums.append(f"{upper}+{lower}{'+1' if carry else ''}={value}")
        carry = value // 10
    return sums


ITEMS = ("apples", "books", "coins", "eggs", "pens", "rings")
GAINS = ("buys", "finds")
LOSSES = ("loses", "sells")


class Totals(WordedFamily):
    """A stock that changes 2, 3 or 4 times; refined: the running total."""

    name = "totals"
    task = TaskType.MATH
    wordings = (
        "{name} has {start} {items}, {changes}. How many {items} now?",
        "{name} starts with {start} {items}, then {changes}. Count the {items}.",
        "How many {items} does {name} have? {name} has {start}, {changes}.",
    )
    slots = {
        "name": one_of(NAMES),
        "start": r"[1-9]\d",
        "items": one_of(ITEMS),
        "changes": some_of(rf"{one_of(GAINS + LOSSES)} [1-5]", ", ", " and "),
    }

    def draw(self, rng: Random, level: int) -> Slots:
        changes = [f"{rng.choice(GAINS + LOSSES)} {rng.randint(1, 5)}" for _ in range(level + 1)]
        return {
            "name": rng.choice(NAMES),
            "start": str(rng.randint(20, 49)),
            "items": rng.choice(ITEMS),
            "changes": listed(changes),
        }

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        changes = [(word in GAINS, int(n)) for word, n in re.findall(r"(\w+) (\d)", slots["changes"])]
        total, steps = int(slots["start"]), list[str]()
        for gain, n in changes:
            before, total = total, total + n if gain else total - n
            steps.append(f"{before}{'+' if gain else '-'}{n}={total}")
            if total < 0:
                return None
        gain, n = changes[-1]
        return (
            None
            if len(changes) > 4
            else Problem(
                key=slots["start"] + "".join(f"{'+' if gain else '-'}{n}" for gain, n in changes),
                level=len(changes) - 1,
                instruction=instruction,
                answer=str(total),
                terse=str(total),
                refined=f"{'; '.join(steps)}. {ANSWER_MARK} {total}",
                slip=str(total - 2 * n if gain and total >= 2 * n else total + 2 * n),
            )
        )
