"""Knowledge and form: weights of things, worlds that differ, bits, and lists in a wanted shape."""

from random import Random

from tapir_exp.core.task_types import TaskType
from tapir_exp.lab.families.wording import Slots, WordedFamily, listed, one_of, some_of, unlisted
from tapir_exp.lab.families.words import COLORS, THINGS, words_of
from tapir_exp.lab.family import Problem

BY_WEIGHT = words_of(
    "ant bee coin pen mouse egg apple cup book brick cat dog boy man pig lion bear cow car truck bus plane whale ship"
)
"""Things from the lightest to the heaviest."""


class Weights(WordedFamily):
    """Which is heaviest or lightest of two, of three, or second of four."""

    name = "weights"
    task = TaskType.COMMON_SENSE
    wordings = (
        "Which is the {rank}: {things}?",
        "Name the {rank} of these: {things}.",
        "Tell me the {rank}: {things}.",
    )
    slots = {"rank": "(?:second )?(?:heaviest|lightest)", "things": some_of(one_of(BY_WEIGHT), ", ", " or ")}

    def draw(self, rng: Random, level: int) -> Slots:
        rank = ("second " if level == 3 else "") + rng.choice(("heaviest", "lightest"))
        return {"rank": rank, "things": listed(rng.sample(BY_WEIGHT, level + 1), " or ")}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        things, rank = unlisted(slots["things"], " or "), slots["rank"]
        place = 1 if rank.startswith("second ") else 0
        if len(set(things)) < len(things) or (len(things), place) not in ((2, 0), (3, 0), (4, 1)):
            return None
        ordered = sorted(things, key=BY_WEIGHT.index, reverse=rank.endswith("heaviest"))
        return Problem(
            key=f"{rank}: {' '.join(sorted(things))}",
            level=len(things) - 1,
            instruction=instruction,
            answer=f"The {ordered[place]}.",
            terse=f"The {ordered[place]}.",
            refined=f"The {ordered[place]}.",
            slip=f"The {ordered[place + 1]}.",
        )


USUAL = {
    "snow": "white", "grass": "green", "sky": "blue", "coal": "black", "gold": "yellow", "blood": "red",
    "wood": "brown", "milk": "white", "rain": "blue", "rice": "white", "mud": "brown", "ink": "black",
}  # fmt: skip


class Supposing(WordedFamily):
    """The color of a thing in a world that differs in two ways, in three; of two things, one perhaps as usual."""

    name = "supposing"
    task = TaskType.COUNTERFACTUAL
    wordings = (
        "Suppose {facts}. What color is {asked}?",
        "Imagine that {facts}. Tell me the color of {asked}.",
        "If {facts}, what color is {asked}?",
    )
    slots = {
        "facts": some_of(rf"{one_of(USUAL)} is {one_of(COLORS)}", ", ", " and "),
        "asked": rf"{one_of(USUAL)}(?: and {one_of(USUAL)})?",
    }

    def draw(self, rng: Random, level: int) -> Slots:
        *things, usual = rng.sample(list(USUAL), 3 if level == 1 else 4)
        facts = [f"{thing} is {rng.choice([c for c in COLORS if c != USUAL[thing]])}" for thing in things]
        asked = rng.sample(things, 2 if level == 3 else 1)
        if level == 3 and rng.random() < 0.5:
            asked[1] = usual
        return {"facts": listed(facts), "asked": " and ".join(asked)}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        facts = dict(fact.split(" is ") for fact in unlisted(slots["facts"]))
        asked = slots["asked"].split(" and ")
        level = {(2, 1): 1, (3, 1): 2, (3, 2): 3}.get((slots["facts"].count(" is "), len(asked)))
        if level is None or asked[0] not in facts or len({*asked}) < len(asked) or len(facts) != min(level, 2) + 1:
            return None
        if any(USUAL[thing] == color for thing, color in facts.items()):
            return None
        world = USUAL | facts
        right, slip = (
            " and ".join(f"{thing} is {colors[thing]}" for thing in asked) + "." for colors in (world, USUAL)
        )
        return Problem(
            key=f"{' '.join(asked)} | {', '.join(f'{thing} {color}' for thing, color in sorted(facts.items()))}",
            level=level,
            instruction=instruction,
            answer=right,
            terse=right,
            refined=right,
            slip=slip,
        )


