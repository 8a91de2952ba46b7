"""One fit: a parent student and training rows in, a student directory out; a killed fit goes on where it was."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from transformers import PreTrainedModel

from tapir_exp.config import BudgetConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.console import Progress
from tapir_exp.core.determinism import deterministic_scope
from tapir_exp.core.records import StepTiming, Subset, TrainingStep
from tapir_exp.core.store import TIMINGS, read_rows, write_rows
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.loading import AdapterBase
from tapir_exp.student.saving import save_student
from tapir_exp.student.training.adapter import cast_to_stored, load_for_training
from tapir_exp.student.training.batching import StepLoader, plan_batches
from tapir_exp.student.training.encoded_rows import MappedRows
from tapir_exp.student.training.encoding import EncodedDataset, TrainingRow, encode_rows
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.launcher import launch
from tapir_exp.student.training.lightning_module import StudentModule, subset_weights
from tapir_exp.student.training.strategies import build_strategy, cluster_environments, is_sharded
from tapir_exp.student.training.throughput import ThroughputMeter, count_model_flops

TRAINING = "training.jsonl"
CHECKPOINTS = "checkpoints"
ENCODED = "encoded.arrow"


@dataclass(frozen=True)
class FitFigures:
    """What a fit did.

    steps: optimiser steps. tokens: real tokens seen, prompt and response. supervised_tokens: those that the loss
    counted. rows: rows of the training set; truncated, dropped: rows cut at the length limit, and left out for it.
    final_loss: of the last step, in nats; None where the budget allowed no step. The rest since the fit was last
    resumed: tokens_per_second, supervised_tokens_per_second: real tokens, and those that the loss counted, by wall
    time; mfu, peak_memory_mb: see `StepTiming`.
    """

    steps: int
    tokens: int
    supervised_tokens: int
    rows: int
    truncated: int
    dropped: int
    final_loss: float | None
    tokens_per_second: float
    supervised_tokens_per_second: float
    mfu: float | None
    peak_memory_mb: float


def finetune(
    parent: Path,
    rows: Sequence[TrainingRow],
    alpha: float | None,
    sft: SFTConfig,
    budget: BudgetConfig,
    student: StudentConfig,
    trainer: TrainerConfig,
    seed: int,
    workdir: Path,
    label: str,
    base: AdapterBase | None = None,
) -> FitFigures:
    """Fine-tune the student in `parent` on `rows` and save it, with its training.jsonl, in `workdir`.

    alpha: weight of the hard part in the loss (see `subset_weights`); None trains plainly. A second call with the
    same arguments after a kill resumes from the newest checkpoint in `workdir` and ends with the same bytes.
    An adapter (sft.method lora or qlora) is saved alone, as a PEFT directory; `base` is what a new one calls its base,
    None for `parent` as it is given.
    Raises TapirError where no row has a response token within student.max_length or a process of the fit dies,
    ConfigError where the tokenizer has no chat template.
    """
    chat = load_chat(parent, student)
    encoded = encode_rows(rows, chat, student.max_length, sft.max_drop_rate, workdir / ENCODED)
    plan = plan_batches(encoded.lengths, budget, sft.global_batch_size, seed)
    weights = subset_weights(alpha, encoded.supervised[Subset.HARD], encoded.supervised[Subset.REST])
    job = FitJob(parent, base, weights, plan, sft, student, trainer, seed)
    with Progress(label, len(plan.steps)) as progress:
        if job.ranks > 1:
            launch(job, workdir, label, progress)
        else:
            fit(job, workdir, progress)
    shutil.rmtree(workdir / CHECKPOINTS, ignore_errors=True)
    (workdir / ENCODED).unlink()
    supervised = sum(encoded.targets[row] for step in plan.steps for row in step)
    return _figures(workdir, encoded, supervised)


def _figures(workdir: Path, encoded: EncodedDataset, supervised: int) -> FitFigures:
    history, paces = read_rows(workdir / TRAINING, TrainingStep), read_rows(workdir / TIMINGS, StepTiming)
    last = history[-1] if history else None
    seconds = sum(pace.seconds for pace in paces) or 1.0  # without a step there is no speed
    known = [pace.mfu * pace.seconds for pace in paces if pace.mfu is not None]
    return FitFigures(
        steps=len(history),
        tokens=last.tokens if last else 0,
        supervised_tokens=supervised,
        rows=len(encoded.rows),
        truncated=encoded.truncated,
        dropped=encoded.dropped,
        final_loss=last.loss if last else None,
        tokens_per_second=sum(pace.tokens for pace in paces) / seconds,
        supervised_tokens_per_second=sum(pace.supervised for pace in paces) / seconds,
        mfu=sum(known) / seconds if known else None,
        peak_memory_mb=paces[-1].memory_mb if paces else 0.0,
    )


def fit(job: FitJob, workdir: Path, progress: Progress) -> None:
    """Carry out a fit, or a rank's part in it, on the rows in `workdir`; the first rank saves the student there."""
    rows = MappedRows(workdir / ENCODED)
    with deterministic_scope(job.seed):
        model, over = _open(job)
        module = StudentModule(model, job.weights, job.sft, len(job.plan.steps), job.seed)
        clock = ThroughputCallback(progress, job.trainer.peak_tflops)
        callbacks = [clock, CheckpointCallback(workdir / CHECKPOINTS, job.sft.save_steps)]
        trainer = build_trainer(job.trainer, callbacks, job.sft.max_grad_norm)
        loader = StepLoader(rows, job.plan, job.sft.max_tokens_per_micro_batch, trainer.global_rank, trainer.world_size)
        if len(loader):
            trainer.fit(module, loader, ckpt_path=newest_checkpoint(workdir), weights_only=True)
        trained = _gather(module, job) if is_sharded(module) else module.model
        if trainer.is_global_zero:
            chat = load_chat(job.parent, job.student)
            save_student(trained if over else cast_to_stored(trained, job.student), chat, workdir, over)
            write_rows(workdir / TIMINGS, clock.paces)
            write_rows(workdir / TRAINING, module.history)


