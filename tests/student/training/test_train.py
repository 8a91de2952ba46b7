"""Fits from end to end, killed and resumed ones included."""

import gc
import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tapir_exp.config import BudgetConfig, Method, Precision, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.console import console
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import TrainingStep
from tapir_exp.core.step_timing import StepTiming
from tapir_exp.core.store import TIMINGS, digest_files, read_rows
from tapir_exp.student.loading import load_model
from tapir_exp.student.training import train
from tapir_exp.student.training.averaging import WeightAverage
from tapir_exp.student.training.callbacks import CheckpointCallback, newest_checkpoint
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.files import AVERAGE, OPTIMIZER_STATE
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.lightning_module import StudentModule
from tapir_exp.student.training.schedule import Averaging, FitSchedule
from tapir_exp.student.training.train import CHECKPOINTS, TRAINING, FitFigures, finetune

Fit = Callable[..., FitFigures]
EPOCHS = BudgetConfig(epochs=4)  # 12 steps of 6 rows


@pytest.fixture
def fit(base: Path, rows: list[TrainingRow], sft: SFTConfig, student: StudentConfig, trainer: TrainerConfig) -> Fit:
    """Run a fit of four epochs, with changes to its job or its rows."""
    job = FitJob(base, sft, EPOCHS, student, trainer, alpha=0.3)

    def run(workdir: Path, rows: list[TrainingRow] = rows, **changes: Any) -> FitFigures:
        return finetune(replace(job, **changes), rows, workdir)

    return run


def lora(sft: SFTConfig) -> SFTConfig:
    return replace(sft, method=Method.lora, lora=replace(sft.lora, rank=4, dropout=0.2))


def test_finetune_saves_a_hugging_face_directory(fit: Fit, tmp_path: Path, base: Path) -> None:
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
    assert (figures.steps, figures.tokens) == (12, steps[-1].tokens)
    assert figures.final_loss == pytest.approx((steps[-1].loss + steps[-2].loss) / 2)  # a tenth, rounded up
    assert (figures.rows, figures.truncated, figures.dropped) == (18, 0, 0)
    assert 0 < figures.supervised_tokens < figures.tokens
    timings = read_rows(tmp_path / TIMINGS, StepTiming)
    assert [timing.step for timing in timings] == list(range(1, 13))
    assert [timing.tokens for timing in timings] == [b - a for a, b in pairwise([0, *(step.tokens for step in steps)])]
    assert sum(timing.supervised for timing in timings) == figures.supervised_tokens
    assert figures.tokens_per_second == pytest.approx(figures.tokens / sum(timing.seconds for timing in timings))
    assert 0 < figures.supervised_tokens_per_second < figures.tokens_per_second
    assert figures.mfu is None
    assert figures.peak_memory_mb > 100
    assert all(step.gradient_norm > 0 for step in steps)


def test_finetune_reduces_the_loss(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path, budget=BudgetConfig(epochs=15))
    steps = read_rows(tmp_path / TRAINING, TrainingStep)
    assert steps[-1].loss < 0.5 * steps[0].loss


@pytest.mark.slow
def test_finetune_same_job_gives_same_bytes(fit: Fit, tmp_path: Path, sft: SFTConfig) -> None:
    torch.manual_seed(1)
    fit(tmp_path / "one", sft=lora(sft))
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    fit(tmp_path / "other", sft=lora(sft))
    assert digest_files(tmp_path / "one") == digest_files(tmp_path / "other")
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
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
def test_finetune_settings_without_effect_change_no_loss(
    changes: dict[str, Any], fit: Fit, tmp_path: Path, sft: SFTConfig, trainer: TrainerConfig
) -> None:
    """Checkpoints, metering and labels change nothing. The split into micro-batches changes rounding only."""
    fit(tmp_path / "plain")
    configs: dict[str, Any] = {"sft": sft, "trainer": trainer}
    altered = {
        name: replace(config, **{k: v for k, v in changes.items() if hasattr(config, k)})
        for name, config in configs.items()
    }
    fit(tmp_path / "changed", **altered, **{k: v for k, v in changes.items() if k == "label"})
    plain, changed = (read_rows(tmp_path / name / TRAINING, TrainingStep) for name in ("plain", "changed"))
    if "max_tokens_per_micro_batch" in changes:
        assert [step.loss for step in changed] == pytest.approx([step.loss for step in plain], rel=1e-4)
    else:
        assert changed == plain


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "warned"), [("bf16-mixed", False), ("bf16-true", True)])
def test_finetune_bf16_mixed_keeps_small_updates(
    precision: str,
    warned: bool,
    fit: Fit,
    tmp_path: Path,
    sft: SFTConfig,
    student: StudentConfig,
    trainer: TrainerConfig,
) -> None:
    """At 2e-5 most bfloat16 weights do not change. Mixed precision trains float32 weights and saves bfloat16 ones."""
    seen: list[dict[str, torch.Tensor]] = []

    class Watched(StudentModule):
        def on_fit_start(self) -> None:
            seen.append({n: p.detach().clone() for n, p in self.model.named_parameters()})

        def on_fit_end(self) -> None:
            seen.append({n: p.detach().clone() for n, p in self.model.named_parameters()})

    with pytest.MonkeyPatch.context() as patch, console.capture() as output:
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
    assert ("an update below 0.2 % of a weight is lost" in " ".join(output.get().split())) is warned
    assert AutoModelForCausalLM.from_pretrained(str(tmp_path)).dtype is torch.bfloat16


