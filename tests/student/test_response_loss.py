"""The losses behind IFD, against plain logits of one unpadded row at a time."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tapir_exp.config import BudgetConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.distillation.curriculum.difficulty import instruction_following_difficulty
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.loading import load_model
from tapir_exp.student.response_loss import LossRow, response_losses
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.train import finetune


@pytest.fixture(scope="module")
def taught(rows: list[TrainingRow]) -> list[LossRow]:
    return [LossRow(f"id{n}", row.instruction, row.response) for n, row in enumerate(rows)]


@torch.no_grad()
def loss_by_hand(model: torch.nn.Module, chat: Chat, instruction: str, response: str) -> float:
    prompt, answer = chat.encode_prompts([instruction])[0], chat.encode_responses([response])[0]
    logits = torch.log_softmax(model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0], -1)
    return -math.fsum(logits[len(prompt) - 1 + at][token].item() for at, token in enumerate(answer)) / len(answer)


def test_losses_are_those_of_each_row_alone(
    base: Path, chat: Chat, student: StudentConfig, taught: list[LossRow]
) -> None:
    model = load_model(base, student)
    losses = response_losses(base, taught, student, "losses")
    assert [loss.id for loss in losses] == [row.id for row in taught]
    for loss, row in zip(losses, taught, strict=True):
        assert loss.instructed == pytest.approx(loss_by_hand(model, chat, row.instruction, row.response), rel=1e-4)
        assert loss.alone == pytest.approx(loss_by_hand(model, chat, "", row.response), rel=1e-4)
        assert loss.tokens == len(chat.encode_responses([row.response])[0])


@pytest.mark.parametrize("batch", [1, 18])
def test_neighbours_do_not_matter(base: Path, student: StudentConfig, taught: list[LossRow], batch: int) -> None:
    expected = response_losses(base, taught, student, "losses")
    found = response_losses(base, taught, replace(student, generation_batch_size=batch), "losses")
    for one, other in zip(found, expected, strict=True):
        assert (one.instructed, one.alone) == (pytest.approx(other.instructed, 1e-4), pytest.approx(other.alone, 1e-4))


def test_an_instruction_that_was_learnt_helps(
    base: Path, rows: list[TrainingRow], student: StudentConfig, trainer: TrainerConfig, tmp_path: Path
) -> None:
    """Rows whose response only the instruction tells: after training, IFD falls well below 1."""
    told = [TrainingRow(f"Say {word}", word) for word in ("red", "green", "blue", "black", "white")]
    sft = SFTConfig(learning_rate=1e-2, global_batch_size=5)
    finetune(FitJob(base, sft, BudgetConfig(epochs=60), student, trainer), told, tmp_path)
    taught = [LossRow(row.response, row.instruction, row.response) for row in told]
    before, after = (response_losses(directory, taught, student, "losses") for directory in (base, tmp_path))
    ratios = [instruction_following_difficulty(loss.instructed or 0.0, loss.alone or 0.0) for loss in (*before, *after)]
    assert max(ratios[5:]) < 0.5 < min(ratios[:5])


def test_a_row_that_does_not_fit_has_no_losses_and_says_why(base: Path, student: StudentConfig) -> None:
    long, ordinary = response_losses(
        base, [LossRow("a", "red " * 200, "blue"), LossRow("b", "Say red", "red")], replace(student, max_length=60), "x"
    )
    assert (long.instructed, long.alone) == (None, None)
    assert "do not fit" in (long.failure or "")
    assert ordinary.failure is None
    assert ordinary.instructed


def test_no_rows_no_losses(base: Path, student: StudentConfig) -> None:
    assert response_losses(base, [], student, "losses") == []
