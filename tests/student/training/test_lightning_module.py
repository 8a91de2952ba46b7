"""The loss and its gradient, compared with the formula of the paper."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tapir_exp.config import BudgetConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.records import Subset, TrainingStep
from tapir_exp.core.store import read_rows
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.loading import load_model
from tapir_exp.student.packing import pack_attention
from tapir_exp.student.training.batching import collate
from tapir_exp.student.training.encoded_rows import EncodedRow
from tapir_exp.student.training.encoding import TrainingRow, encode_rows
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.lightning_module import StudentModule, response_nll, subset_weights
from tapir_exp.student.training.schedule import restart_schedule
from tapir_exp.student.training.train import TRAINING, finetune


def nll_by_hand(model: torch.nn.Module, row: EncodedRow) -> Tensor:
    """Return the losses of the supervised tokens of one unpadded row, from plain logits."""
    logits = model(input_ids=torch.tensor([row.tokens])).logits[0]
    return torch.stack(
        [-torch.log_softmax(logits[at - 1], -1)[row.tokens[at]] for at in range(row.prompt, len(row.tokens))]
    )


@pytest.fixture(scope="module")
def encoded(rows: list[TrainingRow], chat: Chat) -> tuple[EncodedRow, ...]:
    return encode_rows(rows, chat, 128).rows


def test_response_nll_packed_equals_each_row_alone(
    base: Path, student: StudentConfig, encoded: tuple[EncodedRow, ...]
) -> None:
    """Packed rows do not influence each other, and the targets are the next tokens."""
    model = load_model(base, student)
    expected = torch.cat([nll_by_hand(model, row) for row in encoded[:7]])
    nll = response_nll(pack_attention(model), collate(encoded[:7]))
    torch.testing.assert_close(nll, expected, atol=1e-5, rtol=1e-5)


def first_step(workdir: Path) -> TrainingStep:
    return read_rows(workdir / TRAINING, TrainingStep)[0]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_training_step_loss_matches_the_formula(
    alpha: float,
    base: Path,
    rows: list[TrainingRow],
    student: StudentConfig,
    trainer: TrainerConfig,
    encoded: tuple[EncodedRow, ...],
    tmp_path: Path,
) -> None:
    sft = SFTConfig(global_batch_size=len(rows), max_tokens_per_micro_batch=100)
    finetune(FitJob(base, sft, BudgetConfig(epochs=1), student, trainer, alpha=alpha), rows, tmp_path)
    model = load_model(base, student)
    with torch.no_grad():
        losses = {subset: [nll_by_hand(model, row) for row in encoded if row.subset is subset] for subset in Subset}
    means = {subset: torch.cat(nlls).mean().item() for subset, nlls in losses.items()}
    step = first_step(tmp_path)
    assert step.loss == pytest.approx(alpha * means[Subset.HARD] + (1 - alpha) * means[Subset.REST], rel=1e-5)
    assert step.loss_hard == pytest.approx(means[Subset.HARD], rel=1e-5)
    assert step.loss_rest == pytest.approx(means[Subset.REST], rel=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 0.8])
def test_training_step_update_matches_the_formula(
    alpha: float,
    base: Path,
    rows: list[TrainingRow],
    student: StudentConfig,
    trainer: TrainerConfig,
    encoded: tuple[EncodedRow, ...],
    tmp_path: Path,
) -> None:
    """A step over several micro-batches gives the weights of one step with the gradient of the formula."""
    sft = SFTConfig(
        global_batch_size=len(rows),
        max_tokens_per_micro_batch=100,
        learning_rate=1e-3,
        warmup_ratio=0.0,
        max_grad_norm=0.5,
    )
    finetune(FitJob(base, sft, BudgetConfig(epochs=1), student, trainer, alpha=alpha), rows, tmp_path)
    model = load_model(base, student)
    loss = torch.zeros(())
    for subset, weight in ((Subset.HARD, alpha), (Subset.REST, 1 - alpha)):
        chosen = [row for row in encoded if row.subset is subset]
        total = sum(nll_by_hand(model, row).sum() for row in chosen)
        loss = loss + weight * total / sum(row.supervised for row in chosen)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, eps=1e-8)
    optimizer.step()
    fitted = load_model(tmp_path, student)
    moved = dict(fitted.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(moved[name], p, atol=2e-5, rtol=0, msg=name)


@pytest.mark.slow
def test_training_step_loss_ignores_micro_batch_size(
    base: Path, rows: list[TrainingRow], student: StudentConfig, trainer: TrainerConfig, tmp_path: Path
) -> None:
    histories = []
    for micro in (1, 100, 10_000):
        sft = SFTConfig(global_batch_size=12, max_tokens_per_micro_batch=micro, learning_rate=1e-3)
        job = FitJob(base, sft, BudgetConfig(epochs=2), student, trainer, alpha=0.3)
        finetune(job, rows, tmp_path / str(micro))
        histories.append(read_rows(tmp_path / str(micro) / TRAINING, TrainingStep))
    for steps in zip(*histories, strict=True):
        for step in steps[1:]:
            assert step.loss == pytest.approx(steps[0].loss, rel=1e-4)


def test_subset_weights_without_alpha_or_a_subset_are_one() -> None:
    plain = {Subset.HARD: 1.0, Subset.REST: 1.0}
    assert subset_weights(None, 10, 20) == subset_weights(0.3, 0, 20) == subset_weights(0.3, 20, 0) == plain


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_subset_weights_average_to_one(alpha: float) -> None:
    weights = subset_weights(alpha, 30, 70)
    assert (30 * weights[Subset.HARD] + 70 * weights[Subset.REST]) / 100 == pytest.approx(1)
    assert 30 * weights[Subset.HARD] / 100 == pytest.approx(alpha)


def test_configure_optimizers_norms_have_no_weight_decay(base: Path, student: StudentConfig, sft: SFTConfig) -> None:
    sft = replace(sft, weight_decay=0.1)
    module = StudentModule(load_model(base, student), subset_weights(None, 0, 1), sft, restart_schedule(sft), 1, 0)
    decayed, others = module.configure_optimizers().param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in module.named_parameters()}
    assert all("norm" in names[id(p)] for p in others["params"])
    assert not any("norm" in names[id(p)] for p in decayed["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(names)


def test_student_module_is_in_training_mode(base: Path, student: StudentConfig, sft: SFTConfig) -> None:
    """from_pretrained returns models in evaluation mode, and Lightning does not change the mode."""
    model = load_model(base, student)
    assert not model.training
    assert StudentModule(model, subset_weights(None, 0, 1), sft, restart_schedule(sft), 1, 0).model.training
