"""Fits as files."""

from pathlib import Path

from tapir_exp.config import BudgetConfig, SFTConfig, StrategyName, StudentConfig, TrainerConfig
from tapir_exp.core.records import Subset
from tapir_exp.student.loading import AdapterBase
from tapir_exp.student.training.batching import BatchPlan
from tapir_exp.student.training.job import FitJob, PlannedFit, read_planned_fit


def test_planned_fit_round_trips_through_its_file(student: StudentConfig, tmp_path: Path) -> None:
    job = FitJob(
        parent=Path("meta-llama/Llama-2-7b-hf"),
        sft=SFTConfig(),
        budget=BudgetConfig(epochs=1.5),
        student=student,
        trainer=TrainerConfig(devices=2, num_nodes=3, strategy=StrategyName.fsdp, hosts=["a", "b", "c"]),
        alpha=0.3,
        seed=7,
        label="training S_1",
        base=AdapterBase("../base", "main"),
    )
    weights = {Subset.HARD: 0.1 + 0.2, Subset.REST: 1 / 3}
    fit = PlannedFit(job, BatchPlan(((1, 2), (0,))), weights)
    fit.write(tmp_path / "fit.json")
    assert read_planned_fit(tmp_path / "fit.json") == fit
    assert job.num_ranks == 6
