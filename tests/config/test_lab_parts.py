"""Parts of the lab never stand beside real ones unasked: the error names the groups to choose."""

import json
from pathlib import Path
from typing import Any

import pytest
from composing import compose_raw

from tapir_exp.commands.command_line import compose_jobs
from tapir_exp.config import ClassifierKind, RoundsMode, SeedSource, parse
from tapir_exp.config.lab_parts import PRESETS, check_lab_parts
from tapir_exp.config.paths import data_dir
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.yaml_files import read_yaml

LAB: dict[str, Any] = {
    "allow_lab_parts": False,
    "seeds.source": SeedSource.lab,
    "seeds.path": None,
    "teacher.llm.model": "lab/teacher",
    "judge.llm.model": "lab/judge",
    "classifier.kind": ClassifierKind.llm,
    "classifier.llm.model": "lab/labeller",
    "student.model": "lab",
    "task_mix.name": "lab",
    "evals.problems_per_level": 12,
    "curriculum.rounds": 3,
    "curriculum.rounds_mode": RoundsMode.separate,
    "curriculum.rows_per_round": 4000,
    "sft.learning_rate": 2e-3,
}
REAL: dict[str, dict[str, Any]] = {
    "seeds": {"seeds.source": SeedSource.file, "seeds.path": "mine.json"},
    "teacher": {"teacher.llm.model": "openai/gpt-4o"},
    "judge": {"judge.llm.model": "openai/gpt-4o"},
    "classifier": {"classifier.kind": ClassifierKind.encoder},
    "student": {"student.model": "Qwen/Qwen1.5-0.5B"},
    "task_mix": {"task_mix.name": "natural"},
    "evals": {"evals.problems_per_level": 0},
    "curriculum": {"curriculum.rows_per_round": 23333},
    "sft": {"sft.learning_rate": 2e-5},
}


@pytest.mark.parametrize(("group", "key", "value"), [(group, *preset) for group, preset in PRESETS.items()])
def test_known_value_is_that_of_the_labs_preset(group: str, key: str, value: float) -> None:
    assert read_yaml(data_dir("conf") / group / "lab.yaml")[key] == value


CORE = ("seeds", "teacher", "judge", "classifier", "student")


def origin(key: str, values: dict[str, Any]) -> str:
    group = key.partition(".")[0]
    return f"conf/{group}/{'lab' if values[key] == LAB[key] else 'other'}.yaml"


def problems(*real: str, **changes: Any) -> dict[str, str]:
    """Return what was expected, by key; the groups in `real` are real, and the others are the lab's."""
    values = {**LAB, **{key: value for group in real for key, value in REAL[group].items()}, **changes}
    found = check_lab_parts(values, lambda key: origin(key, values))
    return {problem.key: problem.expected for problem in found}


@pytest.mark.parametrize("group", CORE)
def test_one_real_part_in_the_lab_is_refused(group: str) -> None:
    found = problems(group)
    presets = set() if group == "student" else {"curriculum", "sft"}
    assert {key.partition(".")[0] for key in found} == {*REAL, "allow_lab_parts"} - {group, "student"} - presets
    assert "experiment=own_data" in found["allow_lab_parts"]
    assert problems(group, allow_lab_parts=True) == {}


def test_student_of_the_lab_may_learn_from_real_rows() -> None:
    assert problems(*(group for group in REAL if group not in ("student", "curriculum", "sft"))) == {}


@pytest.mark.parametrize("group", [group for group in REAL if group != "student"])
def test_one_part_of_the_lab_beside_real_ones_is_refused(group: str) -> None:
    (key, expected), (switch, _) = problems(*(other for other in REAL if other != group)).items()
    assert key.startswith(f"{group}.")
    assert f"{group}=" in expected.partition("; choose ")[2]
    assert switch == "allow_lab_parts"


@pytest.mark.parametrize("real", [(), ("task_mix",), ("evals",), tuple(REAL)])
def test_parts_of_one_kind_pass(real: tuple[str, ...]) -> None:
    assert problems(*real) == {}


@pytest.mark.parametrize(
    "changes", [{"curriculum.rounds": 0}, {"curriculum.rounds_mode": RoundsMode.seeds_only}], ids=str
)
def test_fit_on_seeds_alone_needs_no_models(changes: dict[str, Any]) -> None:
    real = ("seeds", "student", "evals")
    assert problems(*real, **changes) == {}
    assert "judge.llm.model" in problems(*real, **changes, **{"evals.held_out_size": 5})


def test_path_without_source_is_refused_in_any_case() -> None:
    for allowed in (False, True):
        (expected,) = problems(**{"seeds.path": "mine.json", "allow_lab_parts": allowed}).values()
        assert expected.startswith("seeds=file")


def test_composed_mixture_names_groups_and_files(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps([{"instruction": "Add 1 and 2.", "output": "3"}]))
    path = f"seeds.path={tmp_path}/mine.json"
    with pytest.raises(ConfigError) as caught:
        compose_jobs(["teacher=gpt_4o", "judge=gpt_4o", "student=qwen1_5_0_5b", "seeds=file", path, "sft=lora"])
    groups = ["classifier", "task_mix", "evals", "curriculum"]
    *lines, switch = caught.value.problems
    assert [line.partition(".")[0] for line in lines] == groups
    assert all(line.endswith(f"{group}/lab.yaml]") for group, line in zip(groups, lines, strict=True))
    assert switch.startswith("allow_lab_parts = False")


def test_evaluations_may_leave_unused_parts_to_the_lab() -> None:
    assert parse(compose_raw("student=qwen1_5_0_5b", config_name="evaluate")).allow_lab_parts
