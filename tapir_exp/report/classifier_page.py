"""Report of a classifier evaluation: a self-contained `report.html`."""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from tapir_exp.core.store import write_text_atomic
from tapir_exp.core.task_types import TaskType
from tapir_exp.evals.classification import ClassificationFigures
from tapir_exp.report import charts
from tapir_exp.report.templates import REPORT, render

NAMES = (*map(str, TaskType), "unlabelled")
"""Names of the rows and columns of a confusion matrix."""


def write_classifier_report(
    directory: Path,
    data: str,
    counts: Mapping[str, int],
    dropped: Mapping[str, int],
    measured: Mapping[str, ClassificationFigures],
) -> Path:
    """Write the report: all classifiers in a table, the first one also in charts and by task type.

    Args:
        directory: Directory of the report.
        data: Name of the evaluation data.
        counts: Rows of each task type.
        dropped: Dropped rows by reason.
        measured: Figures by the name of the classifier.

    Returns:
        The path of the report.
    """
    first = next(iter(measured.values()))
    path = directory / REPORT
    page = render(
        "classifier_page.html.jinja",
        data=data,
        counts=counts,
        dropped=dropped,
        measured=measured,
        first=first,
        confusion=Markup(_confusion_chart(first)),
        reliability=Markup(_reliability_chart(first)),
    )
    write_text_atomic(path, page)
    return path


def _confusion_chart(figures: ClassificationFigures) -> str:
    """Draw the confusion matrix without its empty rows and columns."""
    matrix = figures.confusion
    rows = [index for index, row in enumerate(matrix) if any(row)]
    # A type that occurs keeps its column even if it was never predicted, so that the diagonal is complete.
    columns = [index for index in range(len(NAMES)) if index in rows or any(row[index] for row in matrix)]
    correct = sum(matrix[index][index] for index in rows)
    return charts.matrix(
        [NAMES[row] for row in rows],
        [NAMES[column] for column in columns],
        [[matrix[row][column] for column in columns] for row in rows],
        "Confusion matrix: true type by row, predicted type by column",
        f"{correct} of {figures.rows} rows are on the diagonal.",
    )


def _reliability_chart(figures: ClassificationFigures) -> str:
    """Draw accuracy over confidence; empty if the classifier reports no confidence."""
    if not figures.reliability:
        return ""
    points = tuple((b.confidence, b.accuracy, b.rows) for b in figures.reliability)
    description = "; ".join(f"confidence {x:.2f}: {y:.0%} of {n} correct" for x, y, n in points)
    return charts.reliability(points, "Reliability: accuracy over confidence", description)
