"""Tests of the benchmark of hard rows: levels of the lab's problems, and means by round."""

from types import ModuleType, SimpleNamespace

import pytest
from scripts import load_script

from tapir_exp.lab.world import even_problems


@pytest.fixture(scope="module")
def hard_rows() -> ModuleType:
    """Load the script, which is no module of the package."""
    return load_script("benchmarks/curriculum/hard_rows.py")


def test_hardest_share_reads_the_level_of_the_text(hard_rows: ModuleType) -> None:
    problems = even_problems(2, seed=1)
    rows = [SimpleNamespace(instruction=problem.instruction) for problem in problems]
    expected = 100 * sum(problem.level == 3 for problem in problems) / len(problems)
    assert 0 < expected < 100
    assert hard_rows.hardest_share(rows) == pytest.approx(expected)
    assert hard_rows.hardest_share([*rows, *(SimpleNamespace(instruction="Hello") for _ in rows)]) < expected
    assert hard_rows.hardest_share([]) == 0


def test_hard_rows_are_those_before_each_round(hard_rows: ModuleType) -> None:
    jobs = [
        SimpleNamespace(rounds=[{hard_rows.HARD_SHARE: share} for share in shares] + [{}])
        for shares in ((0.1, 0.2), (0.3, 0.6))
    ]
    assert hard_rows.describe(jobs, hard_rows.hard_rows) == "20.0, 40.0"


def test_hard_rows_are_new_rows_if_their_gaps_decide(hard_rows: ModuleType) -> None:
    rounds = [{}, {hard_rows.FRESH_HARD_SHARE: 0.6}, {hard_rows.FRESH_HARD_SHARE: 0.4}]
    assert hard_rows.hard_rows(SimpleNamespace(rounds=rounds)) == pytest.approx([60.0, 40.0])
