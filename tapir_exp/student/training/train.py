"""Fine-tune a student on training rows. A killed fit resumes from its last checkpoint."""

import math
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import pytorch_lightning as pl
from transformers import PreTrainedModel

from tapir_exp.config import TrainerConfig
from tapir_exp.core.console import Progress
from tapir_exp.core.determinism import deterministic_scope
from tapir_exp.core.records import Subset, TrainingStep
from tapir_exp.core.step_timing import StepTiming
from tapir_exp.core.store import TIMINGS, read_rows, write_rows
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.loading import AdapterBase
from tapir_exp.student.saving import save_student
from tapir_exp.student.training.adapter import cast_to_stored, kernel_scope, load_for_training
from tapir_exp.student.training.batching import StepLoader, plan_batches
from tapir_exp.student.training.callbacks import CheckpointCallback, ThroughputCallback, newest_checkpoint
from tapir_exp.student.training.encoded_rows import MappedRows
from tapir_exp.student.training.encoding import EncodedDataset, TrainingRow, encode_rows
from tapir_exp.student.training.files import AVERAGE, OPTIMIZER_STATE
from tapir_exp.student.training.job import FitJob, PlannedFit
from tapir_exp.student.training.launcher import launch
from tapir_exp.student.training.lightning_module import StudentModule, subset_weights
from tapir_exp.student.training.optimizer_state import save_optimizer_state
from tapir_exp.student.training.strategies import build_strategy, cluster_environments, is_sharded

TRAINING = "training.jsonl"
CHECKPOINTS = "checkpoints"
ENCODED = "encoded.arrow"


