"""Which settings make a student another artifact."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import example
from workspaces import open_test_workspace

from tapir_exp.config import Config, StudentConfig
from tapir_exp.core.records import TrainingExample, TrainingStep
from tapir_exp.core.store import ROWS, Artifact, read_rows, recipe_key, write_rows
from tapir_exp.pipeline.students import (
    base_model,
    build_lab_student,
    finetune_on_seeds,
    finetune_round,
    judged_student,
)
from tapir_exp.pipeline.workspace import StageOutput, Workspace
from tapir_exp.student.loading import load_model
from tapir_exp.student.model_card import Provenance
from tapir_exp.student.training.files import OPTIMIZER_STATE
from tapir_exp.student.training.train import TRAINING

KeyOf = Callable[..., str]


PLAIN = ("sft.lr_schedule=restart", "sft.optimizer_state=new", "curriculum.replay=0")
"""Every round a fit of its own; the lab shares one schedule over the rounds."""


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
    return lambda *overrides: open_test_workspace(compose_config(*PLAIN, *overrides), tmp_path)


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


SMALL = [f"lab.student.{name}" for name in ("num_layers=1", "hidden_size=16", "intermediate_size=16", "num_heads=2")]
SMALL += ["lab.student.vocab_size=300", "sft.global_batch_size=4", "sft.seed_stage.max_tokens=300"]
SMALL += ["sft.round_stage.max_tokens=600", "sft.learning_rate=0.01"]


@dataclass(frozen=True)
class Made:
    """Students of the base model and of two rounds on the same rows."""

    base: Artifact
    s0: Artifact
    trained: list[Artifact]
    judged: list[Artifact]


def run_rounds(config: Config, root: Path) -> Made:
    """Fit S_0 and two rounds on a few rows, with a store in `root`."""
    seeds = [example(f"Say the word number {number}.") for number in range(8)]
    with open_test_workspace(config, root) as ws:
        parent, identity = base_model(ws)
        seed_rows = ws.rows("seeds", None, {}, lambda: StageOutput(seeds, {}))
        mix = ws.rows("mix", None, {}, lambda: StageOutput([TrainingExample.from_seed(seed) for seed in seeds], {}))
        s0 = previous = finetune_on_seeds(ws, seed_rows, parent, identity)
        trained, judged = [], []
        for number in (1, 2):
            previous = finetune_round(ws, number, previous, mix, 0.3, s0=s0)
            trained.append(previous)
            judged.append(judged_student(ws, number, previous, mix, 0.3))
        base = build_lab_student(ws)
    return Made(base, s0, trained, judged)


@pytest.fixture
def made(compose_config: Callable[..., Config], tmp_path: Path) -> Callable[..., Made]:
    """Fit two rounds of a tiny student under overrides."""
    return lambda *overrides: run_rounds(compose_config(*PLAIN, *SMALL, "curriculum.rounds=2", *overrides), tmp_path)


def provenance_of(student: Artifact) -> Provenance:
    known = Provenance.load(student.path)
    assert known
    return known


def test_finetune_round_starts_where_the_setting_says(made: Callable[..., Made]) -> None:
    for start in ("base", "s0", "previous"):
        students = made(f"sft.round_start={start}")
        expected = {"base": students.base, "s0": students.s0, "previous": students.trained[0]}[start]
        assert provenance_of(students.trained[1]).parent.name == expected.name
        assert provenance_of(students.trained[1]).base.name == students.base.name
        assert students.judged == students.trained
        # Without further settings the rounds have equal fits, unless they continue each other.
        assert (students.trained[0].key == students.trained[1].key) is (start != "previous")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_judged_student_average_is_a_student_of_its_own(made: Callable[..., Made], method: str) -> None:
    average = ("sft.judged_student=average", "sft.average_checkpoints=2", "sft.average_ratio=0.5")
    students = made(f"sft.method={method}", *average)
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    for trained, judged in zip(students.trained, students.judged, strict=True):
        assert judged.files[file] == trained.files[f"average/{file}"] != trained.files[file]
        assert not any("/" in name for name in judged.files)
        assert provenance_of(judged).artifact == judged.name
        assert "mean of 2" in {setting.name: setting.value for setting in provenance_of(judged).settings}["weights"]
        load_model(judged.path, StudentConfig(model="lab"))
    assert provenance_of(students.trained[1]).parent.name == students.trained[0].name


def test_judged_student_annealed_falls_to_zero_from_the_rate_of_the_round(made: Callable[..., Made]) -> None:
    students = made("sft.lr_schedule=one", "sft.judged_student=annealed", "sft.anneal_ratio=0.5")
    first, last = students.judged
    assert (provenance_of(first).parent.name, last) == (students.trained[0].name, students.trained[1])
    rates = [step.learning_rate for step in read_rows(first.path / TRAINING, TrainingStep)]
    before = read_rows(students.trained[0].path / TRAINING, TrainingStep)[-1].learning_rate
    assert rates == pytest.approx([rates[0] * (1 - step / len(rates)) for step in range(len(rates))])
    assert 0.5 * before < rates[0] <= before
    # The branch continues the moments of the round, which are no part of it.
    assert OPTIMIZER_STATE in students.trained[0].files
    assert not {OPTIMIZER_STATE} & {*first.files, *last.files}
    assert {s.name: s.value for s in provenance_of(first).settings}["state of AdamW at the start"] != "new"


def test_finetune_round_carried_state_changes_the_next_round(made: Callable[..., Made]) -> None:
    new, carried = made(), made("sft.optimizer_state=carried")
    files = [OPTIMIZER_STATE in student.files for student in (carried.s0, *carried.trained)]
    assert files == [False, True, False]
    weights = "model.safetensors"
    assert new.trained[0].files[weights] == carried.trained[0].files[weights]
    assert new.trained[1].files[weights] != carried.trained[1].files[weights]