def _open(job: FitJob) -> tuple[PreTrainedModel, AdapterBase | None]:
    return load_for_training(job.parent, job.student, job.sft, job.trainer, job.base)


def _gather(module: StudentModule, job: FitJob) -> PreTrainedModel:
    """The trained model whole on the first rank, where each has but a part of it; on the others as it is."""
    state = module.trainer.strategy.lightning_module_state_dict()  # all ranks take part
    if module.global_rank != 0:
        return module.model  # type: ignore[no-any-return]
    whole: Any = module.trainer.precision_plugin.convert_module(_open(job)[0])
    whole.load_state_dict({name.removeprefix("model."): values for name, values in state.items()})
    return whole  # type: ignore[no-any-return]


def build_trainer(config: TrainerConfig, callbacks: list[pl.Callback], clip: float) -> pl.Trainer:
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        precision=config.precision,  # type: ignore[arg-type]  # Lightning checks it
        strategy=build_strategy(config, clip),
        plugins=cluster_environments(config),
        max_epochs=1,
        callbacks=callbacks,
        deterministic=config.deterministic,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class ThroughputCallback(pl.Callback):
    """Shows the progress of a fit and measures its speed."""

    def __init__(self, progress: Progress, peak_tflops: float | None) -> None:
        self._progress, self._peak_tflops = progress, peak_tflops
        self._speedometer: ThroughputMeter | None = None

    @property
    def paces(self) -> list[StepTiming]:
        """Of all steps so far."""
        return self._speedometer.paces if self._speedometer else []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._progress.advance(trainer.global_step)
        work = count_model_flops(pl_module.model)
        self._speedometer = ThroughputMeter(work, pl_module.device, trainer.world_size, self._peak_tflops)
        self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._speedometer
        self._progress.advance()
        now = time.perf_counter()
        self._speedometer.measure(trainer.global_step, batch, now - self._last)
        self._last = now


class CheckpointCallback(pl.Callback):
    """Keeps one checkpoint, the newest; it is there whole or not at all."""

    def __init__(self, folder: Path, every: int) -> None:
        self._folder, self._every = folder, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self._every == 0 and step < trainer.num_training_batches:
            self._save(trainer, self._folder / f"step-{step:09}.ckpt")

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        passing = path.with_suffix(".partial")
        trainer.save_checkpoint(passing)  # all ranks take part
        if not trainer.is_global_zero:
            return
        passing.replace(path)
        for old in self._folder.glob("step-*.ckpt"):
            if old != path:
                old.unlink()


def newest_checkpoint(workdir: Path) -> Path | None:
    """The checkpoint from which a fit in `workdir` would go on; None where it would start."""
    return max((workdir / CHECKPOINTS).glob("step-*.ckpt"), default=None)
