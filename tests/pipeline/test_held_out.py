"""Held-out instructions: no seeds, never trained on, and every student compared with its predecessor."""

from collections.abc import Callable
from pathlib import Path

import pytest
from workspaces import open_test_workspace

from tapir_exp.commands.run_job import run
from tapir_exp.config import Config, to_yaml
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import Example, Response, ResponseLoss, TrainingExample, Verdict
from tapir_exp.core.store import Artifact
from tapir_exp.pipeline import data
from tapir_exp.pipeline.held_out import hold_out
from tapir_exp.report.metrics import run_metrics

HELD_OUT = 5
TINY = [
    "seeds.size=60",
    "evals=none",
    f"evals.held_out_size={HELD_OUT}",
    "curriculum.rounds=1",
    "curriculum.rows_per_round=24",
    "sft.seed_stage.max_tokens=3000",
    "sft.round_stage.max_tokens=3000",
    "logger=disabled",
    "student.max_new_tokens=24",
]


@pytest.fixture(scope="module")
def run_dir(compose_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the lab once with held-out instructions, and return the directory of the run."""
    outputs = tmp_path_factory.mktemp("outputs")
    config = compose_config(*TINY, f"outputs={outputs}")
    run(config, outputs / "runs/lab", to_yaml(config))
    return outputs / "runs/lab"


@pytest.fixture
def artifacts(run_dir: Path) -> dict[str, Artifact]:
    return dict(Manifest.load(run_dir).open(run_dir))


@pytest.mark.slow
def test_held_out_rows_are_not_trained_on(artifacts: dict[str, Artifact]) -> None:
    held_out = {row.id for row in artifacts["held_out"].rows(Example)}
    trained = {row.id for row in artifacts["seeds"].rows(Example)}
    trained |= {row.id for row in artifacts["train_mix-1"].rows(TrainingExample)}
    assert len(held_out) == HELD_OUT
    assert not held_out & trained


@pytest.mark.slow
def test_tracker_compares_each_student_with_its_predecessor(artifacts: dict[str, Artifact], run_dir: Path) -> None:
    """The predecessor of S_0 is the base model."""
    held_out = {row.id for row in artifacts["held_out"].rows(Example)}
    for name in (
        "base_responses",
        "held_out_student_responses-0",
        "held_out_student_responses-1",
        "held_out_teacher_responses",
    ):
        assert {row.id for row in artifacts[name].rows(Response)} == held_out
    for number in (0, 1):
        assert {row.id for row in artifacts[f"held_out_verdicts-{number}"].rows(Verdict)} == held_out
        assert {row.id for row in artifacts[f"held_out_losses-{number}"].rows(ResponseLoss)} == held_out
    metrics = run_metrics(Manifest.load(run_dir), artifacts)
    for row in metrics:
        assert row["held_out/won"] + row["held_out/tied"] + row["held_out/lost"] + row["held_out/unscored"] == HELD_OUT
        assert row["held_out/perplexity"] > 1


@pytest.mark.slow
def test_report_shows_held_out_responses(run_dir: Path) -> None:
    page = (run_dir / "report.html").read_text()
    assert 'id="held-out"' in page
    assert page.count('<article class="sample">') >= HELD_OUT
    assert "vs. base model" in page


def test_hold_out_without_rows_left_is_a_config_error(compose_config: Callable[..., Config], tmp_path: Path) -> None:
    source = tmp_path / "seeds.json"
    source.write_text('[{"instruction": "Say a word.", "input": "", "output": "Word."}]')
    config = compose_config(*TINY, "seeds=file", f"seeds.path={source}", "seeds.decontamination.benchmarks=[]")
    with open_test_workspace(config, tmp_path / "store") as ws:
        seeds = data.load_seeds(ws)
        with pytest.raises(ConfigError, match=r"evals\.held_out_size = 5: expected at most 0, the clean rows"):
            hold_out(ws, seeds)