@pytest.mark.slow
def test_finetune_files_name_no_path_and_no_version(fit: Fit, tmp_path: Path, base: Path) -> None:
    fit(tmp_path)
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert str(tmp_path).encode() not in data
        assert str(base).encode() not in data
        assert b"transformers_version" not in data


def test_finetune_seed_alpha_and_rows_change_the_weights(fit: Fit, tmp_path: Path, rows: list[TrainingRow]) -> None:
    variants: list[dict[str, Any]] = [{}, {"seed": 1}, {"alpha": 0.4}, {"alpha": None}, {"rows": rows[1:]}]
    for index, changes in enumerate(variants):
        fit(tmp_path / str(index), budget=BudgetConfig(epochs=1), **changes)
    weights = {digest_files(tmp_path / str(index))["model.safetensors"] for index in range(len(variants))}
    assert len(weights) == len(variants)


def test_finetune_empty_budget_keeps_the_parent(fit: Fit, tmp_path: Path, base: Path) -> None:
    figures = fit(tmp_path, budget=BudgetConfig(epochs=0))
    assert (figures.steps, figures.tokens, figures.final_loss) == (0, 0, None)
    assert digest_files(tmp_path)["model.safetensors"] == digest_files(base)["model.safetensors"]
    assert read_rows(tmp_path / TRAINING, TrainingStep) == []


class KilledError(Exception):
    """Simulates a kill inside this process."""


def die() -> None:
    raise KilledError


def die_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None] = die) -> None:
    """Raise, or do something else, after a step, and after its checkpoint if it has one."""

    def end_batch(self: Any, trainer: Any, *others: Any) -> None:
        original(self, trainer, *others)
        if trainer.global_step == step:
            action()

    original = CheckpointCallback.on_train_batch_end
    monkeypatch.setattr(CheckpointCallback, "on_train_batch_end", end_batch)


@pytest.fixture(scope="session")
def adam(
    tmp_path_factory: pytest.TempPathFactory,
    base: Path,
    rows: list[TrainingRow],
    student: StudentConfig,
    trainer: TrainerConfig,
) -> Callable[[SFTConfig], Path]:
    """Return the state of Adam after a short fit with these settings."""

    def saved(sft: SFTConfig) -> Path:
        workdir = tmp_path_factory.mktemp("earlier")
        job = FitJob(base, sft, BudgetConfig(epochs=1), student, trainer, save_optimizer_state=True)
        finetune(job, rows, workdir)
        return workdir / OPTIMIZER_STATE

    return saved


ONE = FitSchedule(1e-2, 0.1, number=2, fits=3)
WSD = FitSchedule(1e-2, 0.0, 0.5)
AVERAGING = Averaging(3, 0.75)  # steps 6, 9 and 12 of 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "method", "changes"),
    [
        (2, "lora", {}),
        (6, "full", {}),
        (7, "full", {"schedule": ONE, "carried": True, "save_optimizer_state": True}),
        (7, "lora", {"schedule": WSD, "carried": True, "averaging": AVERAGING}),
        (10, "full", {"averaging": AVERAGING}),
    ],
)
def test_finetune_resumed_gives_same_bytes(
    fit: Fit,
    tmp_path: Path,
    sft: SFTConfig,
    adam: Callable[[SFTConfig], Path],
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    method: str,
    changes: dict[str, Any],
) -> None:
    sft = lora(sft) if method == "lora" else sft
    job = {"sft": sft, **changes}
    if job.pop("carried", False):
        job["optimizer_state"] = adam(sft)
    fit(tmp_path / "whole", **job)
    with monkeypatch.context() as patch:
        die_at(patch, step)
        with pytest.raises(KilledError):
            fit(tmp_path / "broken", **job)
    newest = newest_checkpoint(tmp_path / "broken" / CHECKPOINTS)
    assert (newest.name if newest else None) == (None if step < 3 else f"step-{step // 3 * 3:09}.ckpt")
    fit(tmp_path / "broken", **job)
    assert digest_files(tmp_path / "broken") == digest_files(tmp_path / "whole")


