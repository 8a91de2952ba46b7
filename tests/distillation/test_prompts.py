"""Templates are filled strictly and in one pass; shipped templates have the fields of their stages."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.core.errors import PromptError
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation import prompts
from tapir_exp.distillation.prompts import PROMPTS, Prompt, load_prompt, refinement_style

GREETING = Prompt("greeting", "Hello {{name}}, {{name}} of {{place}}!")


def test_fill_replaces_every_occurrence() -> None:
    assert GREETING.fill(name="Ann", place="Rome") == "Hello Ann, Ann of Rome!"


@pytest.mark.parametrize("value", ["{{place}}", "{{other}}", "{x}", "}}{{", r"\1 \g<0> \n", "$name", "%s", ""])
def test_fill_inserts_values_verbatim(value: str) -> None:
    assert GREETING.fill(name=value, place="Rome") == f"Hello {value}, {value} of Rome!"


@given(first=st.text(), second=st.text())
def test_fill_inserts_any_two_values(first: str, second: str) -> None:
    assert Prompt("two", "[{{a}}|{{b}}]").fill(a=first, b=second) == f"[{first}|{second}]"


@pytest.mark.parametrize(
    "values", [{}, {"name": "Ann"}, {"name": "Ann", "place": "Rome", "age": "9"}, {"Name": "Ann", "place": "Rome"}]
)
def test_fill_with_wrong_values_names_fields_and_values(values: dict[str, str]) -> None:
    with pytest.raises(PromptError) as caught:
        GREETING.fill(**values)
    expected = f"Prompt greeting has the fields ['name', 'place'] but was given {sorted(values)}. "
    assert str(caught.value) == expected + "Give each field a value, or edit the template."


def test_fields_ignore_single_braces() -> None:
    assert Prompt("code", "f = {name} {{ name }}").fields == frozenset()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("expand", {"task", "count", "examples"}),
        ("judge/pair_scores", {"instruction", "reference", "first", "second"}),
        ("judge/pair_logprobs", {"instruction", "reference", "first", "second"}),
        ("judge/single_score", {"instruction", "reference", "answer"}),
        ("judge/pair_expected", {"instruction", "reference", "first", "second"}),
        ("judge/single_expected", {"instruction", "reference", "answer"}),
        ("judge/write_metrics", {"instruction"}),
        ("judge/metrics", {"metrics"}),
        ("judge/reference", {"reference"}),
        ("judge/complexity", {"instruction"}),
        ("label", {"types", "instruction"}),
        ("refine", {"task", "instruction", "response", "style"}),
    ],
)
def test_shipped_prompt_has_the_fields_of_its_stage(name: str, fields: set[str]) -> None:
    prompt = load_prompt(name)
    assert prompt.fields == fields
    assert prompt.name == name
    assert prompt.text == prompt.text.strip()


def test_shipped_prompts_are_listed_here() -> None:
    assert {path.stem for path in PROMPTS.glob("*")} == {"expand", "judge", "label", "refine", "style"}


def test_load_unknown_prompt_names_the_file_and_known_prompts() -> None:
    with pytest.raises(PromptError, match=r"prompts/jugde\.md.*'judge/pair_scores'.*'style/math'"):
        load_prompt("jugde")


@pytest.mark.parametrize(
    ("task", "style"),
    [
        (TaskType.MATH, "style/math"),
        (TaskType.REASONING, "style/reasoning"),
        (TaskType.CODE_GENERATION, "style/code_generation"),
        (TaskType.CODE_DEBUG, "style/code_debug"),
        (TaskType.COMPLEX_FORMAT, "style/complex_format"),
        (TaskType.COMMON_SENSE, "style/general"),
        (TaskType.OTHERS, "style/general"),
    ],
)
def test_refinement_style_falls_back_to_general(task: TaskType, style: str) -> None:
    assert refinement_style(task).name == style


def test_refinement_style_reads_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "style").mkdir()
    for task in TaskType:
        name = task.lower().replace(" ", "_").replace("-", "_")
        (tmp_path / "style" / f"{name}.md").write_text(f"As {task} is.\n")
    monkeypatch.setattr(prompts, "PROMPTS", tmp_path)
    monkeypatch.setattr(prompts, "load_prompt", prompts.load_prompt.__wrapped__)  # without its cache
    assert [refinement_style(task).text for task in TaskType] == [f"As {task} is." for task in TaskType]


def test_every_style_belongs_to_a_type_and_has_no_fields() -> None:
    styles = {refinement_style(task) for task in TaskType}
    assert {style.name for style in styles} == {f"style/{path.stem}" for path in (PROMPTS / "style").glob("*")}
    assert all(style.text and not style.fields for style in styles)
