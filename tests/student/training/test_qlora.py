"""QLoRA with bitsandbytes, on a GPU or with its slow CPU backend."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tapir_exp.config import (
    ArchitectureConfig,
    BudgetConfig,
    LabStudentConfig,
    Method,
    SFTConfig,
    StudentConfig,
    TrainerConfig,
)
from tapir_exp.core.records import TrainingStep
from tapir_exp.core.store import digest_files, read_rows
from tapir_exp.lab.base_student import build_base_student
from tapir_exp.student.generate import generate_responses
from tapir_exp.student.training.adapter import load_for_training
from tapir_exp.student.training.callbacks import CheckpointCallback
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.memory import estimate_fit_memory
from tapir_exp.student.training.train import TRAINING, finetune

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs pip install 'tapir-exp[qlora]'"),
]
TRAINER = TrainerConfig(accelerator="auto" if torch.cuda.is_available() else "cpu")
WIDE = LabStudentConfig(vocab_size=300, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=2)
"""bitsandbytes quantises in blocks of 64 numbers."""


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, rows: list[TrainingRow]) -> Path:
    directory = tmp_path_factory.mktemp("wide")
    build_base_student(directory, WIDE, [f"{row.instruction} {row.response}" for row in rows])
    return directory


@pytest.fixture
def qlora(sft: SFTConfig) -> SFTConfig:
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return replace(sft, method=Method.qlora, lora=replace(sft.lora, rank=8, target_modules=targets))


def test_qlora_base_has_four_bits_and_adapter_is_trained(
    parent: Path, student: StudentConfig, qlora: SFTConfig
) -> None:
    from bitsandbytes.nn import Linear4bit

    model: Any = load_for_training(parent, student, qlora, TRAINER)[0]
    linear = [module for name, module in model.named_modules() if name.endswith("base_layer")]
    assert len(linear) == 14
    assert {type(module) for module in linear} == {Linear4bit}
    assert {module.weight.quant_state.quant_type for module in linear} == {"nf4"}
    assert {module.weight.quant_state.nested for module in linear} == {True}
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "lora_" in name} != set()


def test_qlora_memory_of_weights_matches_the_estimate(parent: Path, student: StudentConfig, qlora: SFTConfig) -> None:
    from bitsandbytes.nn import Params4bit

    def size(weight: Any) -> int:
        own: int = weight.untyped_storage().nbytes()
        if not isinstance(weight, Params4bit):
            return own
        scales = weight.quant_state
        return own + sum(part.untyped_storage().nbytes() for part in (scales.absmax, scales.state2.absmax))

    model: Any = load_for_training(parent, student, qlora, TRAINER)[0]
    arch = ArchitectureConfig(64, 2, 2, 2, 128, 300, tie_word_embeddings=True)
    predicted = estimate_fit_memory(replace(student, architecture=arch), qlora, TRAINER)
    assert predicted
    assert sum(map(size, model.parameters())) == pytest.approx(predicted.weights, rel=0.01)


def test_qlora_fit_learns_resumes_and_generates(
    parent: Path,
    tmp_path: Path,
    rows: list[TrainingRow],
    student: StudentConfig,
    qlora: SFTConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fit(workdir: Path, parent: Path = parent) -> None:
        finetune(FitJob(parent, qlora, BudgetConfig(epochs=15), student, TRAINER, alpha=0.3), rows, workdir)

    class KilledError(Exception):
        pass

    def end_batch(self: Any, trainer: Any, *others: Any) -> None:
        original(self, trainer, *others)
        if trainer.global_step == 7:
            raise KilledError

    fit(tmp_path / "whole")
    steps = read_rows(tmp_path / "whole" / TRAINING, TrainingStep)
    assert steps[-1].loss < 0.6 * steps[0].loss
    original = CheckpointCallback.on_train_batch_end
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointCallback, "on_train_batch_end", end_batch)
        with pytest.raises(KilledError):
            fit(tmp_path / "broken")
    fit(tmp_path / "broken")
    assert digest_files(tmp_path / "broken") == digest_files(tmp_path / "whole")
    fit(tmp_path / "next", tmp_path / "whole")
    assert read_rows(tmp_path / "next" / TRAINING, TrainingStep)[0].loss < 0.7 * steps[0].loss
    (response,) = generate_responses(tmp_path / "next", [("one", rows[0].instruction)], student, "responses")
    assert response.text
