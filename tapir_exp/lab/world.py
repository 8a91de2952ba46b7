"""The lab world as data: shares of its families, the held-out split, and functions that draw problems."""

from hashlib import sha256
from random import Random

from tapir_exp.lab.families import FAMILIES
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

_BY_NAME = {family.name: family for family in FAMILIES}


def get_family(name: str) -> Family:
    """Return the family of a name.

    Raises:
        KeyError: there is no such family.
    """
    return _BY_NAME[name]


def is_held_out(problem: Problem) -> bool:
    """Return whether a problem is held out of all training data; its key alone decides."""
    # The key is the same in every wording, so no rewording of a held-out problem can be trained on.
    return int(sha256(problem.key.encode()).hexdigest(), 16) % HELD_OUT_IN == 0


def recognise(instruction: str) -> tuple[Family, Problem] | None:
    """Return the family and the problem of an instruction; None if it is not of this world."""
    for family in FAMILIES:
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


def natural_problems(count: int, seed: int) -> list[tuple[Family, Problem]]:
    """Draw training problems as open data has them: skewed in family and level, no instruction twice.

    Args:
        count: number of problems.
        seed: seed of the draws.

    Raises:
        LookupError: `PATIENCE` draws in a row gave nothing new.
    """
    rng, problems = Random(f"natural {seed}"), dict[str, tuple[Family, Problem]]()
    misses = 0
    while len(problems) < count:
        (name,) = rng.choices(list(SKEW), list(SKEW.values()))
        (level,) = rng.choices(list(LEVEL_MIX), list(LEVEL_MIX.values()))
        family = get_family(name)
        problem = draw(family, level, rng, held_out=False)
        # Small families run out of new instructions, and then most of their draws repeat.
        misses = misses + 1 if problem.instruction in problems else 0
        if misses > PATIENCE:
            raise LookupError(f"no {count} distinct natural problems: stopped at {len(problems)}")
        problems.setdefault(problem.instruction, (family, problem))
    return list(problems.values())


def even_problems(per_cell: int, seed: int) -> list[Problem]:
    """Draw training problems of every family at every level: a corpus with all words of this world.

    Args:
        per_cell: problems of each family at each level; they may repeat.
        seed: seed of the draws.

    Raises:
        LookupError: see `draw`.
    """
    rng = Random(f"even {seed}")
    return [
        draw(family, level, rng, held_out=False)
        for family in FAMILIES
        for level in family.levels
        for _ in range(per_cell)
    ]


def held_out_problems(per_cell: int, seed: int) -> list[tuple[Family, Problem]]:
    """Draw held-out problems of every family at every level, no key twice.

    Args:
        per_cell: problems of each family at each level.
        seed: seed of the draws.

    Raises:
        LookupError: a cell has fewer problems.
    """
    return [
        (family, problem)
        for family in FAMILIES
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
