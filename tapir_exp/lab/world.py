"""The worlds of the lab as data: shares of their families, the held-out split, and functions that draw problems."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from random import Random

from tapir_exp.config import WorldName
from tapir_exp.lab.families import FAMILIES
from tapir_exp.lab.families.ladder import LADDER, LADDER_LEVELS, LADDER_SHARES
from tapir_exp.lab.family import Family, Problem

SKEW: dict[str, float] = {
    "dials": 0.03, "totals": 0.03, "facing": 0.02, "cups": 0.02, "functions": 0.02, "bugs": 0.01,
    "tenses": 0.17, "lists": 0.11, "weights": 0.14, "spanish": 0.12,
    "personas": 0.09, "supposing": 0.08, "sentences": 0.12, "bits": 0.04,
}  # fmt: skip
"""Natural share of each family; they sum to 1."""

LEVEL_MIX: dict[int, float] = {1: 0.6, 2: 0.3, 3: 0.1}
"""Natural share of each level: easier problems are more common."""

HELD_OUT_IN = 6
"""One problem in this many is held out."""
PATIENCE = 10_000
"""Failed draws in a row after which a search stops."""


@dataclass(frozen=True)
class World:
    """Families of problems, and how common each family and each level is in open data.

    Attributes:
        families: the families.
        shares: natural share of each family.
        levels: natural share of each level.
    """

    families: tuple[Family, ...]
    shares: Mapping[str, float]
    levels: Mapping[int, float]


WORLDS: Mapping[WorldName, World] = {
    WorldName.default: World(FAMILIES, SKEW, LEVEL_MIX),
    WorldName.ladder: World(LADDER, LADDER_SHARES, LADDER_LEVELS),
}
ALL_FAMILIES: tuple[Family, ...] = tuple(family for world in WORLDS.values() for family in world.families)
_BY_NAME = {family.name: family for family in ALL_FAMILIES}


def get_family(name: str) -> Family:
    """Return the family of a name.

    Raises:
        KeyError: there is no such family.
    """
    return _BY_NAME[name]


def is_held_out(problem: Problem) -> bool:
    """Return whether a problem is held out of all training data; this depends on its key alone."""
    # The key is the same in every wording, so no rewording of a held-out problem can be trained on.
    return int(sha256(problem.key.encode()).hexdigest(), 16) % HELD_OUT_IN == 0


def families_beside(family: Family) -> tuple[Family, ...]:
    """Return all families of the world that a family belongs to."""
    return next(world.families for world in WORLDS.values() if family in world.families)


@lru_cache(maxsize=2**15)  # the oracles read every instruction several times
def recognise(instruction: str) -> tuple[Family, Problem] | None:
    """Return the family and the problem of an instruction; None if it is not of any world."""
    for family in ALL_FAMILIES:
        if problem := family.read(instruction):
            return family, problem
    return None


def draw(family: Family, level: int, rng: Random, held_out: bool) -> Problem:
    """Draw a problem from one side of the split.

    Args:
        family: the family of the problem.
        level: its level of difficulty.
        rng: source of the draws.
        held_out: the side: held out, or for training.

    Raises:
        LookupError: `PATIENCE` draws gave no such problem.
    """
    # Rejection sampling: every problem on the side stays as likely as the family makes it.
    for _ in range(PATIENCE):
        problem = family.pose(rng, level)
        if is_held_out(problem) is held_out:
            return problem
    raise LookupError(f"no problem of {family.name} at level {level} with held_out={held_out} in {PATIENCE} draws")


def natural_problems(count: int, seed: int, world: WorldName = WorldName.default) -> list[tuple[Family, Problem]]:
    """Draw training problems as open data has them: skewed in family and level, no instruction twice.

    Args:
        count: number of problems.
        seed: seed of the draws.
        world: the world.

    Raises:
        LookupError: `PATIENCE` draws in a row gave nothing new.
    """
    shares, levels = WORLDS[world].shares, WORLDS[world].levels
    rng, problems = Random(f"natural {seed}"), dict[str, tuple[Family, Problem]]()
    misses = 0
    while len(problems) < count:
        (name,) = rng.choices(list(shares), list(shares.values()))
        (level,) = rng.choices(list(levels), list(levels.values()))
        family = get_family(name)
        problem = draw(family, level, rng, held_out=False)
        # Small families run out of new instructions, and then most of their draws repeat.
        misses = misses + 1 if problem.instruction in problems else 0
        if misses > PATIENCE:
            raise LookupError(f"no {count} distinct natural problems: stopped at {len(problems)}")
        problems.setdefault(problem.instruction, (family, problem))
    return list(problems.values())


def even_problems(per_cell: int, seed: int, world: WorldName = WorldName.default) -> list[Problem]:
    """Draw training problems of every family at every level: a corpus with all words of this world.

    Args:
        per_cell: problems of each family at each level; they may repeat.
        seed: seed of the draws.
        world: the world.

    Raises:
        LookupError: see `draw`.
    """
    rng = Random(f"even {seed}")
    return [
        draw(family, level, rng, held_out=False)
        for family in WORLDS[world].families
        for level in family.levels
        for _ in range(per_cell)
    ]


def held_out_problems(per_cell: int, seed: int, world: WorldName = WorldName.default) -> list[tuple[Family, Problem]]:
    """Draw held-out problems of every family at every level, no key twice.

    Args:
        per_cell: problems of each family at each level.
        seed: seed of the draws.
        world: the world.

    Raises:
        LookupError: a cell has fewer problems.
    """
    return [
        (family, problem)
        for family in WORLDS[world].families
        for level in family.levels
        for problem in _held_out_cell(family, level, per_cell, seed)
    ]


def _held_out_cell(family: Family, level: int, count: int, seed: int) -> list[Problem]:
    # A generator for each cell: more problems in one do not change those of another.
    rng, problems = Random(f"held out {family.name} {level} {seed}"), dict[str, Problem]()
    for _ in range(count + PATIENCE):
        if len(problems) == count:
            return list(problems.values())
        problem = draw(family, level, rng, held_out=True)
        problems.setdefault(problem.key, problem)
    raise LookupError(f"{family.name} at level {level} has fewer than {count} held-out problems")
