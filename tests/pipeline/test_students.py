"""Which settings make a student another artifact."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from fakes import example
from workspaces import open_test_workspace

from tapir_exp.config import Config
from tapir_exp.core.records import TrainingExample
from tapir_exp.core.store import ROWS, Artifact, recipe_key, write_rows
from tapir_exp.pipeline.students import base_model, finetune_on_seeds, finetune_round
from tapir_exp.pipeline.workspace import StageOutput, Workspace

KeyOf = Callable[..., str]


@pytest.fixture
def workspace(
    tmp_path: Path, compose_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AbstractContextManager[Workspace]]:
    """Open a workspace under overrides whose stages have keys, but are not run."""

    def directory(
        ws: Workspace, stage: str, round_number: int | None, recipe: Mapping[str, Any], make: object
    ) -> Artifact:
        return Artifact(stage, recipe_key(stage, recipe), tmp_path, {ROWS: "sha256"}, {}, 0.0, reused=True)

    monkeypatch.setattr(Workspace, "directory", directory)
    write_rows(tmp_path / ROWS, [example("Say red.")])
    return lambda *overrides: open_test_workspace(compose_config(*overrides), tmp_path)


@pytest.fixture
def key_of_s0(workspace: Callable[..., AbstractContextManager[Workspace]]) -> KeyOf:
    """Return the key of S_0 under overrides."""

    def key(*overrides: str) -> str:
        with workspace(*overrides) as ws:
            parent, identity = base_model(ws)
            seeds = ws.rows("seeds", None, {}, lambda: StageOutput([], {}))
            return finetune_on_seeds(ws, seeds, parent, identity).key

    return key


@pytest.fixture
def key_of_round(workspace: Callable[..., AbstractContextManager[Workspace]], tmp_path: Path) -> KeyOf:
    """Return the key of the student of a round, which continues a fixed student on fixed rows."""

    def key(number: int, *overrides: str) -> str:
        write_rows(tmp_path / ROWS, [TrainingExample.from_seed(example("Say red."))])
        names = (("student", "parent"), ("student", "s0"), ("mix", "key"))
        parent, s0, mix = (Artifact(*name, tmp_path, {ROWS: "sha256"}, {}, 0.0, reused=True) for name in names)
        with workspace(*overrides) as ws:
            return finetune_round(ws, number, parent, mix, 0.3, s0=s0).key

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
def test_finetune_on_seeds_with_another_setting_is_another_artifact(key_of_s0: KeyOf, override: str) -> None:
    assert key_of_s0(override) != key_of_s0()


@pytest.mark.parametrize(
    "override",
    [
        "sft.round_stage.max_tokens=5",
        "sft.lr_schedule=one",
        "sft.optimizer_state=carried",
        "sft.round_start=base",
        "curriculum.delta=1",
        "curriculum.rows_per_round=9",
        "student.max_new_tokens=7",
        "trainer.accelerator=cpu",
        "evals.problems_per_level=1",
        "judge.swap_positions=false",
    ],
)
def test_finetune_on_seeds_is_shared_if_other_settings_differ(key_of_s0: KeyOf, override: str) -> None:
    """A sweep over such a key trains S_0 once; in particular, the budget of the rounds is not part of it."""
    assert key_of_s0(override) == key_of_s0()


@pytest.mark.parametrize(
    ("number", "override", "shared"),
    [
        (1, "sft.lr_schedule=one", False),
        (2, "sft.lr_schedule=wsd", False),
        (1, "sft.lr_schedule=falling", True),
        (2, "sft.lr_schedule=falling", False),
        (1, "sft.peak_decay=0.1", True),
        (1, "sft.decay_ratio=0.1", True),
        (1, "curriculum.rounds=4", True),
        (1, "sft.round_start=s0", False),
        (1, "sft.round_start=base", False),
        (1, "sft.optimizer_state=carried", False),
        (3, "sft.optimizer_state=carried", False),
        (1, "sft.anneal_ratio=0.5", True),
        (1, "sft.average_ratio=0.5", True),
        (1, "sft.beta2=0.95", False),
    ],
)
def test_finetune_round_key_holds_what_matters_for_the_round(
    key_of_round: KeyOf, number: int, override: str, shared: bool
) -> None:
    assert (key_of_round(number, override) == key_of_round(number)) is shared


def test_finetune_round_position_is_in_the_key_of_one_schedule(key_of_round: KeyOf) -> None:
    one = "sft.lr_schedule=one"
    assert key_of_round(1, one) != key_of_round(2, one) != key_of_round(2, one, "curriculum.rounds=4")
    assert key_of_round(1, one, "curriculum.rounds=1") == key_of_round(1)
    wsd = "sft.lr_schedule=wsd"
    assert key_of_round(2, wsd) == key_of_round(2, wsd, "curriculum.rounds=4") != key_of_round(3, wsd)


def test_finetune_round_carried_state_is_saved_for_a_next_round(key_of_round: KeyOf) -> None:
    carried = "sft.optimizer_state=carried"
    assert key_of_round(1, carried, "curriculum.rounds=1") == key_of_round(1)
    assert key_of_round(2, carried) == key_of_round(2, carried, "curriculum.rounds=4") != key_of_round(3, carried)


def test_finetune_round_annealed_saves_a_state_to_continue(key_of_round: KeyOf) -> None:
    """The last round of one schedule ends at a rate of 0, so it needs no branch."""
    one, annealed = "sft.lr_schedule=one", "sft.judged_student=annealed"
    assert key_of_round(1, one, annealed) != key_of_round(1, one)
    assert key_of_round(3, one, annealed) == key_of_round(3, one)
