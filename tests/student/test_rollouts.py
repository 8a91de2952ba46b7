"""Sampled answers: several to each row, told apart by number, and the same whatever stands beside them."""

from dataclasses import replace
from pathlib import Path

import pytest

from tapir_exp.config import RolloutConfig, StudentConfig
from tapir_exp.core.records import rollout_id, row_id_of_rollout
from tapir_exp.student.generate import generate_responses
from tapir_exp.student.rollouts import sample_rollouts

PROMPTS = [("a", "Say red"), ("b/c", "Say green blue white"), ("d", "Say")]
FOUR = RolloutConfig(num_samples=4)


def test_every_row_has_its_answers_in_a_row(base: Path, student: StudentConfig) -> None:
    answers = sample_rollouts(base, PROMPTS, student, FOUR, 0, "rollouts")
    assert [answer.id for answer in answers] == [rollout_id(row, n) for row, _ in PROMPTS for n in range(4)]
    assert [row_id_of_rollout(answer.id) for answer in answers] == [row for row, _ in PROMPTS for _ in range(4)]
    assert len({answer.text for answer in answers}) > 6


@pytest.mark.parametrize("batch", [1, 5])
def test_an_answer_depends_on_seed_row_and_number_alone(base: Path, student: StudentConfig, batch: int) -> None:
    expected = sample_rollouts(base, PROMPTS, student, FOUR, 0, "rollouts")
    small = replace(student, generation_batch_size=batch)
    assert sample_rollouts(base, PROMPTS[::-1], small, FOUR, 0, "x")[:4] == expected[8:]
    assert sample_rollouts(base, PROMPTS, student, RolloutConfig(num_samples=2), 0, "x")[:2] == expected[:2]
    others = sample_rollouts(base, PROMPTS, student, FOUR, 1, "x")
    assert sum(one.text == other.text for one, other in zip(others, expected, strict=True)) < 4


def test_the_colder_the_nearer_to_the_greedy_answer(base: Path, student: StudentConfig) -> None:
    cold = sample_rollouts(base, PROMPTS, student, RolloutConfig(num_samples=2, temperature=1e-6), 0, "rollouts")
    greedy = {answer.id: answer.text for answer in generate_responses(base, PROMPTS, student, "answers")}
    assert [answer.text for answer in cold] == [greedy[row_id_of_rollout(answer.id)] for answer in cold]