def test_finetune_carried_state_joins_two_fits(
    fit: Fit, tmp_path: Path, sft: SFTConfig, rows: list[TrainingRow]
) -> None:
    """Two fits of one step each under one schedule with a carried state equal one fit of two such steps."""
    sft = replace(sft, global_batch_size=1, max_grad_norm=1.0, warmup_ratio=0.0)
    job = {"sft": sft, "rows": rows[:1], "seed": 0}
    fit(tmp_path / "both", budget=BudgetConfig(epochs=2), schedule=FitSchedule(1e-2, 0.0), **job)
    first, second = (FitSchedule(1e-2, 0.0, number=number, fits=2) for number in (1, 2))
    one = BudgetConfig(epochs=1)
    fit(tmp_path / "first", budget=one, schedule=first, save_optimizer_state=True, **job)
    state = tmp_path / "first" / OPTIMIZER_STATE
    fit(tmp_path / "second", budget=one, schedule=second, parent=tmp_path / "first", optimizer_state=state, **job)
    fit(tmp_path / "new", budget=one, schedule=second, parent=tmp_path / "first", **job)
    weights = [digest_files(tmp_path / name)["model.safetensors"] for name in ("both", "second", "new")]
    assert weights[0] == weights[1] != weights[2]


def test_finetune_without_steps_hands_the_state_on(fit: Fit, tmp_path: Path, sft: SFTConfig, adam: Any) -> None:
    state, empty = adam(sft), BudgetConfig(epochs=0)
    fit(tmp_path, budget=empty, optimizer_state=state, save_optimizer_state=True, averaging=AVERAGING)
    assert (tmp_path / OPTIMIZER_STATE).read_bytes() == state.read_bytes()
    digests = digest_files(tmp_path)
    assert digests[f"{AVERAGE}/model.safetensors"] == digests["model.safetensors"]


def test_finetune_rejects_the_state_of_other_parameters(fit: Fit, tmp_path: Path, sft: SFTConfig, adam: Any) -> None:
    with pytest.raises(TapirError, match=r"sft\.optimizer_state=new"):
        fit(tmp_path, sft=lora(sft), optimizer_state=adam(sft))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_finetune_average_is_the_mean_of_checkpoints(
    fit: Fit, tmp_path: Path, sft: SFTConfig, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    sft = lora(sft) if method == "lora" else sft
    seen: dict[int, dict[str, torch.Tensor]] = {}
    step = StudentModule.training_step

    def recorded(self: StudentModule, *batch: Any) -> None:
        step(self, *batch)
        seen[len(self.history)] = {name: p.detach().clone() for name, p in self.trained_parameters()}

    monkeypatch.setattr(StudentModule, "training_step", recorded)
    fit(tmp_path / "plain", sft=sft)
    fit(tmp_path / "averaged", sft=sft, averaging=AVERAGING)
    plain, averaged = (digest_files(tmp_path / name) for name in ("plain", "averaged"))
    assert plain.items() <= averaged.items()
    assert {path.partition("/")[0] for path in averaged.keys() - plain.keys()} == {AVERAGE}
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    saved = load_file(tmp_path / "averaged" / AVERAGE / file)
    for name, values in saved.items():
        trained = name if method == "full" else name.replace(".weight", ".default.weight")
        expected = (seen[6][trained] + seen[9][trained] + seen[12][trained]) / 3
        torch.testing.assert_close(values, expected)


def test_loaded_average_follows_the_weights_to_their_device() -> None:
    # Lightning restores a checkpoint on the CPU and moves the model afterwards. The device `meta` stands for a GPU.
    before, after = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device="meta")
    first, resumed = (WeightAverage(Averaging(2, 1.0), 2) for _ in range(2))
    first.add_after(1, before.named_parameters())
    resumed.load_state_dict(first.state_dict(), before.named_parameters())
    resumed.add_after(2, after.named_parameters())
    assert {values.device.type for values in resumed.state_dict()["sums"].values()} == {"meta"}


