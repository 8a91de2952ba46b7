"""Templates are filled strictly, in one pass, and every shipped one has the fields that its stage fills."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.core.errors import PromptError
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation import prompts
from tapir_exp.distillation.prompts import PROMPTS, Prompt, load_prompt, refinement_style

GREETING = Prompt("greeting", "Hello {{name}}, {{name}} of {{place}}!")


def test_every_occurrence_of_a_field_is_replaced() -> None:
    assert GREETING.fill(name="Ann", place="Rome") == "Hello Ann, Ann of Rome!"


@pytest.mark.parametrize("value", ["{{place}}", "{{other}}", "{x}", "}}{{", r"\1 \g<0> \n", "$name", "%s", ""])
def test_a_value_stays_as_it_is(value: str) -> None:
    assert GREETING.fill(name=value, place="Rome") == f"Hello {value}, {value} of Rome!"


@given(first=st.text(), second=st.text())
def test_any_two_values_come_out_whole(first: str, second: str) -> None:
    assert Prompt("two", "[{{a}}|{{b}}]").fill(a=first, b=second) == f"[{first}|{second}]"


@pytest.mark.parametrize(
    "values", [{}, {"name": "Ann"}, {"name": "Ann", "place": "Rome", "age": "9"}, {"Name": "Ann", "place": "Rome"}]
)
def test_a_missing_or_further_value_is_an_error_that_names_both_sides(values: dict[str, str]) -> None:
    with pytest.raises(PromptError) as caught:
        GREETING.fill(**values)
    assert str(caught.value) == f"Prompt greeting has the fields ['name', 'place'] but was given {sorted(values)}."


def test_single_braces_are_no_field() -> None:
    assert Prompt("code", "f = {name} {{ name }}").fields == frozenset()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("expand", {"task", "count", "examples"}),
        ("judge/pair_scores", {"instruction", "reference", "first", "second"}),
        ("judge/pair_logprobs", {"instruction", "reference", "first", "second"}),
        ("judge/single_score", {"instruction", "reference", "answer"}),
        ("judge/reference", {"reference"}),
        ("judge/complexity", {"instruction"}),
        ("label", {"types", "instruction"}),
        ("refine", {"task", "instruction", "response", "style"}),
    ],
)
def test_shipped_prompts_have_the_fields_that_their_stages_fill(name: str, fields: set[str]) -> None:
    prompt = load_prompt(name)
    assert prompt.fields == fields
    assert prompt.name == name
    assert prompt.text == prompt.text.strip()


def test_every_shipped_prompt_is_known_here() -> None:
    assert {path.stem for path in PROMPTS.glob("*")} == {"expand", "judge", "label", "refine", "style"}


def test_an_unknown_prompt_is_an_error_that_names_the_file_and_those_there_are() -> None:
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
def test_a_type_has_its_own_style_or_the_general_one(task: TaskType, style: str) -> None:
    assert refinement_style(task).name == style


def test_a_style_of_ones_own_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "style").mkdir()
    for task in TaskType:
        name = task.lower().replace(" ", "_").replace("-", "_")
        (tmp_path / "style" / f"{name}.md").write_text(f"As {task} is.\n")
    monkeypatch.setattr(prompts, "PROMPTS", tmp_path)
    monkeypatch.setattr(prompts, "load_prompt", prompts.load_prompt.__wrapped__)  # without its cache
    assert [refinement_style(task).text for task in TaskType] == [f"As {task} is." for task in TaskType]


def test_every_style_is_some_types_and_asks_for_nothing() -> None:
    styles = {refinement_style(task) for task in TaskType}
    assert {style.name for style in styles} == {f"style/{path.stem}" for path in (PROMPTS / "style").glob("*")}
    assert all(style.text and not style.fields for style in styles)
