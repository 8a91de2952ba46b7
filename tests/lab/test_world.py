"""The lab world: natural shares, a clean held-out split, and the same draws in every process."""

import os
import subprocess
import sys
from collections import Counter
from hashlib import sha256
from random import Random

import pytest

from tapir_exp.config import WorldName
from tapir_exp.core.task_types import BOOSTED
from tapir_exp.lab.families import FAMILIES
from tapir_exp.lab.family import Family, Problem
from tapir_exp.lab.world import (
    LEVEL_MIX,
    SKEW,
    WORLDS,
    World,
    draw,
    even_problems,
    get_family,
    held_out_problems,
    is_held_out,
    natural_problems,
    recognise,
)

Problems = list[tuple[Family, Problem]]


@pytest.fixture(scope="module")
def natural() -> Problems:
    return natural_problems(3000, seed=1)


@pytest.fixture(scope="module")
def held_out() -> Problems:
    return held_out_problems(30, seed=1)


@pytest.mark.parametrize("world", WORLDS.values(), ids=[name.value for name in WORLDS])
def test_shares_of_a_world_sum_to_one(world: World) -> None:
    assert set(world.shares) == {family.name for family in world.families}
    assert sum(world.shares.values()) == pytest.approx(1)
    assert sum(world.levels.values()) == pytest.approx(1)


def test_draws_of_a_world_are_its_own() -> None:
    families = set(WORLDS[WorldName.ladder].families)
    natural = natural_problems(400, 1, WorldName.ladder)
    assert {family for family, _ in natural} == {f for f, _ in held_out_problems(1, 1, WorldName.ladder)} == families
    assert len(even_problems(1, 1, WorldName.ladder)) == 36
    assert 0.7 < sum(problem.level == 1 for _, problem in natural) / 400 < 0.9
    assert all(recognise(problem.instruction) == (family, problem) for family, problem in natural)


def test_shares_sum_to_one() -> None:
    assert set(SKEW) == {family.name for family in FAMILIES}
    assert sum(SKEW.values()) == pytest.approx(1)
    assert sum(LEVEL_MIX.values()) == pytest.approx(1)
    assert LEVEL_MIX[1] > LEVEL_MIX[2] > LEVEL_MIX[3]
    assert 0.12 <= sum(SKEW[family.name] for family in FAMILIES if family.task in BOOSTED) <= 0.14


def test_natural_problems_follow_the_shares(natural: Problems) -> None:
    names = Counter(family.name for family, _ in natural)
    levels = Counter(problem.level for _, problem in natural)
    assert sum(names[f.name] for f in FAMILIES if f.task in BOOSTED) / len(natural) < 0.15
    for name, share in SKEW.items():
        assert names[name] / len(natural) == pytest.approx(share, abs=0.03)
    for level, share in LEVEL_MIX.items():
        assert levels[level] / len(natural) == pytest.approx(share, abs=0.05)


def test_natural_instructions_are_distinct(natural: Problems) -> None:
    assert len({problem.instruction for _, problem in natural}) == len(natural) == 3000


def test_train_and_held_out_are_disjoint(natural: Problems, held_out: Problems) -> None:
    assert not any(is_held_out(problem) for _, problem in natural)
    assert all(is_held_out(problem) for _, problem in held_out)
    assert not {p.key for _, p in natural} & {p.key for _, p in held_out}
    assert not {p.instruction for _, p in natural} & {p.instruction for _, p in held_out}


def test_held_out_problems_fill_every_cell(held_out: Problems) -> None:
    cells = Counter((family.name, problem.level) for family, problem in held_out)
    assert cells == {(family.name, level): 30 for family in FAMILIES for level in family.levels}
    assert len({problem.key for _, problem in held_out}) == len(held_out)


def test_one_problem_in_six_is_held_out() -> None:
    problems = [family.pose(Random(n), level) for family in FAMILIES for level in family.levels for n in range(200)]
    assert sum(map(is_held_out, problems)) / len(problems) == pytest.approx(1 / 6, abs=0.015)


def test_split_depends_on_the_key_alone() -> None:
    texts = (
        "Compute modulo 10: 3, then +1, then -2, then +2.",
        "On a ring of ten digits go from 3, then +1, then -2, then +2.",
        "What does a dial of ten show that turns from 3, then +1, then -2, then +2?",
    )
    results = [recognise(text) for text in texts]
    assert all(results)
    assert len({is_held_out(problem) for _, problem in filter(None, results)}) == 1


@pytest.mark.parametrize("held_out_side", [False, True])
def test_draw_stays_on_its_side(held_out_side: bool) -> None:
    rng = Random(5)
    for family in FAMILIES:
        for level in family.levels:
            problem = draw(family, level, rng, held_out=held_out_side)
            assert is_held_out(problem) is held_out_side
            assert problem.level == level


class OneProblem(Family):
    """A family that always poses the same problem."""

    name = "one"

    def pose(self, rng: Random, level: int) -> Problem:
        return get_family("dials").pose(Random(1), 1)

    def read(self, instruction: str) -> Problem | None:
        return None


def test_draw_from_an_empty_side_fails() -> None:
    empty_side = not is_held_out(OneProblem().pose(Random(), 1))
    with pytest.raises(LookupError, match="no problem of one at level 1"):
        draw(OneProblem(), 1, Random(1), held_out=empty_side)


def test_even_problems_fill_every_cell_for_training() -> None:
    problems = even_problems(7, seed=1)
    results = [recognise(problem.instruction) for problem in problems]
    assert [result[1] for result in results if result] == problems
    cells = Counter((result[0].name, result[1].level) for result in results if result)
    assert cells == {(family.name, level): 7 for family in FAMILIES for level in family.levels}
    assert not any(is_held_out(problem) for problem in problems)


def test_even_problems_depend_on_the_seed() -> None:
    assert even_problems(2, seed=1) == even_problems(2, seed=1) != even_problems(2, seed=2)
    assert even_problems(0, seed=1) == []


def test_held_out_problems_from_a_small_cell_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir_exp.lab.world.PATIENCE", 200)
    with pytest.raises(LookupError, match=r"\w+ at level 1 has fewer than 800 held-out problems"):
        held_out_problems(800, seed=1)


def test_recognise_returns_family_and_problem(natural: Problems) -> None:
    for family, problem in natural[:300]:
        assert recognise(problem.instruction) == (family, problem)
    assert recognise("Tell me a joke.") is None


def test_get_family_returns_it_by_name() -> None:
    assert [get_family(family.name) for family in FAMILIES] == list(FAMILIES)
    with pytest.raises(KeyError):
        get_family("poems")


def fingerprint() -> str:
    """Return the digest of the draws of one seed."""
    return sha256(
        repr([p for _, p in natural_problems(300, 7) + held_out_problems(3, 7)] + even_problems(2, 7)).encode()
    ).hexdigest()


@pytest.mark.slow
def test_draws_are_the_same_in_every_process() -> None:
    code = "from tests.lab.test_world import fingerprint; print(fingerprint())"
    for hash_seed in ("1", "2"):
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
        assert output.strip() == fingerprint()


def test_natural_problems_depend_on_the_seed() -> None:
    assert natural_problems(50, 1) != natural_problems(50, 2)
    assert natural_problems(50, 1) == natural_problems(50, 1)
