"""Labelled instructions are read as their file says, counted where they are left out, and cut evenly."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.config import LabelledDataConfig
from tapir_exp.core.errors import SeedError
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.dataset import (
    LabelledText,
    instruction_of,
    package_examples,
    read_labelled,
    stratified_folds,
)

ROWS = [
    {"q": "Add 1 and 2.", "skill": "Math"},
    {"q": "Write a poem.", "skill": "Writting", "given": "about rain"},
    {"q": "Is it true?", "skill": "TruthfulQA"},
    {"q": "Add 1 and 2.", "skill": "Math"},
    {"q": "", "skill": "Math"},
    {"q": "Sing.", "skill": "Singing"},
    {"q": "Hum."},
]
CONFIG = {"instruction": "q", "input": "given", "task": "skill", "names": {"Writting": "Writing", "TruthfulQA": None}}


@pytest.mark.parametrize("form", ["array", "lines"])
def test_rows_are_mapped_and_what_is_left_out_is_counted(tmp_path: Path, form: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS) if form == "array" else "\n".join(map(json.dumps, ROWS)) + "\n\n")
    found = read_labelled(LabelledDataConfig(path=str(path), **CONFIG))  # type: ignore[arg-type]
    assert found.rows == (
        LabelledText("Add 1 and 2.", TaskType.MATH),
        LabelledText("Write a poem.\n\nabout rain", TaskType.WRITING),
    )
    assert found.dropped == {
        "TruthfulQA: left out by classifier_data.names": 1,
        "repeated": 1,
        "without an instruction": 1,
        "Singing: no task type, see classifier_data.names": 1,
        "without a type": 1,
    }
    assert found.counts == {"Math": 1, "Writing": 1}


def test_a_file_without_labelled_instructions_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    with pytest.raises(SeedError, match=r"rows\.json holds no labelled instruction: .*without an instruction.*7"):
        read_labelled(LabelledDataConfig(path=str(path)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1}\n[2]\n', r"rows\.jsonl, row 2: not a JSON object"),
        ('{"a": 1}\n{\n', r"rows\.jsonl, row 2: not valid JSON"),
    ],
)
def test_a_row_that_is_no_object_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(SeedError, match=reason):
        read_labelled(LabelledDataConfig(path=str(path)))


def test_an_input_follows_its_instruction() -> None:
    assert instruction_of({"instruction": " Add ", "input": " 1, 2 "}) == "Add\n\n1, 2"
    assert instruction_of({"instruction": "Add", "input": None}) == "Add"
    assert instruction_of({"input": "1, 2"}) == ""


def test_the_package_has_eight_examples_of_every_type() -> None:
    found = package_examples()
    assert found.counts == {str(task): 8 for task in TaskType}
    assert len({row.text for row in found.rows}) == 8 * len(TaskType)
    assert read_labelled(LabelledDataConfig()) == found


@given(st.lists(st.sampled_from(list(TaskType)), min_size=2, max_size=80), st.integers(2, 6), st.integers(0, 3))
def test_the_parts_hold_every_row_once_and_every_type_evenly(tasks: list[TaskType], count: int, seed: int) -> None:
    rows = [LabelledText(str(place), task) for place, task in enumerate(tasks)]
    parts = stratified_folds(rows, count, seed)
    assert sorted(place for part in parts for place in part) == list(range(len(rows)))
    assert parts == stratified_folds(rows, count, seed)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for task in set(tasks):
        shares = [Counter(rows[place].task for place in part)[task] for part in parts]
        assert max(shares) - min(shares) <= 1
