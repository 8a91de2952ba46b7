"""A run that keeps instructions out of training, end to end in the lab: who is compared with whom, what is shown."""

from pathlib import Path

import pytest
from composing import compose_config

from tapir_exp.commands.run_job import run
from tapir_exp.config import Config, to_yaml
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import Example, Response, TrainingExample, Verdict
from tapir_exp.core.store import Artifact
from tapir_exp.report.metrics import run_metrics

KEPT = 5
SMALL = [
    *(
        "seeds.size=60",
        "evals=none",
        f"evals.held_out_size={KEPT}",
        "curriculum.rounds=1",
        "curriculum.rows_per_round=24",
    ),
    *(
        "sft.seed_stage.max_tokens=3000",
        "sft.round_stage.max_tokens=3000",
        "logger=disabled",
        "student.max_new_tokens=24",
    ),
]


def small(outputs: Path, *changes: str) -> Config:
    return compose_config(*SMALL, f"outputs={outputs}", *changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one run."""
    outputs = tmp_path_factory.mktemp("outputs")
    config = small(outputs)
    run(config, outputs / "runs/lab", to_yaml(config))
    return outputs / "runs/lab"


@pytest.fixture
def artifacts(done: Path) -> dict[str, Artifact]:
    return dict(Manifest.load(done).open(done))


@pytest.mark.slow
def test_nothing_that_is_kept_out_is_trained_on(artifacts: dict[str, Artifact]) -> None:
    kept = {row.id for row in artifacts["held_out"].rows(Example)}
    trained = {row.id for row in artifacts["seeds"].rows(Example)}
    trained |= {row.id for row in artifacts["train_mix-1"].rows(TrainingExample)}
    assert len(kept) == KEPT
    assert not kept & trained


@pytest.mark.slow
def test_every_student_is_compared_with_the_one_before_it(artifacts: dict[str, Artifact], done: Path) -> None:
    kept = {row.id for row in artifacts["held_out"].rows(Example)}
    for name in (
        "base_responses",
        "held_out_student_responses-0",
        "held_out_student_responses-1",
        "held_out_teacher_responses",
    ):
        assert {row.id for row in artifacts[name].rows(Response)} == kept
    for number in (0, 1):
        assert {row.id for row in artifacts[f"held_out_verdicts-{number}"].rows(Verdict)} == kept
    metrics = run_metrics(Manifest.load(done), artifacts)
    for row in metrics:
        assert row["held_out/won"] + row["held_out/tied"] + row["held_out/lost"] + row["held_out/unscored"] == KEPT
        assert row["held_out/perplexity"] > 1


@pytest.mark.slow
def test_the_report_tells_it_and_shows_what_was_said(done: Path, artifacts: dict[str, Artifact]) -> None:
    page = (done / "report.html").read_text()
    assert 'id="held_out"' in page
    assert page.count('<article class="sample">') >= KEPT
    assert "the base model" in page


@pytest.mark.slow
def test_seeds_that_take_the_whole_source_leave_nothing_to_keep_out(tmp_path: Path) -> None:
    source = tmp_path / "seeds.json"
    source.write_text('[{"instruction": "Say a word.", "input": "", "output": "Word."}]')
    config = small(
        tmp_path, "seeds=file", "seeds.size=60", f"seeds.path={source}", "seeds.decontamination.benchmarks=[]"
    )
    with pytest.raises(ConfigError, match=r"evals\.held_out = 5: expected at most the 0 clean rows"):
        run(config, tmp_path / "run", to_yaml(config))
