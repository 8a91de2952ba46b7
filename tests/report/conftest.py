"""Runs for tests of reports: one real run of the lab, and synthetic runs with more rounds, arms and seeds."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluations_dir import EvaluationsDir
from synthetic_run import SyntheticRun

from tapir_exp.config import Config
from tapir_exp.config.root import to_yaml

MakeRun = Callable[..., Path]
ARMS = {"natural_mix": 0.05, "tapir": 0.16, "fixed_alpha": 0.15}
"""Gain per round of each arm of `ablation`."""
TINY_RUN = (
    "logger=disabled",
    "seeds.size=40",
    "curriculum.rounds=2",
    "curriculum.rows_per_round=30",
    "sft.seed_stage.max_tokens=2000",
    "sft.round_stage.max_tokens=2000",
    "evals.problems_per_level=1",
    "evals.held_out_size=4",
    "student.max_new_tokens=16",
    "lab.student.vocab_size=300",
    "lab.student.hidden_size=16",
    "lab.student.intermediate_size=24",
    "lab.student.num_layers=1",
    "lab.student.num_heads=2",
)


@pytest.fixture(scope="session")
def base_config(compose_config: Callable[..., Config]) -> Config:
    """Compose the configuration of synthetic runs, once: composing takes longer than writing a run."""
    return compose_config("logger=disabled")


@pytest.fixture(scope="session")
def synthetic_run(base_config: Config, tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Return a function that writes a synthetic run once per session, into a separate outputs directory."""
    written: dict[str, Path] = {}

    def write(**fields: Any) -> Path:
        key = repr(sorted(fields.items()))
        if key not in written:
            outputs = tmp_path_factory.mktemp("synthetic") / "outputs"
            SyntheticRun(outputs, base_config, **fields).write()
            written[key] = outputs
        return written[key]

    return write


@pytest.fixture
def fake_run(tmp_path: Path, synthetic_run: MakeRun) -> MakeRun:
    """Return a function that puts a synthetic run below `tmp_path`; it takes the fields of `SyntheticRun`.

    The run is a copy that the test may change. Runs of one test share one store, as in a sweep.
    """

    def copy(**fields: Any) -> Path:
        shutil.copytree(synthetic_run(**fields), tmp_path / "outputs", dirs_exist_ok=True)
        return tmp_path / "outputs" / fields.get("name", SyntheticRun.name)

    return copy


@pytest.fixture
def ablation(fake_run: MakeRun) -> Path:
    """Write three arms with three seeds each, and return the directory of the sweep."""
    for arm, gain in ARMS.items():
        for seed in (1, 2, 3):
            run = fake_run(name=f"sweep/arm-{arm}_seed-{seed}", arm=arm, seed=seed, size=40, gain=gain)
    return run.parent


@pytest.fixture(scope="session")
def finished_run(compose_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole pipeline once on the lab, as small as possible, and return the run directory."""
    from tapir_exp.commands.run_job import run

    outputs = tmp_path_factory.mktemp("lab") / "outputs"
    config = compose_config(*TINY_RUN, "curriculum.replay=0", f"outputs={outputs}")
    run(config, outputs / "runs" / "lab", to_yaml(config))
    return outputs / "runs" / "lab"


@pytest.fixture
def lab_run(finished_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the real run, with its store, that a test may change."""
    outputs = finished_run.parent.parent
    shutil.copytree(outputs, tmp_path / "lab", symlinks=True)
    return tmp_path / "lab" / finished_run.relative_to(outputs)


@pytest.fixture
def evaluations(tmp_path: Path) -> EvaluationsDir:
    """Return a directory to which a test adds finished evaluations."""
    return EvaluationsDir(tmp_path)
