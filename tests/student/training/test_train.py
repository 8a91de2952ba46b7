"""A fit from end to end: same bytes whatever happens to it."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tapir_exp.config import BudgetConfig, Method, Precision, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.console import console
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import StepTiming, TrainingStep
from tapir_exp.core.store import TIMINGS, digest_files, read_rows
from tapir_exp.student.loading import load_model
from tapir_exp.student.training import train
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.lightning_module import StudentModule
from tapir_exp.student.training.train import CHECKPOINTS, TRAINING, FitFigures, finetune, newest_checkpoint

Fit = Callable[..., FitFigures]
EPOCHS = BudgetConfig(epochs=4)  # 12 steps of 6 rows


@pytest.fixture
def fit(base: Path, rows: list[TrainingRow], sft: SFTConfig, student: StudentConfig, trainer: TrainerConfig) -> Fit:
    def run(workdir: Path, **changes: Any) -> FitFigures:
        arguments: dict[str, Any] = {
            "parent": base,
            "rows": rows,
            "alpha": 0.3,
            "sft": sft,
            "budget": EPOCHS,
            "student": student,
            "trainer": trainer,
            "seed": 0,
            "workdir": workdir,
            "label": "fit",
        }
        return finetune(**(arguments | changes))

    return run


def lora(sft: SFTConfig) -> SFTConfig:
    return replace(sft, method=Method.lora, lora=replace(sft.lora, rank=4, dropout=0.2))


def test_student_is_an_ordinary_directory(fit: Fit, tmp_path: Path, base: Path) -> None:
    figures = fit(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        TRAINING,
        TIMINGS,
    }
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path))
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(str(base)).chat_template
    steps = read_rows(tmp_path / TRAINING, TrainingStep)
    assert [step.step for step in steps] == list(range(1, 13))
    assert (figures.steps, figures.tokens, figures.final_loss) == (12, steps[-1].tokens, steps[-1].loss)
    assert (figures.rows, figures.truncated, figures.dropped) == (18, 0, 0)
    assert 0 < figures.supervised_tokens < figures.tokens
    paces = read_rows(tmp_path / TIMINGS, StepTiming)
    assert [pace.step for pace in paces] == list(range(1, 13))
    assert [pace.tokens for pace in paces] == [b - a for a, b in pairwise([0, *(step.tokens for step in steps)])]
    assert sum(pace.supervised for pace in paces) == figures.supervised_tokens
    assert figures.tokens_per_second == pytest.approx(figures.tokens / sum(pace.seconds for pace in paces))
    assert 0 < figures.supervised_tokens_per_second < figures.tokens_per_second
    assert figures.mfu is None
    assert figures.peak_memory_mb > 100
    assert all(step.gradient_norm > 0 for step in steps)


def test_fit_learns(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path, budget=BudgetConfig(epochs=15))
    steps = read_rows(tmp_path / TRAINING, TrainingStep)
    assert steps[-1].loss < 0.5 * steps[0].loss


def test_files_depend_on_the_arguments_alone(fit: Fit, tmp_path: Path, sft: SFTConfig) -> None:
    torch.manual_seed(1)
    fit(tmp_path / "one", sft=lora(sft))
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    fit(tmp_path / "another place", sft=lora(sft))
    assert digest_files(tmp_path / "one") == digest_files(tmp_path / "another place")
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "changes",
    [
        {"save_steps": 1},
        {"max_tokens_per_micro_batch": 25},
        {"peak_tflops": 1.0},
        {"activation_checkpointing": True},
        {"label": "another name"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_only_looks_on_changes_no_loss(
    changes: dict[str, Any], fit: Fit, tmp_path: Path, sft: SFTConfig, trainer: TrainerConfig
) -> None:
    """Saving, measuring and telling change nothing; nor does how a step is divided, but for rounding."""
    fit(tmp_path / "plain")
    kinds: dict[str, Any] = {"sft": sft, "trainer": trainer}
    altered = {
        name: replace(kind, **{k: v for k, v in changes.items() if hasattr(kind, k)}) for name, kind in kinds.items()
    }
    fit(tmp_path / "changed", **altered, **{k: v for k, v in changes.items() if k == "label"})
    plain, changed = (read_rows(tmp_path / name / TRAINING, TrainingStep) for name in ("plain", "changed"))
    if "max_tokens_per_micro_batch" in changes:
        assert [step.loss for step in changed] == pytest.approx([step.loss for step in plain], rel=1e-4)
    else:
        assert changed == plain


@pytest.mark.parametrize(("precision", "warned"), [("bf16-mixed", False), ("bf16-true", True)])
def test_small_updates_are_not_lost_in_bfloat16(
    precision: str,
    warned: bool,
    fit: Fit,
    tmp_path: Path,
    sft: SFTConfig,
    student: StudentConfig,
    trainer: TrainerConfig,
) -> None:
    """At 2e-5 a bfloat16 weight stands still; mixed precision trains float32 ones, and saves them as asked."""
    seen: list[dict[str, torch.Tensor]] = []

    class Watched(StudentModule):
        def on_fit_start(self) -> None:
            seen.append({n: p.detach().clone() for n, p in self.model.named_parameters()})

        def on_fit_end(self) -> None:
            seen.append({n: p.detach().clone() for n, p in self.model.named_parameters()})

    with pytest.MonkeyPatch.context() as patch, console.capture() as said:
        patch.setattr(train, "StudentModule", Watched)
        fit(
            tmp_path,
            sft=replace(sft, learning_rate=2e-5, global_batch_size=18),
            student=replace(student, precision=Precision.bfloat16),
            trainer=replace(trainer, precision=precision),
            budget=BudgetConfig(epochs=1),
        )
    before, after = ({n: w for n, w in weights.items() if w.ndim > 1} for weights in seen)
    moved = sum((after[n] != before[n]).sum().item() for n in before) / sum(w.numel() for w in before.values())
    assert moved < 0.5 if warned else moved > 0.9
    assert ("an update below 0.2 % of a weight is lost" in " ".join(said.get().split())) is warned
    assert AutoModelForCausalLM.from_pretrained(str(tmp_path)).dtype is torch.bfloat16


def test_files_name_neither_place_nor_software(fit: Fit, tmp_path: Path, base: Path) -> None:
    fit(tmp_path)
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert str(tmp_path).encode() not in data
        assert str(base).encode() not in data
        assert b"transformers_version" not in data


def test_seed_alpha_and_rows_matter(fit: Fit, tmp_path: Path, rows: list[TrainingRow]) -> None:
    variants: list[dict[str, Any]] = [{}, {"seed": 1}, {"alpha": 0.4}, {"alpha": None}, {"rows": rows[1:]}]
    for index, changes in enumerate(variants):
        fit(tmp_path / str(index), budget=BudgetConfig(epochs=1), **changes)
    weights = {digest_files(tmp_path / str(index))["model.safetensors"] for index in range(len(variants))}
    assert len(weights) == len(variants)


def test_empty_budget_keeps_the_parent(fit: Fit, tmp_path: Path, base: Path) -> None:
    figures = fit(tmp_path, budget=BudgetConfig(epochs=0))
    assert (figures.steps, figures.tokens, figures.final_loss) == (0, 0, None)
    assert digest_files(tmp_path)["model.safetensors"] == digest_files(base)["model.safetensors"]
    assert read_rows(tmp_path / TRAINING, TrainingStep) == []


class KilledError(Exception):
    """Stands for a kill inside this process."""


def die_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    def end_batch(self: Any, trainer: Any, *others: Any) -> None:
        untouched(self, trainer, *others)
        if trainer.global_step == step:
            raise KilledError

    untouched = train.CheckpointCallback.on_train_batch_end
    monkeypatch.setattr(train.CheckpointCallback, "on_train_batch_end", end_batch)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("step", [2, 6, 7])
def test_interrupted_fit_ends_with_the_same_bytes(
    fit: Fit, tmp_path: Path, sft: SFTConfig, monkeypatch: pytest.MonkeyPatch, method: str, step: int
) -> None:
    sft = lora(sft) if method == "lora" else sft
    fit(tmp_path / "whole", sft=sft)
    with monkeypatch.context() as patch:
        die_at(patch, step)
        with pytest.raises(KilledError):
            fit(tmp_path / "broken", sft=sft)
    newest = newest_checkpoint(tmp_path / "broken")
    assert (newest.name if newest else None) == (None if step < 3 else "step-000000006.ckpt")
    fit(tmp_path / "broken", sft=sft)
    assert digest_files(tmp_path / "broken") == digest_files(tmp_path / "whole")


def test_resumed_fit_does_not_start_again(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        die_at(patch, 7)
        with pytest.raises(KilledError):
            fit(tmp_path)
    seen: list[int] = []
    step = StudentModule.training_step

    def noted(self: StudentModule, *batch: Any) -> Any:
        seen.append(len(self.history))
        return step(self, *batch)

    monkeypatch.setattr(StudentModule, "training_step", noted)
    fit(tmp_path)
    assert seen == [6, 7, 8, 9, 10, 11]


KILLED_FIT = """
import json, os, signal, sys
from pathlib import Path
from tapir_exp.config import BudgetConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.student import train
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.loading import load_model
from tapir_exp.core.records import Part

