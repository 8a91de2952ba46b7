"""The lab world as data: how often its families occur, which problems are held out, and how to draw them."""

from hashlib import sha256
from random import Random

from tapir_exp.lab.families import FAMILIES
from tapir_exp.lab.family import Family, Problem

SKEW: dict[str, float] = {
    "dials": 0.03, "totals": 0.03, "facing": 0.02, "cups": 0.02, "functions": 0.02, "bugs": 0.01,
    "tenses": 0.17, "lists": 0.11, "weights": 0.14, "spanish": 0.12,
    "personas": 0.09, "supposing": 0.08, "sentences": 0.12, "bits": 0.04,
}  # fmt: skip
"""The natural share of each family; it sums to 1."""

LEVEL_MIX: dict[int, float] = {1: 0.6, 2: 0.3, 3: 0.1}
"""The natural share of each level: the easier, the more there is of it."""

HELD_OUT_IN = 6
"""One problem in this many is held out."""
PATIENCE = 10_000
"""How many draws in a row may fail before a search gives up."""

_BY_NAME = {family.name: family for family in FAMILIES}


def family_named(name: str) -> Family:
    """The family of that name.

    Raises:
        KeyError: there is none.
    """
    return _BY_NAME[name]


def is_held_out(problem: Problem) -> bool:
    """Whether a problem is kept from all training data; decided by its key alone, the same everywhere."""
    return int(sha256(problem.key.encode()).hexdigest(), 16) % HELD_OUT_IN == 0


def recognise(instruction: str) -> tuple[Family, Problem] | None:
    """The problem that an instruction poses and its family, or None where it poses none of this world."""
    for family in FAMILIES:
        if problem := family.read(instruction):
            return family, problem
    return None


def draw(family: Family, level: int, rng: Random, held_out: bool) -> Problem:
    """Draw a problem from one side of the split.

    Raises:
        LookupError: none was found in `PATIENCE` draws.
    """
    for _ in range(PATIENCE):
        problem = family.pose(rng, level)
        if is_held_out(problem) is held_out:
            return problem
    raise LookupError(f"no problem of {family.name} at level {level} with held_out={held_out} in {PATIENCE} draws")


def natural_problems(count: int, seed: int) -> list[tuple[Family, Problem]]:
    """Problems to train on as they occur in nature: skewed in family and level, no instruction twice.

    Raises:
        LookupError: nothing new was found in `PATIENCE` draws.
    """
    rng, found = Random(f"natural {seed}"), dict[str, tuple[Family, Problem]]()
    misses = 0
    while len(found) < count:
        (name,) = rng.choices(list(SKEW), list(SKEW.values()))
        (level,) = rng.choices(list(LEVEL_MIX), list(LEVEL_MIX.values()))
        family, problem = family_named(name), draw(family_named(name), level, rng, held_out=False)
        misses = misses + 1 if problem.instruction in found else 0
        if misses > PATIENCE:
            raise LookupError(f"no {count} distinct natural problems: stopped at {len(found)}")
        found.setdefault(problem.instruction, (family, problem))
    return list(found.values())


def even_problems(per_cell: int, seed: int) -> list[Problem]:
    """`per_cell` problems to train on of every family at every level, which may repeat: the words of this world.

    Raises:
        LookupError: as `draw`.
    """
    rng = Random(f"even {seed}")
    return [
        draw(family, level, rng, held_out=False)
        for family in FAMILIES
        for level in family.levels
        for _ in range(per_cell)
    ]


def held_out_problems(per_cell: int, seed: int) -> list[tuple[Family, Problem]]:
    """`per_cell` held-out problems of every family at every level, no key twice.

    Raises:
        LookupError: a cell has not that many.
    """
    return [
        (family, problem)
        for family in FAMILIES
        for level in family.levels
        for problem in _held_out_cell(family, level, per_cell, seed)
    ]


def _held_out_cell(family: Family, level: int, count: int, seed: int) -> list[Problem]:
    rng, found = Random(f"held out {family.name} {level} {seed}"), dict[str, Problem]()
    for _ in range(count + PATIENCE):
        if len(found) == count:
            return list(found.values())
        problem = draw(family, level, rng, held_out=True)
        found.setdefault(problem.key, problem)
    raise LookupError(f"{family.name} at level {level} has fewer than {count} held-out problems")
