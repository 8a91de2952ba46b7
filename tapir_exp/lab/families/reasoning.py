"""Reasoning: a walker who turns, and a coin under one of three cups that change places."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import ClassVar

from tapir_exp.core.task_types import TaskType
from tapir_exp.lab.families.wording import Slots, WordedFamily, one_of, several_of
from tapir_exp.lab.families.words import NAMES
from tapir_exp.lab.family import ANSWER_MARK, Problem


class MoveFamily(WordedFamily):
    """Following an object from state to state through 4, 5 or 6 moves; refined: the state after each move.

    Attributes:
        states: names of the states.
        moves: for each move, the state that it leads to from each state, in the order of `states`.
    """

    task = TaskType.REASONING
    states: ClassVar[tuple[str, ...]]
    moves: ClassVar[Mapping[str, tuple[str, ...]]]

    def draw(self, rng: Random, level: int) -> Slots:
        moves = ", ".join(rng.choice(list(self.moves)) for _ in range(level + 3))
        return {"name": rng.choice(NAMES), "start": rng.choice(self.states), "moves": moves}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        moves = slots["moves"].split(", ")
        if len(moves) not in (4, 5, 6):
            return None
        visited = self.follow(slots["start"], moves)
        steps = " ".join(f"{move} {state}" for move, state in zip(moves, visited, strict=True))
        return Problem(
            key=f"{slots['start']} {slots['moves']}",
            level=len(moves) - 3,
            instruction=instruction,
            answer=visited[-1],
            terse=visited[-1],
            refined=f"Then {steps}. {ANSWER_MARK} {visited[-1]}",
            slip=next(state for state in self.states if state != visited[-1]),
        )

    def follow(self, start: str, moves: Sequence[str]) -> list[str]:
        """Return the state after each move."""
        state, visited = start, list[str]()
        for move in moves:
            state = self.moves[move][self.states.index(state)]
            visited.append(state)
        return visited


class Facing(MoveFamily):
    """Which way a walker faces after turning."""

    name = "facing"
    wordings = (
        "Which way does {name} face? From {start}: {moves}",
        "{name} looks {start} and turns. Name the direction: {moves}",
        "Where does {name} look who faced {start} and turned: {moves}",
    )
    states = ("north", "east", "south", "west")
    moves = {
        "right": ("east", "south", "west", "north"),
        "back": ("south", "west", "north", "east"),
        "left": ("west", "north", "east", "south"),
        "stay": ("north", "east", "south", "west"),
    }
    slots = {"name": one_of(NAMES), "start": one_of(states), "moves": several_of(one_of(moves), ", ")}


class Cups(MoveFamily):
    """Under which of three cups a coin ends when cups change places: the first two, the last two, or the outer two."""

    name = "cups"
    wordings = (
        "{name} hides a coin under cup {start}. Where is it after the swaps: {moves}",
        "Follow the coin of {name} from cup {start}: {moves}",
        "Find the coin. {name} had it under cup {start} and swapped: {moves}",
    )
    states = ("one", "two", "three")
    moves = {
        "first": ("two", "one", "three"),
        "last": ("one", "three", "two"),
        "outer": ("three", "two", "one"),
        "none": ("one", "two", "three"),
    }
    slots = {"name": one_of(NAMES), "start": one_of(states), "moves": several_of(one_of(moves), ", ")}
