"""Reasoning: putting people in order, and following arrows from place to place."""

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
        "Known: {clues} Who is the {rank}{most}?",
        "Who is the {rank}{most}? {clues}",
        "Read this: {clues} Name the {rank}{most}.",
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
            turned = level == 3 and rng.random() < 0.3
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
            refined=f"Order: {', '.join(chain)}. {ANSWER_MARK} {chain[place]}",
            slip=chain[place + 1],
        )


def chain_of(following: dict[str, str]) -> list[str]:
    """The one chain from what follows nothing to what nothing follows, or an empty list where none starts alone."""
    first = set(following) - set(following.values())
    if len(first) != 1:
        return []
    chain = list(first)
    while chain[-1] in following:
        chain.append(following[chain[-1]])
    return chain


class Routes(WordedFamily):
    """Where a walk of 2, 3 or 4 moves along arrows ends; the arrows come in any order; refined: every stop."""

    name = "routes"
    task = TaskType.REASONING
    wordings = (
        "Arrows: {arrows}. Start at {start} and make {moves} moves. Where are you?",
        "A coin is at {start}. Move it {moves} times: {arrows}. Where is it?",
        "Follow {moves} arrows from {start}: {arrows}.",
    )
    slots = {
        "arrows": some_of(f"{one_of(COLORS)} to {one_of(COLORS)}", ", "),
        "start": one_of(COLORS),
        "moves": "[234]",
    }

    def draw(self, rng: Random, level: int) -> Slots:
        stops = rng.sample(COLORS, level + 3)
        arrows = [f"{one} to {other}" for one, other in pairwise(stops)]
        rng.shuffle(arrows)
        return {"arrows": ", ".join(arrows), "start": stops[0], "moves": str(level + 1)}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        arrows = [arrow.split(" to ") for arrow in slots["arrows"].split(", ")]
        stops, moves = chain_of(dict(arrows)), int(slots["moves"])
        if len(stops) != len(arrows) + 1 or len(arrows) != moves + 1 or stops[0] != slots["start"]:
            return None
        walk = stops[: moves + 1]
        return Problem(
            key=">".join(stops),
            level=moves - 1,
            instruction=instruction,
            answer=walk[-1],
            terse=walk[-1],
            refined=f"From {' to '.join(walk)}. {ANSWER_MARK} {walk[-1]}",
            slip=walk[-2],
        )
