"""Lightning callbacks of a fit: checkpoints, progress and throughput."""

import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import pytorch_lightning as pl

from tapir_exp.core.console import Progress, console
from tapir_exp.core.disk import set_aside, sync_file, sync_tree
from tapir_exp.core.step_timing import StepTiming
from tapir_exp.student.training.throughput import ThroughputMeter, count_model_flops

CHECKPOINT_PATTERN = "step-*.ckpt"


class ThroughputCallback(pl.Callback):
    """Shows the progress of a fit and measures its throughput."""

    def __init__(self, progress: Progress, peak_tflops: float | None) -> None:
        self._progress, self._peak_tflops = progress, peak_tflops
        self._meter: ThroughputMeter | None = None

    @property
    def timings(self) -> list[StepTiming]:
        """Return the timings of the steps since the fit was last resumed."""
        return self._meter.timings if self._meter else []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock and count the steps of a loaded checkpoint."""
        self._progress.advance(trainer.global_step)
        flops = count_model_flops(pl_module.model)
        self._meter = ThroughputMeter(flops, pl_module.device, trainer.world_size, self._peak_tflops)
        self._last_end = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the time since the previous step, which includes loading."""
        assert self._meter
        self._progress.advance()
        now = time.perf_counter()
        self._meter.record(trainer.global_step, batch, now - self._last_end)
        self._last_end = now


class CheckpointCallback(pl.Callback):
    """Keeps the newest checkpoint only, and replaces it atomically."""

    def __init__(self, directory: Path, save_steps: int) -> None:
        self._directory, self._save_steps = directory, save_steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save a checkpoint every `save_steps` steps, but not after the last one."""
        step = trainer.global_step
        if step % self._save_steps == 0 and step < trainer.num_training_batches:
            self._save(trainer, self._directory / f"step-{step:09}.ckpt")

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        # A killed process leaves a .partial file at worst, which `newest_checkpoint` ignores.
        tmp = path.with_suffix(".partial")
        trainer.save_checkpoint(tmp)  # all ranks take part
        if not trainer.is_global_zero:
            return
        # A power failure must not leave an empty checkpoint under the final name, and none of the old ones.
        sync_tree(tmp) if tmp.is_dir() else sync_file(tmp)
        tmp.replace(path)
        sync_file(self._directory)
        for old in self._directory.glob(CHECKPOINT_PATTERN):
            if old != path:
                old.unlink()


def newest_checkpoint(directory: Path) -> Path | None:
    """Return the checkpoint that a fit resumes from; None if there is none. A damaged one is put aside."""
    for path in sorted(directory.glob(CHECKPOINT_PATTERN), reverse=True):  # the names sort by step
        if path.is_dir() or is_whole(path):  # a sharded checkpoint is a directory of files
            return path
        # Another rank may have renamed it already.
        with suppress(FileNotFoundError):
            console.print(f"{path} is damaged; it is kept as {set_aside(path)}, and the fit starts before it.")
    return None


def is_whole(checkpoint: Path) -> bool:
    """Return whether every part of a checkpoint has its checksum; torch writes a zip archive."""
    try:
        with ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (BadZipFile, OSError, ValueError, EOFError, NotImplementedError, zlib.error):
        return False
