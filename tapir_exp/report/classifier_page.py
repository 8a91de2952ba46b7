"""The page of a classifier's figures: `report.html`, self-contained."""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from tapir_exp.core.store import write_text_atomic
from tapir_exp.core.task_types import TaskType
from tapir_exp.evals.classification import ClassificationFigures
from tapir_exp.report import charts
from tapir_exp.report.templates import REPORT, render

NAMES = (*map(str, TaskType), "unlabelled")


def write_labelling_report(
    directory: Path,
    data: str,
    counts: Mapping[str, int],
    dropped: Mapping[str, int],
    measured: Mapping[str, ClassificationFigures],
) -> Path:
    """Write the page: every classifier of `measured` in a table, the first one in charts and type by type.

    data: what they were measured on, with its rows of each type, and the rows left out by the reason.
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
        confusion=Markup(draw_confusion(first)),
        reliability=Markup(draw_reliability(first)),
    )
    write_text_atomic(path, page)
    return path


def draw_confusion(figures: ClassificationFigures) -> str:
    """The confusion matrix over the types that occur; empty rows and columns are left out."""
    rows = [place for place, row in enumerate(figures.confusion) if any(row)]
    columns = [place for place in range(len(NAMES)) if place in rows or any(row[place] for row in figures.confusion)]
    counts = [[figures.confusion[row][column] for column in columns] for row in rows]
    right = sum(figures.confusion[place][place] for place in rows)
    return charts.matrix(
        [NAMES[row] for row in rows],
        [NAMES[column] for column in columns],
        counts,
        "Confusion matrix: true type by row, named type by column",
        f"{right} of {figures.rows} rows lie on the diagonal.",
    )


def draw_reliability(figures: ClassificationFigures) -> str:
    """Accuracy over confidence; empty where the classifier does not say how sure it is."""
    if not figures.reliability:
        return ""
    points = tuple((found.confidence, found.accuracy, found.rows) for found in figures.reliability)
    told = "; ".join(f"confidence {x:.2f}: {y:.0%} of {n} right" for x, y, n in points)
    return charts.reliability(points, "Reliability: how often right, by how sure", told)
