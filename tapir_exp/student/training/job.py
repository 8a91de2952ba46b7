"""A fit as a job, apart from where and by whom it is done; other processes can read it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from tapir_exp.config import SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.records import Subset
from tapir_exp.core.store import write_text_atomic
from tapir_exp.student.loading import AdapterBase
from tapir_exp.student.training.batching import BatchPlan


@dataclass(frozen=True)
class FitJob:
    """A parent student and how it is to be trained; the encoded rows lie in the fit's workdir.

    base: what a new adapter calls its base; None for `parent`. weights: of a supervised token, by part.
    """

    parent: Path
    base: AdapterBase | None
    weights: Mapping[Subset, float]
    plan: BatchPlan
    sft: SFTConfig
    student: StudentConfig
    trainer: TrainerConfig
    seed: int

    @property
    def ranks(self) -> int:
        """Processes that share the fit, one a device."""
        return self.trainer.devices * self.trainer.num_nodes

    def write(self, path: Path) -> None:
        """Write it down as JSON."""
        write_text_atomic(path, _JSON.dump_json(self).decode())


_JSON = TypeAdapter(FitJob)


def read_job(path: Path) -> FitJob:
    """What `FitJob.write` wrote."""
    return _JSON.validate_json(path.read_bytes())
