"""Rollouts: several samples per row, each with a number, independent of their batch."""

from dataclasses import replace
from pathlib import Path

import pytest

from tapir_exp.config import RolloutConfig, StudentConfig
from tapir_exp.core.records import rollout_id, row_id_of_rollout
from tapir_exp.student.generate import generate_responses
from tapir_exp.student.rollouts import sample_rollouts

PROMPTS = [("a", "Say red"), ("b/c", "Say green blue white"), ("d", "Say")]
FOUR = RolloutConfig(num_samples=4)


def test_rollouts_of_a_row_are_consecutive(base: Path, student: StudentConfig) -> None:
    responses = sample_rollouts(base, PROMPTS, student, FOUR, 0, "rollouts")
    assert [response.id for response in responses] == [rollout_id(row_id, n) for row_id, _ in PROMPTS for n in range(4)]
    assert [row_id_of_rollout(response.id) for response in responses] == [
        row_id for row_id, _ in PROMPTS for _ in range(4)
    ]
    assert len({response.text for response in responses}) > 6


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 5])
def test_rollout_depends_only_on_seed_row_and_number(base: Path, student: StudentConfig, batch: int) -> None:
    expected = sample_rollouts(base, PROMPTS, student, FOUR, 0, "rollouts")
    small = replace(student, generation_batch_size=batch)
    assert sample_rollouts(base, PROMPTS[::-1], small, FOUR, 0, "x")[:4] == expected[8:]
    assert sample_rollouts(base, PROMPTS, student, RolloutConfig(num_samples=2), 0, "x")[:2] == expected[:2]
    others = sample_rollouts(base, PROMPTS, student, FOUR, 1, "x")
    assert sum(one.text == other.text for one, other in zip(others, expected, strict=True)) < 4


def test_low_temperature_gives_the_greedy_response(base: Path, student: StudentConfig) -> None:
    cold = sample_rollouts(base, PROMPTS, student, RolloutConfig(num_samples=2, temperature=1e-6), 0, "rollouts")
    greedy = {response.id: response.text for response in generate_responses(base, PROMPTS, student, "answers")}
    assert [response.text for response in cold] == [greedy[row_id_of_rollout(response.id)] for response in cold]