def test_finetune_frees_the_weights_without_the_collector(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    save = train.save_student

    def watched(model: Any, *others: Any) -> None:
        alive.append(weakref.ref(model))
        save(model, *others)

    configure = StudentModule.configure_optimizers

    def watched_optimizer(self: StudentModule) -> Any:
        alive.append(weakref.ref(configure(self)))
        return self.adamw

    monkeypatch.setattr(train, "save_student", watched)
    monkeypatch.setattr(StudentModule, "configure_optimizers", watched_optimizer)
    gc.disable()
    try:
        fit(tmp_path, budget=BudgetConfig(epochs=1))
        left = [reference() for reference in alive]
    finally:
        gc.enable()
    assert left == [None, None]


def test_averaging_steps_are_even_and_end_with_the_fit() -> None:
    assert Averaging(4, 0.2).steps(100) == {85, 90, 95, 100}
    assert Averaging(4, 0.01).steps(100) == {100}
    assert Averaging(3, 1.0).steps(2) == {1, 2}


def test_finetune_interrupted_raises_and_repeats_no_saved_step(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would exit with code 1, and ignore every further Ctrl-C."""
    with monkeypatch.context() as patch:
        die_at(patch, 7, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    seen: list[int] = []
    step = StudentModule.training_step

    def recorded(self: StudentModule, *batch: Any) -> Any:
        seen.append(len(self.history))
        return step(self, *batch)

    monkeypatch.setattr(StudentModule, "training_step", recorded)
    fit(tmp_path)
    assert seen == [6, 7, 8, 9, 10, 11]


KILLED_FIT = """
import json, os, signal, sys
from pathlib import Path
from tapir_exp.config import BudgetConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.records import Subset
from tapir_exp.student.training.callbacks import CheckpointCallback
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.train import CHECKPOINTS, finetune

base, workdir, rows = sys.argv[1:]

def end_batch(self, trainer, *others):
    original(self, trainer, *others)
    if trainer.global_step == 8:
        (Path(workdir) / CHECKPOINTS / "step-000000008.partial").write_bytes(b"torn")
        os.kill(os.getpid(), signal.SIGKILL)

original = CheckpointCallback.on_train_batch_end
CheckpointCallback.on_train_batch_end = end_batch
job = FitJob(
    Path(base),
    SFTConfig(learning_rate=1e-2, global_batch_size=6, max_tokens_per_micro_batch=40, save_steps=3),
    BudgetConfig(epochs=4),
    StudentConfig(model="lab", max_length=128),
    TrainerConfig(accelerator="cpu"),
    alpha=0.3,
)
finetune(job, [TrainingRow(i, r, Subset(s)) for i, r, s in json.loads(rows)], Path(workdir))
"""


@pytest.mark.slow
def test_finetune_resumes_a_killed_process(fit: Fit, tmp_path: Path, base: Path, rows: list[TrainingRow]) -> None:
    fit(tmp_path / "whole")
    rows_json = json.dumps([(row.instruction, row.response, row.subset) for row in rows])
    command = [sys.executable, "-c", KILLED_FIT, str(base), str(tmp_path / "broken"), rows_json]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [path.suffix for path in sorted((tmp_path / "broken" / CHECKPOINTS).iterdir())] == [".ckpt", ".partial"]
    fit(tmp_path / "broken")
    assert digest_files(tmp_path / "broken") == digest_files(tmp_path / "whole")


def parameters(path: Path) -> dict[str, torch.Tensor]:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(path))
    return dict(model.named_parameters())


def test_finetune_lora_changes_target_modules_only(
    fit: Fit, tmp_path: Path, sft: SFTConfig, base: Path, student: StudentConfig
) -> None:
    fit(tmp_path, sft=lora(sft))
    before, after = parameters(base), dict(load_model(tmp_path, student).named_parameters())
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.split(".")[-2] in sft.lora.target_modules}


def test_checkpoint_lora_holds_adapter_weights_only(
    fit: Fit, tmp_path: Path, sft: SFTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_at(monkeypatch, 4)
    with pytest.raises(KilledError):
        fit(tmp_path, sft=lora(sft))
    newest = newest_checkpoint(tmp_path / CHECKPOINTS)
    assert newest
    saved = torch.load(newest, weights_only=True)["state_dict"]
    assert saved
    assert all("lora_" in name for name in saved)


def test_finetune_full_merges_an_adapter_parent(fit: Fit, tmp_path: Path, base: Path) -> None:
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


def test_finetune_diverging_loss_raises(fit: Fit, tmp_path: Path, sft: SFTConfig) -> None:
    with pytest.raises(TapirError, match=r"step \d+ is nan"):
        fit(tmp_path, sft=replace(sft, learning_rate=1e30, max_grad_norm=1e30))


def test_finetune_bf16_mixed_matches_float32_loss(fit: Fit, tmp_path: Path) -> None:
    mixed = TrainerConfig(accelerator="cpu", precision="bf16-mixed")
    fit(tmp_path / "mixed", trainer=mixed)
    fit(tmp_path / "full")
    mixed_steps, full_steps = (read_rows(tmp_path / name / TRAINING, TrainingStep) for name in ("mixed", "full"))
    assert mixed_steps[-1].loss == pytest.approx(full_steps[-1].loss, rel=0.05)
    assert mixed_steps[-1].loss != full_steps[-1].loss
