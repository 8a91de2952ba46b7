"""The losses behind IFD, against the plain logits of one row at a time."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tapir_exp.config import BudgetConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.stored_rows import MeasuredLoss, RowLog
from tapir_exp.distillation.curriculum.difficulty import instruction_following_difficulty
from tapir_exp.student import response_loss
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.loading import load_model
from tapir_exp.student.response_loss import LossRow, response_losses
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.train import finetune


@pytest.fixture(scope="module")
def loss_rows(rows: list[TrainingRow]) -> list[LossRow]:
    return [LossRow(f"id{n}", row.instruction, row.response) for n, row in enumerate(rows)]


@torch.no_grad()
def loss_by_hand(model: torch.nn.Module, chat: Chat, instruction: str, response: str) -> float:
    prompt, target = chat.encode_prompts([instruction])[0], chat.encode_responses([response])[0]
    logits = torch.log_softmax(model(input_ids=torch.tensor([[*prompt, *target]])).logits[0], -1)
    return -math.fsum(logits[len(prompt) - 1 + index][token].item() for index, token in enumerate(target)) / len(target)


def test_losses_equal_those_of_each_row_alone(
    base: Path, chat: Chat, student: StudentConfig, loss_rows: list[LossRow]
) -> None:
    model = load_model(base, student)
    losses = response_losses(base, loss_rows, student, "losses")
    assert [loss.id for loss in losses] == [row.id for row in loss_rows]
    for loss, row in zip(losses, loss_rows, strict=True):
        assert loss.instructed == pytest.approx(loss_by_hand(model, chat, row.instruction, row.response), rel=1e-4)
        assert loss.alone == pytest.approx(loss_by_hand(model, chat, "", row.response), rel=1e-4)
        assert loss.tokens == len(chat.encode_responses([row.response])[0])


@pytest.mark.parametrize("batch", [1, 18])
def test_losses_do_not_depend_on_the_batch(
    base: Path, student: StudentConfig, loss_rows: list[LossRow], batch: int
) -> None:
    expected = response_losses(base, loss_rows, student, "losses")
    losses = response_losses(base, loss_rows, replace(student, generation_batch_size=batch), "losses")
    for one, other in zip(losses, expected, strict=True):
        assert (one.instructed, one.alone) == (pytest.approx(other.instructed, 1e-4), pytest.approx(other.alone, 1e-4))


@pytest.mark.slow
def test_learnt_instructions_lower_ifd(
    base: Path, rows: list[TrainingRow], student: StudentConfig, trainer: TrainerConfig, tmp_path: Path
) -> None:
    """Only the instruction determines the response of these rows, so training lowers their IFD well below 1."""
    examples = [TrainingRow(f"Say {word}", word) for word in ("red", "green", "blue", "black", "white")]
    sft = SFTConfig(learning_rate=1e-2, global_batch_size=5)
    finetune(FitJob(base, sft, BudgetConfig(epochs=60), student, trainer), examples, tmp_path)
    measured = [LossRow(row.response, row.instruction, row.response) for row in examples]
    before, after = (response_losses(directory, measured, student, "losses") for directory in (base, tmp_path))
    ratios = [instruction_following_difficulty(loss.instructed or 0.0, loss.alone or 0.0) for loss in (*before, *after)]
    assert max(ratios[5:]) < 0.5 < min(ratios[:5])


def test_row_that_does_not_fit_fails_with_a_reason(base: Path, student: StudentConfig) -> None:
    long, ordinary = response_losses(
        base, [LossRow("a", "red " * 200, "blue"), LossRow("b", "Say red", "red")], replace(student, max_length=60), "x"
    )
    assert (long.instructed, long.alone) == (None, None)
    assert "do not fit" in (long.failure or "")
    assert ordinary.failure is None
    assert ordinary.instructed


def test_no_rows_give_no_losses(base: Path, student: StudentConfig) -> None:
    assert response_losses(base, [], student, "losses") == []


def test_interrupted_losses_go_on_with_the_missing_batches(
    base: Path, student: StudentConfig, loss_rows: list[LossRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = replace(student, generation_batch_size=4)
    whole = response_losses(base, loss_rows, student, "losses")
    measured = response_loss.response_nll
    calls: list[int] = []

    def measure(*arguments: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(response_loss, "response_nll", measure)
    with pytest.raises(KeyboardInterrupt), RowLog(tmp_path / "log", MeasuredLoss) as kept:
        response_losses(base, loss_rows, student, "losses", kept)
    with RowLog(tmp_path / "log", MeasuredLoss) as kept:
        assert len(kept) == 12
        assert response_losses(base, loss_rows, student, "losses", kept) == whole
    assert len(calls) - 1 == 2 * math.ceil(len(loss_rows) / 4)
