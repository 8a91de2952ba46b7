"""Report of a classifier evaluation: all classifiers in a table, the first one in charts, texts escaped."""

from pathlib import Path

from pages import Outline, plain

from tapir_exp.core.task_types import TaskType
from tapir_exp.evals.classification import measure
from tapir_exp.report.classifier_page import write_classifier_report

TRUTH = [TaskType.MATH, TaskType.MATH, TaskType.LAW, TaskType.WRITING]
PREDICTED = [TaskType.MATH, TaskType.LAW, TaskType.LAW, None]


def write(tmp_path: Path, confidences: list[float | None]) -> str:
    figures = measure(TRUTH, PREDICTED, confidences, resamples=20, seed=0)
    perfect = measure(TRUTH, TRUTH, [None] * 4, resamples=20, seed=0)
    measured = {"<b>first</b>": figures, "second": perfect}
    path = write_classifier_report(tmp_path, "data.jsonl", {"Math": 2, "Law": 1}, {"too long": 3}, measured)
    return path.read_text()


def test_page_has_tables_and_charts(tmp_path: Path) -> None:
    html = write(tmp_path, [0.9, 0.6, 0.7, 0.2])
    outline = Outline(html)
    assert not outline.open
    assert {"table", "confusion", "reliability", "types"} <= set(outline.ids)
    text = plain(html)
    assert "2 of 4 rows are on the diagonal." in text
    assert "Dropped: 3 (too long)." in text
    assert "100.0" in text  # the accuracy of the second classifier


def test_page_escapes_names(tmp_path: Path) -> None:
    assert "<b>first</b>" not in write(tmp_path, [None] * 4)


def test_page_without_confidences_has_no_reliability(tmp_path: Path) -> None:
    assert "reliability" not in Outline(write(tmp_path, [None] * 4)).ids
