"""Knowledge and format: weights of things, counterfactual worlds, bits, and lists in a required format."""

from random import Random

from tapir_exp.core.task_types import TaskType
from tapir_exp.lab.families.wording import Slots, WordedFamily, join_items, one_of, several_of, split_items
from tapir_exp.lab.families.words import COLORS, THINGS, word_list
from tapir_exp.lab.family import Problem

BY_WEIGHT = word_list(
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
    slots = {"rank": "(?:second )?(?:heaviest|lightest)", "things": several_of(one_of(BY_WEIGHT), ", ", " or ")}

    def draw(self, rng: Random, level: int) -> Slots:
        rank = ("second " if level == 3 else "") + rng.choice(("heaviest", "lightest"))
        return {"rank": rank, "things": join_items(rng.sample(BY_WEIGHT, level + 1), " or ")}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        things, rank = split_items(slots["things"], " or "), slots["rank"]
        # `second` is used with four things only, so that each level has one form.
        index = 1 if rank.startswith("second ") else 0
        if len(set(things)) < len(things) or (len(things), index) not in ((2, 0), (3, 0), (4, 1)):
            return None
        ordered = sorted(things, key=BY_WEIGHT.index, reverse=rank.endswith("heaviest"))
        return Problem(
            key=f"{rank}: {' '.join(sorted(things))}",
            level=len(things) - 1,
            instruction=instruction,
            answer=f"The {ordered[index]}.",
            terse=f"The {ordered[index]}.",
            refined=f"The {ordered[index]}.",
            slip=f"The {ordered[index + 1]}.",
        )


USUAL = {
    "snow": "white", "grass": "green", "sky": "blue", "coal": "black", "gold": "yellow", "blood": "red",
    "wood": "brown", "milk": "white", "rain": "blue", "rice": "white", "mud": "brown", "ink": "black",
}  # fmt: skip


class Supposing(WordedFamily):
    """Colors in a world that differs from ours: of one thing out of two or of three, or of two things out of three.

    At level 3, one of the two things may have its usual color.
    """

    name = "supposing"
    task = TaskType.COUNTERFACTUAL
    wordings = (
        "Suppose {facts}. What color is {queried}?",
        "Imagine that {facts}. Tell me the color of {queried}.",
        "If {facts}, what color is {queried}?",
    )
    slots = {
        "facts": several_of(rf"{one_of(USUAL)} is {one_of(COLORS)}", ", ", " and "),
        "queried": rf"{one_of(USUAL)}(?: and {one_of(USUAL)})?",
    }

    def draw(self, rng: Random, level: int) -> Slots:
        *things, usual = rng.sample(list(USUAL), 3 if level == 1 else 4)
        facts = [f"{thing} is {rng.choice([c for c in COLORS if c != USUAL[thing]])}" for thing in things]
        queried = rng.sample(things, 2 if level == 3 else 1)
        if level == 3 and rng.random() < 0.5:
            queried[1] = usual
        return {"facts": join_items(facts), "queried": " and ".join(queried)}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        facts = dict(fact.split(" is ") for fact in split_items(slots["facts"]))
        queried = slots["queried"].split(" and ")
        level = {(2, 1): 1, (3, 1): 2, (3, 2): 3}.get((slots["facts"].count(" is "), len(queried)))
        if level is None or queried[0] not in facts or len({*queried}) < len(queried):
            return None
        if len(facts) != min(level, 2) + 1:
            return None
        # A fact that holds in our world too would not be counterfactual.
        if any(USUAL[thing] == color for thing, color in facts.items()):
            return None
        world = USUAL | facts
        right, slip = (  # the slip is right in the usual world
            " and ".join(f"{thing} is {colors[thing]}" for thing in queried) + "." for colors in (world, USUAL)
        )
        return Problem(
            key=f"{' '.join(queried)} | {', '.join(f'{thing} {color}' for thing, color in sorted(facts.items()))}",
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
    """Flipping bits, combining two rows of bits, and writing a number in binary."""

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
            one, other = sorted((slots["one"], slots["other"]))  # AND and OR are symmetric, so is the key
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
    """Writing items as a list of some style: three in the given order, four in reverse, four in alphabetical order."""

    name = "lists"
    task = TaskType.COMPLEX_FORMAT
    wordings = (
        "Write {items} as {style}{order}.",
        "Give {style}{order} of {items}.",
        "Turn into {style}{order}: {items}.",
    )
    slots = {
        "items": several_of(one_of(THINGS), ", ", " and "),
        "style": one_of(STYLES),
        "order": one_of(ORDERS),
    }

    def draw(self, rng: Random, level: int) -> Slots:
        order = next(order for order, order_level in ORDERS.items() if order_level == level)
        return {
            "items": join_items(rng.sample(THINGS, 3 if level == 1 else 4)),
            "style": rng.choice(STYLES),
            "order": order,
        }

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        listed, level = split_items(slots["items"]), ORDERS[slots["order"]]
        if len(set(listed)) < len(listed) or len(listed) != (3 if level == 1 else 4):
            return None
        items = {1: listed, 2: listed[::-1], 3: sorted(listed)}[level]
        right = self.final(format_items(items, slots["style"]))
        return Problem(
            key=f"{slots['style']}{slots['order']}: {' '.join(items)}",
            level=level,
            instruction=instruction,
            answer=right,
            terse=format_items(items, slots["style"]),
            refined=format_items(items, slots["style"]),
            slip=format_items([items[1], items[0], *items[2:]], slots["style"]),
        )

    def final(self, response: str) -> str:
        """Return the whole response, line by line, since line ends are part of the answer."""
        return "\n".join(line.strip() for line in response.strip().splitlines())


def format_items(items: list[str], style: str) -> str:
    """Return the items as a list of a style."""
    if style == "a table row":
        return f"| {' | '.join(items)} |"
    marks = [f"{n}." for n in range(1, len(items) + 1)] if style == "a numbered list" else ["-"] * len(items)
    return "\n".join(f"{mark} {item}" for mark, item in zip(marks, items, strict=True))