@dataclass(frozen=True)
class FitFigures:
    """Figures of a finished fit.

    The rates, `mfu` and `peak_memory_mb` cover the steps since the fit was last resumed.

    Attributes:
        steps: Optimiser steps.
        tokens: Real tokens seen, prompt and response.
        supervised_tokens: Tokens that the loss counted.
        rows: Rows of the training set.
        truncated: Rows that were cut at the length limit.
        dropped: Rows that were dropped because their prompt reaches the length limit.
        final_loss: Mean loss over the last tenth of the steps, see `final_loss`; None without a step.
        tokens_per_second: Real tokens per second of wall time.
        supervised_tokens_per_second: Supervised tokens per second of wall time.
        mfu: Model FLOPs utilisation, see `StepTiming`.
        peak_memory_mb: Peak memory in MiB, see `StepTiming`.
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


def finetune(job: FitJob, rows: Sequence[TrainingRow], workdir: Path) -> FitFigures:
    """Fine-tune a student and save it in `workdir`.

    A second call with the same arguments after a kill resumes from the newest checkpoint in `workdir` and ends with
    the same bytes. With `sft.method` lora or qlora, the directory holds a PEFT adapter without its base.

    Args:
        job: The student and how to fine-tune it.
        rows: Rows to train on.
        workdir: Directory of the fine-tuned student, its `training.jsonl` and its `timings.jsonl`.

    Returns:
        Figures of the fit.

    Raises:
        TapirError: If no row has a response token within `student.max_length`, or a process of the fit fails.
        ConfigError: If the tokenizer has no chat template.
    """
    chat = load_chat(job.parent, job.student)
    dataset = encode_rows(rows, chat, job.student.max_length, job.sft.max_drop_rate, workdir / ENCODED)
    fit = PlannedFit(
        job=job,
        plan=plan_batches(dataset.lengths, job.budget, job.sft.global_batch_size, job.seed),
        weights=subset_weights(job.alpha, dataset.supervised[Subset.HARD], dataset.supervised[Subset.REST]),
    )
    # From here on the ranks need only the planned fit and the encoded rows on disk.
    with Progress(job.label, len(fit.plan.steps)) as progress:
        if job.num_ranks > 1:
            launch(fit, workdir, progress)
        else:
            run_fit(fit, workdir, progress)
    # The directory becomes an artifact, and these files are not part of the student.
    shutil.rmtree(workdir / CHECKPOINTS, ignore_errors=True)
    (workdir / ENCODED).unlink()
    supervised = sum(dataset.supervised_lengths[index] for step in fit.plan.steps for index in step)
    return _read_figures(workdir, dataset, supervised)


def _read_figures(workdir: Path, dataset: EncodedDataset, supervised: int) -> FitFigures:
    history, timings = read_rows(workdir / TRAINING, TrainingStep), read_rows(workdir / TIMINGS, StepTiming)
    last = history[-1] if history else None
    seconds = sum(timing.seconds for timing in timings) or 1.0  # avoids a division by zero for a fit without steps
    # The mean over wall time weighs each step by its seconds.
    weighted_mfus = [timing.mfu * timing.seconds for timing in timings if timing.mfu is not None]
    return FitFigures(
        steps=len(history),
        tokens=last.tokens if last else 0,
        supervised_tokens=supervised,
        rows=len(dataset.rows),
        truncated=dataset.truncated,
        dropped=dataset.dropped,
        final_loss=final_loss(history),
        tokens_per_second=sum(timing.tokens for timing in timings) / seconds,
        supervised_tokens_per_second=sum(timing.supervised for timing in timings) / seconds,
        mfu=sum(weighted_mfus) / seconds if weighted_mfus else None,
        peak_memory_mb=timings[-1].memory_mb if timings else 0.0,
    )


def final_loss(history: Sequence[TrainingStep]) -> float | None:
    """Return the mean loss over the last tenth of the steps, in nats per token; None without a step.

    A single step is noisy. Console, metrics, report and trackers all show this figure of the artifact.
    """
    last = history[-math.ceil(len(history) / 10) :]
    return math.fsum(step.loss for step in last) / len(last) if last else None


def run_fit(fit: PlannedFit, workdir: Path, progress: Progress) -> None:
    """Train in this process, alone or as one rank of several.

    The encoded rows are in `workdir`, and the first rank saves the student there.
    """
    job = fit.job
    rows = MappedRows(workdir / ENCODED)
    with deterministic_scope(job.seed), kernel_scope():
        model, adapter_base = _load(job)
        steps = len(fit.plan.steps)
        module = StudentModule(
            model, fit.weights, job.sft, job.rates, steps, job.seed, job.optimizer_state, job.averaging
        )
        throughput = ThroughputCallback(progress, job.trainer.peak_tflops)
        checkpoints = CheckpointCallback(workdir / CHECKPOINTS, job.sft.save_steps)
        trainer = build_trainer(job.trainer, [throughput, checkpoints], job.sft.max_grad_norm)
        loader = StepLoader(rows, fit.plan, job.sft.max_tokens_per_micro_batch, trainer.global_rank, trainer.world_size)
        if len(loader):  # Lightning cannot fit on nothing; the student then equals its parent
            with interrupts_raised():
                trainer.fit(module, loader, ckpt_path=newest_checkpoint(workdir / CHECKPOINTS), weights_only=True)
        _save(module, job, workdir, adapter_base)
        if job.save_optimizer_state:
            if not module.history:  # Lightning makes no optimiser for a fit without steps
                module.configure_optimizers()
            path = workdir / OPTIMIZER_STATE
            save_optimizer_state(module.adamw, module.trained_parameters(), path, writes=trainer.is_global_zero)
        if module.average is not None:
            module.average.apply(module.trained_parameters())
            _save(module, job, workdir / AVERAGE, adapter_base)
        if trainer.is_global_zero:
            write_rows(workdir / TIMINGS, throughput.timings)
            write_rows(workdir / TRAINING, module.history)
        _release(trainer, module)


@contextmanager
def interrupts_raised() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C in the block, as everywhere else.

    Lightning would end the process with exit code 1, and ignore every further Ctrl-C in it.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise end.__context__ from None
        raise
    finally:
        if current_thread() is main_thread():
            signal.signal(signal.SIGINT, handler)


def _release(trainer: pl.Trainer, module: StudentModule) -> None:
    """Drop the weights and the optimiser's state of a finished fit.

    Lightning's objects refer to one another, so only the garbage collector frees them. It counts objects and not their
    size: 70 GB of a model of 7 billion could be left in memory during the next fit.
    """
    trainer.strategy.optimizers = []
    del module.model
    module.average = None
    module.__dict__.pop("adamw", None)


def _save(module: StudentModule, job: FitJob, directory: Path, adapter_base: AdapterBase | None) -> None:
    """Save the weights of the module as a student. All ranks take part; the first one writes."""
    trained = _gather(module, job) if is_sharded(module) else module.model
    if module.global_rank == 0:
        # An adapter is saved in the precision it was trained in, a whole model in the configured one.
        stored = trained if adapter_base else cast_to_stored(trained, job.student)
        save_student(stored, load_chat(job.parent, job.student), directory, adapter_base)


def _load(job: FitJob) -> tuple[PreTrainedModel, AdapterBase | None]:
    return load_for_training(job.parent, job.student, job.sft, job.trainer, job.base)


def _gather(module: StudentModule, job: FitJob) -> PreTrainedModel:
    """Return a sharded model whole on the first rank, and unchanged on the others."""
    state = module.trainer.strategy.lightning_module_state_dict()  # all ranks take part
    if module.global_rank != 0:
        return module.model  # type: ignore[no-any-return]
    # The sharded module cannot take whole weights, so they go into a freshly loaded model.
    whole: Any = module.trainer.precision_plugin.convert_module(_load(job)[0])
    whole.load_state_dict({name.removeprefix("model."): values for name, values in state.items()})
    return whole  # type: ignore[no-any-return]


def build_trainer(config: TrainerConfig, callbacks: list[pl.Callback], max_grad_norm: float) -> pl.Trainer:
    """Return the Lightning trainer of a fit, without Lightning's own logging, checkpoints and progress bar.

    Args:
        config: Devices, precision and strategy.
        callbacks: Callbacks of the fit.
        max_grad_norm: Largest gradient norm, which DeepSpeed needs.
    """
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        precision=config.precision,  # type: ignore[arg-type]  # Lightning checks it
        strategy=build_strategy(config, max_grad_norm),
        plugins=cluster_environments(config),
        max_epochs=1,  # the plan holds all epochs
        callbacks=callbacks,
        deterministic=config.deterministic,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
