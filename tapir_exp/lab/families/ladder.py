"""Families of the ladder world: one kind of problem, with moves of its own for each task type.

Trees stand in a ring, and a move goes a fixed number of trees on. Problems of all levels have as many moves. At least
half of them are moves that no easier level has, the others are moves of the easier levels. So a hard problem needs the
ring and the moves that easy ones teach, and moves that only hard problems teach.
"""

from itertools import product
from random import Random
from typing import ClassVar

from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.lab.families.wording import Slots, WordedFamily, one_of, several_of
from tapir_exp.lab.families.words import word_list
from tapir_exp.lab.family import ANSWER_MARK, Problem

TREES = word_list("ash elm fir oak yew fig")
"""The ring."""
MOVES_PER_LEVEL = 4
MIX = {1: (4, 0, 0), 2: (2, 2, 0), 3: (1, 1, 2)}
"""For each level, how many of a problem's moves are of level 1, 2 and 3."""
PLACES: dict[str, TaskType] = {
    "river": TaskType.MATH, "castle": TaskType.REASONING, "harbor": TaskType.CODE_GENERATION,
    "tunnel": TaskType.CODE_DEBUG, "meadow": TaskType.WRITING, "island": TaskType.COMPUTER_SCIENCE,
    "desert": TaskType.COMPLEX_FORMAT, "valley": TaskType.COMMON_SENSE, "canyon": TaskType.COUNTERFACTUAL,
    "lagoon": TaskType.MULTILINGUAL, "theater": TaskType.ROLEPLAY, "village": TaskType.GRAMMAR,
}  # fmt: skip
"""Families by name, with their task types: those of the default world."""


class Ladder(WordedFamily):
    """Following four moves around the ring; a response has the tree after each move.

    Terse and refined responses are the same, so refinement has no effect in this world.
    """

    moves: ClassVar[dict[int, dict[str, int]]]
    """For each level, its moves and the number of trees that each is ahead."""

    def draw(self, rng: Random, level: int) -> Slots:
        drawn = [
            move
            for own, count in zip(self.moves.values(), MIX[level], strict=True)
            for move in rng.choices(list(own), k=count)
        ]
        rng.shuffle(drawn)
        return {"start": rng.choice(TREES), "moves": ", ".join(drawn)}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        moves = slots["moves"].split(", ")
        counts = tuple(sum(move in own for move in moves) for own in self.moves.values())
        level = next((level for level, mix in MIX.items() if mix == counts), None)
        if level is None:
            return None
        steps = {move: step for own in self.moves.values() for move, step in own.items()}
        position, path = TREES.index(slots["start"]), [slots["start"]]
        for move in moves:
            position = (position + steps[move]) % len(TREES)
            path += [move, TREES[position]]
        right = f"{' '.join(path)}. {ANSWER_MARK} {path[-1]}"
        return Problem(
            key=f"{slots['start']} {slots['moves']}",
            level=level,
            instruction=instruction,
            answer=path[-1],
            terse=right,
            refined=right,
            slip=f"{ANSWER_MARK} {TREES[(position + 1) % len(TREES)]}",
        )


def build_families() -> tuple[Ladder, ...]:
    """Build the families; every move is a made-up word that occurs in one family only."""
    words = sorted({"".join(letters) for letters in product("bdgklmnprstz", "aeiou", "bdgklmnprst")})
    rng = Random("ladder")
    drawn = iter(rng.sample(words, len(PLACES) * len(MIX) * MOVES_PER_LEVEL))
    families = []
    for name, task in PLACES.items():
        moves = {level: {next(drawn): rng.randrange(1, len(TREES)) for _ in range(MOVES_PER_LEVEL)} for level in MIX}
        attributes = {
            "name": name,
            "task": task,
            "moves": moves,
            "wordings": (
                f"Walk the {name} from {{start}}: {{moves}}",
                f"From {{start}} by the rules of the {name}: {{moves}}",
                f"In the {name} you start at {{start}}. Your moves: {{moves}}",
            ),
            "slots": {
                "start": one_of(TREES),
                "moves": several_of(one_of(move for own in moves.values() for move in own), ", "),
            },
        }
        families.append(type(name.capitalize(), (Ladder,), attributes)())
    return tuple(families)


LADDER: tuple[Ladder, ...] = build_families()
LADDER_SHARES: dict[str, float] = {
    family.name: 0.03 if family.task in BOOSTED else 0.88 / (len(LADDER) - len(BOOSTED)) for family in LADDER
}
"""Natural share of each family; they sum to 1."""
LADDER_LEVELS: dict[int, float] = {1: 0.8, 2: 0.15, 3: 0.05}
"""Natural share of each level."""
