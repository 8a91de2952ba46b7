"""Which settings make a student another artifact."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fakes import example
from workspaces import open_test_workspace

from tapir_exp.config import Config
from tapir_exp.core.store import ROWS, Artifact, recipe_key, write_rows
from tapir_exp.pipeline.students import base_model, finetune_on_seeds
from tapir_exp.pipeline.workspace import StageOutput, Workspace


@pytest.fixture
def key_of_s0(
    tmp_path: Path, compose_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Return the key of S_0 under overrides, without training it."""

    def directory(
        ws: Workspace, stage: str, round_number: int | None, recipe: Mapping[str, Any], make: object
    ) -> Artifact:
        return Artifact(stage, recipe_key(stage, recipe), tmp_path, {ROWS: "sha256"}, {}, 0.0, reused=True)

    monkeypatch.setattr(Workspace, "directory", directory)
    write_rows(tmp_path / ROWS, [example("Say red.")])

    def key(*overrides: str) -> str:
        with open_test_workspace(compose_config(*overrides), tmp_path) as ws:
            parent, identity = base_model(ws)
            seeds = ws.rows("seeds", None, {}, lambda: StageOutput([], {}))
            return finetune_on_seeds(ws, seeds, parent, identity).key

    return key


@pytest.mark.parametrize(
    "override",
    [
        "sft.seed_stage.max_tokens=5",
        "sft.learning_rate=0.5",
        "sft.max_grad_norm=2",
        "sft.method=lora",
        "seed=9",
        "student.precision=bfloat16",
        "student.chat_template=chatml",
        "lab.student.num_layers=3",
    ],
)
def test_finetune_on_seeds_with_another_setting_is_another_artifact(
    key_of_s0: Callable[..., str], override: str
) -> None:
    assert key_of_s0(override) != key_of_s0()


@pytest.mark.parametrize(
    "override",
    [
        "sft.round_stage.max_tokens=5",
        "curriculum.delta=1",
        "curriculum.rows_per_round=9",
        "student.max_new_tokens=7",
        "trainer.accelerator=cpu",
        "evals.problems_per_level=1",
        "judge.swap_positions=false",
    ],
)
def test_finetune_on_seeds_is_shared_if_other_settings_differ(key_of_s0: Callable[..., str], override: str) -> None:
    """A sweep over such a key trains S_0 once; in particular, the budget of the rounds is not part of it."""
    assert key_of_s0(override) == key_of_s0()