def end_batch(self, trainer, *others):
    untouched(self, trainer, *others)
    if trainer.global_step == 8:
        (self._folder / "step-000000008.partial").write_bytes(b"torn")
        os.kill(os.getpid(), signal.SIGKILL)

untouched = train._Checkpoints.on_train_batch_end
train._Checkpoints.on_train_batch_end = end_batch
base, workdir, rows = sys.argv[1:]
train.finetune(
    Path(base), [TrainingRow(i, r, Part(p)) for i, r, p in json.loads(rows)], 0.3,
    SFTConfig(learning_rate=1e-2, global_batch_size=6, max_tokens_per_micro_batch=40, save_steps=3), BudgetConfig(epochs=4),
    StudentConfig(model="lab", max_length=128), TrainerConfig(accelerator="cpu"), 0, Path(workdir), "fit",
)
"""


@pytest.mark.slow
def test_killed_process_is_taken_up_by_another(fit: Fit, tmp_path: Path, base: Path, rows: list[TrainingRow]) -> None:
    fit(tmp_path / "whole")
    given = json.dumps([(row.instruction, row.response, row.subset) for row in rows])
    command = [sys.executable, "-c", KILLED_FIT, str(base), str(tmp_path / "broken"), given]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [path.suffix for path in sorted((tmp_path / "broken" / CHECKPOINTS).iterdir())] == [".ckpt", ".partial"]
    fit(tmp_path / "broken")
    assert digest_files(tmp_path / "broken") == digest_files(tmp_path / "whole")


def parameters(path: Path) -> dict[str, torch.Tensor]:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(path))
    return dict(model.named_parameters())


def test_adapter_moves_its_targets_only(
    fit: Fit, tmp_path: Path, sft: SFTConfig, base: Path, student: StudentConfig
) -> None:
    fit(tmp_path, sft=lora(sft))
    before, after = parameters(base), dict(load_model(tmp_path, student).named_parameters())
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.split(".")[-2] in sft.lora.target_modules}


def test_adapter_checkpoint_leaves_the_base_out(
    fit: Fit, tmp_path: Path, sft: SFTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_at(monkeypatch, 4)
    with pytest.raises(KilledError):
        fit(tmp_path, sft=lora(sft))
    newest = newest_checkpoint(tmp_path)
    assert newest
    saved = torch.load(newest, weights_only=True)["state_dict"]
    assert saved
    assert all("lora_" in name for name in saved)


def test_adapter_directory_can_be_a_parent(fit: Fit, tmp_path: Path, base: Path) -> None:
    import peft

    model = AutoModelForCausalLM.from_pretrained(str(base))
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    AutoTokenizer.from_pretrained(str(base)).save_pretrained(str(tmp_path / "adapter"))
    fit(tmp_path / "out", parent=tmp_path / "adapter", budget=BudgetConfig(epochs=0))
    before, after = parameters(base), parameters(tmp_path / "out")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if "q_proj" in name
    }


def test_diverging_fit_is_an_error(fit: Fit, tmp_path: Path, sft: SFTConfig) -> None:
    with pytest.raises(TapirError, match=r"step \d+ is nan"):
        fit(tmp_path, sft=replace(sft, learning_rate=1e30, clip=1e30))


def test_bf16_autocast_trains(fit: Fit, tmp_path: Path) -> None:
    mixed = TrainerConfig(accelerator="cpu", precision="bf16-mixed")
    fit(tmp_path / "mixed", trainer=mixed)
    fit(tmp_path / "full")
    mixed_steps, full_steps = (read_rows(tmp_path / name / TRAINING, TrainingStep) for name in ("mixed", "full"))
    assert mixed_steps[-1].loss == pytest.approx(full_steps[-1].loss, rel=0.05)
    assert mixed_steps[-1].loss != full_steps[-1].loss
