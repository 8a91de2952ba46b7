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
    calibration_folds,
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


@pytest.mark.parametrize("bad", ["7", "{"])
def test_read_labelled_counts_unreadable_rows_and_goes_on(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "rows.jsonl"
    good = '{"instruction": "Add 1 and 2.", "task": "Math"}\n'
    path.write_text(f"{bad}\n{good}{bad}\n")
    dataset = read_labelled(LabelledDataConfig(path=str(path)))
    assert [row.task for row in dataset.rows] == [TaskType.MATH]
    ((reason, count),) = dataset.dropped.items()
    assert (reason.startswith("unreadable: not "), count) == (True, 2)
    path.write_text(f"{bad}\n")
    with pytest.raises(SeedError, match=r"has no labelled instruction: .*unreadable"):
        read_labelled(LabelledDataConfig(path=str(path)))


def test_read_labelled_of_a_broken_list_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"instruction": "a"} {')
    with pytest.raises(SeedError, match=r"rows\.json cannot be read beyond row 1"):
        read_labelled(LabelledDataConfig(path=str(path)))


def test_calibration_folds_leave_out_one_source_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    fields = [{"instruction": f"{n}", "task": "Math" if n % 2 else "Law", "from": "ab"[n % 3 == 0]} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in fields))
    rows = read_labelled(LabelledDataConfig(path=str(path), source="from")).rows
    assert calibration_folds(rows, 5, 0) == [[0, 3], [1, 2, 4, 5]]
    one = read_labelled(LabelledDataConfig(path=str(path))).rows
    assert calibration_folds(one, 2, 0) == stratified_folds(one, 2, 0)


def test_instruction_text_appends_the_input() -> None:
    assert instruction_text({"instruction": " Add ", "input": " 1, 2 "}) == "Add\n\n1, 2"
    assert instruction_text({"instruction": "Add", "input": None}) == "Add"
    assert instruction_text({"input": "1, 2"}) == ""
    assert instruction_text({"instruction": [{"type": "text"}], "input": "x"}) == ""


def test_package_examples_have_eight_rows_per_type_or_more() -> None:
    dataset = package_examples()
    assert dataset.counts.keys() == set(TaskType)
    assert min(dataset.counts.values()) == 8
    assert len({row.text for row in dataset.rows}) == len(dataset.rows)
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
