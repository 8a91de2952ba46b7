"""Runs for tests of reports: one real run of the lab, and synthetic runs with more rounds, arms and seeds."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
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


@pytest.fixture
def fake_run(tmp_path: Path, base_config: Config) -> MakeRun:
    """Return a function that writes a synthetic run below `tmp_path`; it takes the fields of `SyntheticRun`."""
    return lambda **fields: SyntheticRun(tmp_path / "outputs", base_config, **fields).write()


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
    config = compose_config(*TINY_RUN, f"outputs={outputs}")
    run(config, outputs / "runs" / "lab", to_yaml(config))
    return outputs / "runs" / "lab"


@pytest.fixture
def lab_run(finished_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the real run, with its store, that a test may change."""
    outputs = finished_run.parent.parent
    shutil.copytree(outputs, tmp_path / "lab", symlinks=True)
    return tmp_path / "lab" / finished_run.relative_to(outputs)