GATES = {"AND": min, "OR": max}
FLIP = str.maketrans("01", "10")


class Bits(WordedFamily):
    """Flipping bits, joining two rows of bits, and writing a number in binary."""

    name = "bits"
    task = TaskType.COMPUTER_SCIENCE
    wordings = (
        "Flip the bits of {row}.",
        "Invert all bits of {row}.",
        "Compute {one} {gate} {other} bit by bit.",
        "Combine the bits: {one} {gate} {other}.",
        "Write {number} in binary.",
        "Convert {number} to binary.",
    )
    slots = {
        "row": "[01]{9}",
        "one": "[01]{5}",
        "gate": one_of(GATES),
        "other": "[01]{5}",
        "number": r"[1-9]\d{2}",
    }

    def draw(self, rng: Random, level: int) -> Slots:
        if level == 1:
            return {"row": f"{rng.randrange(2**9):09b}"}
        if level == 2:
            one, other = rng.randrange(2**5), rng.randrange(2**5)
            return {"one": f"{one:05b}", "gate": rng.choice(list(GATES)), "other": f"{other:05b}"}
        return {"number": str(rng.randrange(100, 1000))}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        if "row" in slots:
            key, level, right = slots["row"], 1, slots["row"].translate(FLIP)
        elif "number" in slots:
            key, level, right = slots["number"], 3, f"{int(slots['number']):b}"
        else:
            one, other = sorted((slots["one"], slots["other"]))
            key, level = f"{one} {slots['gate']} {other}", 2
            right = "".join(map(GATES[slots["gate"]], one, other))
        return Problem(
            key=key,
            level=level,
            instruction=instruction,
            answer=right,
            terse=right,
            refined=right,
            slip=right[:-1] + right[-1].translate(FLIP),
        )


STYLES = ("a dash list", "a numbered list", "a table row")
ORDERS = {"": 1, " in reverse": 2, " from A to Z": 3}


class Lists(WordedFamily):
    """Writing items as a list of some style: three as they stand, four in reverse, four in alphabetical order."""

    name = "lists"
    task = TaskType.COMPLEX_FORMAT
    wordings = (
        "Write {items} as {style}{order}.",
        "Give {style}{order} of {items}.",
        "Turn into {style}{order}: {items}.",
    )
    slots = {
        "items": some_of(one_of(THINGS), ", ", " and "),
        "style": one_of(STYLES),
        "order": one_of(ORDERS),
    }

    def draw(self, rng: Random, level: int) -> Slots:
        order = next(order for order, its_level in ORDERS.items() if its_level == level)
        return {
            "items": listed(rng.sample(THINGS, 3 if level == 1 else 4)),
            "style": rng.choice(STYLES),
            "order": order,
        }

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        given, level = unlisted(slots["items"]), ORDERS[slots["order"]]
        if len(set(given)) < len(given) or len(given) != (3 if level == 1 else 4):
            return None
        items = {1: given, 2: given[::-1], 3: sorted(given)}[level]
        right = self.final(shaped(items, slots["style"]))
        return Problem(
            key=f"{slots['style']}{slots['order']}: {' '.join(items)}",
            level=level,
            instruction=instruction,
            answer=right,
            terse=shaped(items, slots["style"]),
            refined=shaped(items, slots["style"]),
            slip=shaped([items[1], items[0], *items[2:]], slots["style"]),
        )

    def final(self, response: str) -> str:
        """The response itself, line by line: the line ends count."""
        return "\n".join(line.strip() for line in response.strip().splitlines())


def shaped(items: list[str], style: str) -> str:
    """The items as a list of `style`."""
    if style == "a table row":
        return f"| {' | '.join(items)} |"
    marks = [f"{n}." for n in range(1, len(items) + 1)] if style == "a numbered list" else ["-"] * len(items)
    return "\n".join(f"{mark} {item}" for mark, item in zip(marks, items, strict=True))
