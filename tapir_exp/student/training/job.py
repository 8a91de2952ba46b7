"""A fit as data, which the processes that share it can read from a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from tapir_exp.config import BudgetConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.records import Subset
from tapir_exp.core.store import write_text_atomic
from tapir_exp.student.loading import AdapterBase
from tapir_exp.student.training.batching import BatchPlan
from tapir_exp.student.training.schedule import Averaging, FitSchedule, restart_schedule


@dataclass(frozen=True)
class FitJob:
    """Which student is fine-tuned, how, and for how long.

    Attributes:
        parent: Directory or hub id of the student to fine-tune.
        sft: Optimiser, batches and adapter.
        budget: Length of the fit, in epochs or tokens.
        student: Chat template, length limit and precision of the student.
        trainer: Devices and numeric precision of the training.
        alpha: Weight of the hard subset in the loss (see `subset_weights`); None for plain fine-tuning.
        seed: Seed of the batches, of dropout and of a new adapter.
        label: Name of the fit in the progress bar and in error messages.
        base: Base model that a new adapter names; None for `parent`.
        schedule: Learning rate of each step; None for the warmup and cosine of a fit that stands alone.
        optimizer_state: File with the state of Adam at the start; None for a new one.
        save_optimizer_state: Whether the state of Adam at the end is saved beside the student.
        averaging: Weights whose mean is saved beside the student; None for no average.
    """

    parent: Path
    sft: SFTConfig
    budget: BudgetConfig
    student: StudentConfig
    trainer: TrainerConfig
    alpha: float | None = None
    seed: int = 0
    label: str = "training"
    base: AdapterBase | None = None
    schedule: FitSchedule | None = None
    optimizer_state: Path | None = None
    save_optimizer_state: bool = False
    averaging: Averaging | None = None

    @property
    def rates(self) -> FitSchedule:
        """Return the schedule of the learning rate."""
        return self.schedule or restart_schedule(self.sft)

    @property
    def num_ranks(self) -> int:
        """Return the number of processes that share the fit, one per device."""
        return self.trainer.devices * self.trainer.num_nodes


@dataclass(frozen=True)
class PlannedFit:
    """A job with everything that follows from its encoded rows, so that all ranks train the same batches.

    Attributes:
        job: The job.
        plan: Batches of the fit, as indices of encoded rows.
        weights: Loss weight of a supervised token of each subset.
    """

    job: FitJob
    plan: BatchPlan
    weights: Mapping[Subset, float]

    def write(self, path: Path) -> None:
        """Write the planned fit as JSON."""
        write_text_atomic(path, _JSON.dump_json(self).decode())


_JSON = TypeAdapter(PlannedFit)


def read_planned_fit(path: Path) -> PlannedFit:
    """Read a file that `PlannedFit.write` wrote."""
    return _JSON.validate_json(path.read_bytes())
