"""Labelled instructions are mapped as configured, dropped rows are counted, and folds are even."""

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
    instruction_text,
    package_examples,
    read_labelled,
    stratified_folds,
)

ROWS = [
    {"q": "Add 1 and 2.", "skill": "Math"},
    {"q": "Write a poem.", "skill": "Writting", "context": "about rain"},
    {"q": "Is it true?", "skill": "TruthfulQA"},
    {"q": "Add 1 and 2.", "skill": "Math"},
    {"q": "", "skill": "Math"},
    {"q": "Sing.", "skill": "Singing"},
    {"q": "Hum."},
]
CONFIG = {"instruction": "q", "input": "context", "task": "skill", "names": {"Writting": "Writing", "TruthfulQA": None}}


@pytest.mark.parametrize("form", ["array", "lines"])
def test_read_labelled_maps_rows_and_counts_dropped_ones(tmp_path: Path, form: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS) if form == "array" else "\n".join(map(json.dumps, ROWS)) + "\n\n")
    dataset = read_labelled(LabelledDataConfig(path=str(path), **CONFIG))  # type: ignore[arg-type]
    assert dataset.rows == (
        LabelledText("Add 1 and 2.", TaskType.MATH),
        LabelledText("Write a poem.\n\nabout rain", TaskType.WRITING),
    )
    assert dataset.dropped == {
        "TruthfulQA: excluded by classifier_data.names": 1,
        "repeated": 1,
        "without an instruction": 1,
        "Singing: no task type, see classifier_data.names": 1,
        "without a type": 1,
    }
    assert dataset.counts == {"Math": 1, "Writing": 1}


def test_read_labelled_without_usable_rows_reports_reasons(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    with pytest.raises(SeedError, match=r"rows\.json has no labelled instruction: .*without an instruction.*7"):
        read_labelled(LabelledDataConfig(path=str(path)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1}\n[2]\n', r"rows\.jsonl, row 2: not a JSON object"),
        ('{"a": 1}\n{\n', r"rows\.jsonl, row 2: not valid JSON"),
    ],
)
def test_read_labelled_names_a_row_that_is_no_object(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(SeedError, match=reason):
        read_labelled(LabelledDataConfig(path=str(path)))


def test_instruction_text_appends_the_input() -> None:
    assert instruction_text({"instruction": " Add ", "input": " 1, 2 "}) == "Add\n\n1, 2"
    assert instruction_text({"instruction": "Add", "input": None}) == "Add"
    assert instruction_text({"input": "1, 2"}) == ""
    assert instruction_text({"instruction": [{"type": "text"}], "input": "x"}) == ""


def test_package_examples_have_eight_rows_per_type() -> None:
    dataset = package_examples()
    assert dataset.counts == {str(task): 8 for task in TaskType}
    assert len({row.text for row in dataset.rows}) == 8 * len(TaskType)
    assert read_labelled(LabelledDataConfig()) == dataset


@given(st.lists(st.sampled_from(list(TaskType)), min_size=2, max_size=80), st.integers(2, 6), st.integers(0, 3))
def test_stratified_folds_hold_each_row_once_and_types_evenly(tasks: list[TaskType], count: int, seed: int) -> None:
    rows = [LabelledText(str(index), task) for index, task in enumerate(tasks)]
    folds = stratified_folds(rows, count, seed)
    assert sorted(index for fold in folds for index in fold) == list(range(len(rows)))
    assert folds == stratified_folds(rows, count, seed)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for task in set(tasks):
        shares = [Counter(rows[index].task for index in fold)[task] for fold in folds]
        assert max(shares) - min(shares) <= 1
