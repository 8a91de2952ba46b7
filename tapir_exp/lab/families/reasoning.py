"""Reasoning: putting people in order, and following a coin from box to box."""

import re
from itertools import pairwise
from random import Random

from tapir_exp.lab.families.wording import Slots, WordedFamily, one_of, some_of
from tapir_exp.lab.families.words import COLORS, NAMES
from tapir_exp.lab.family import ANSWER_MARK, Problem
from tapir_exp.taxonomy import TaskType

RELATIONS = {"taller": "tallest", "older": "oldest", "faster": "fastest"}
INVERSES = {"taller": "shorter", "older": "younger", "faster": "slower"}
RANKS = {"": 0, "second ": 1}


class Ordering(WordedFamily):
    """Who is first or second of 3, 4 or 5 people; clues come in any order; refined: the whole chain."""

    name = "ordering"
    task = TaskType.REASONING
    wordings = (
        "{clues} Who is the {rank}{most}?",
        "Who is the {rank}{most}? {clues}",
        "{clues} Name the {rank}{most}.",
    )
    slots = {
        "clues": some_of(rf"{one_of(NAMES)} is {one_of([*RELATIONS, *INVERSES.values()])} than {one_of(NAMES)}\.", " "),
        "rank": one_of(RANKS),
        "most": one_of(RELATIONS.values()),
    }

    def draw(self, rng: Random, level: int) -> Slots:
        relation = rng.choice(list(RELATIONS))
        clues = []
        for more, less in pairwise(rng.sample(NAMES, level + 2)):
            turned = rng.random() < 0.2 * (level - 1)
            clue = f"{less} is {INVERSES[relation]} than {more}." if turned else f"{more} is {relation} than {less}."
            clues.append(clue)
        rng.shuffle(clues)
        return {"clues": " ".join(clues), "rank": rng.choice(list(RANKS)), "most": RELATIONS[relation]}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        relation = next(word for word, most in RELATIONS.items() if most == slots["most"])
        less_than = dict[str, str]()
        for one, word, other in re.findall(r"(\w+) is (\w+) than (\w+)", slots["clues"]):
            if word not in (relation, INVERSES[relation]):
                return None
            less_than[one if word == relation else other] = other if word == relation else one
        chain = chain_of(less_than)
        if len(chain) != slots["clues"].count(".") + 1 or len(chain) not in (3, 4, 5):
            return None
        place = RANKS[slots["rank"]]
        return Problem(
            key=f"{'>'.join(chain)}:{place}",
            level=len(chain) - 2,
            instruction=instruction,
            answer=chain[place],
            terse=chain[place],
            refined=f"{', '.join(chain)}. {ANSWER_MARK} {chain[place]}",
            slip=chain[place + 1],
        )


def chain_of(less_than: dict[str, str]) -> list[str]:
    """The people from most to least, or an empty list where they are in no single order."""
    first = set(less_than) - set(less_than.values())
    if len(first) != 1:
        return []
    chain = list(first)
    while chain[-1] in less_than:
        chain.append(less_than[chain[-1]])
    return chain


class Swaps(WordedFamily):
    """Where a coin is after 2, 3 or 4 swaps of boxes; refined: its place after each."""

    name = "swaps"
    task = TaskType.REASONING
    wordings = (
        "The coin is in the {start} box. {moves} Where is the coin?",
        "A coin starts in {start}. {moves} Find the coin.",
        "Track the coin from {start}. {moves}",
    )
    slots = {"start": one_of(COLORS), "moves": some_of(rf"Swap {one_of(COLORS)} and {one_of(COLORS)}\.", " ")}

    def draw(self, rng: Random, level: int) -> Slots:
        start = place = rng.choice(COLORS)
        moves = []
        for _ in range(level + 1):
            pair = rng.sample(COLORS, 2)
            if place not in pair and rng.random() < 0.6:
                pair[rng.randrange(2)] = place
            moves.append("Swap {} and {}.".format(*pair))
            place = after_swap(place, *pair)
        return {"start": start, "moves": " ".join(moves)}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        swaps = re.findall(r"(\w+) and (\w+)", slots["moves"])
        if len(swaps) > 4 or any(one == other for one, other in swaps):
            return None
        places = [slots["start"]]
        for one, other in swaps:
            places.append(after_swap(places[-1], one, other))
        strays = [place for place in [*reversed(places), *swaps[-1]] if place != places[-1]]
        steps = [f"{one} and {other}: {place}." for (one, other), place in zip(swaps, places[1:], strict=True)]
        return Problem(
            key=" ".join([slots["start"], *("-".join(sorted(swap)) for swap in swaps)]),
            level=len(swaps) - 1,
            instruction=instruction,
            answer=places[-1],
            terse=places[-1],
            refined=" ".join([*steps, ANSWER_MARK, places[-1]]),
            slip=strays[0],
        )


def after_swap(place: str, one: str, other: str) -> str:
    """Where what was in `place` is after two boxes change places."""
    return {one: other, other: one}.get(place, place)
