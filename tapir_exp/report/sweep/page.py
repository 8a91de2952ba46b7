"""The files that a sweep leaves: its page, and the comparison as text, as a table and as a drawing."""

from pathlib import Path

from markupsafe import Markup

from tapir_exp.core.store import write_text_atomic
from tapir_exp.report import charts
from tapir_exp.report.sweep.comparison import BASELINE, Sweep, load_sweep
from tapir_exp.report.sweep.csv_table import to_csv
from tapir_exp.report.sweep.formatting import CELLS, cell_accuracy
from tapir_exp.report.sweep.rounds_section import accuracies_by_round, panels
from tapir_exp.report.sweep.samples_section import side_by_side
from tapir_exp.report.sweep.spend_section import spend_by_arm
from tapir_exp.report.sweep.task_mix_section import task_mix
from tapir_exp.report.templates import render

INDEX = "index.html"


def write_sweep_report(sweep_dir: Path) -> Path:
    """Write comparison.md, .csv and .svg and index.html over the jobs below `sweep_dir`; returns index.html.

    Raises StoreError where there is no job.
    """
    sweep = load_sweep(sweep_dir)
    write_text_atomic(sweep_dir / "comparison.md", render("comparison.md.jinja", sweep=sweep, cell=CELLS))
    write_text_atomic(sweep_dir / "comparison.csv", to_csv(sweep))
    write_text_atomic(sweep_dir / "comparison.svg", standalone(draw(sweep)))
    write_text_atomic(sweep_dir / INDEX, render_page(sweep))
    return sweep_dir / INDEX


def render_page(sweep: Sweep) -> str:
    """The page of a sweep, self-contained, from what its jobs left and without a call."""
    found = accuracies_by_round(sweep.arms)
    return render(
        "sweep/page.html.jinja",
        sweep=sweep,
        cell=CELLS,
        chart=Markup(draw(sweep)),
        narrow=Markup(draw(sweep, charts.NARROW)),
        courses=found,
        panels=[Markup(svg) for svg in panels(found)],
        mix=task_mix(sweep.arms),
        beside=side_by_side(sweep.arms),
        spend=spend_by_arm(sweep.arms),
    )


def draw(sweep: Sweep, width: int = charts.WIDE) -> str:
    """The dot-and-interval plot of the rows."""
    rows = [
        charts.Dot(
            label=row.label,
            mean=row.accuracy.mean if row.accuracy else None,
            low=row.accuracy.low if row.accuracy else None,
            high=row.accuracy.high if row.accuracy else None,
            values=tuple(row.values.values()),
            note=cell_accuracy(row.accuracy),
            strong=row.label == BASELINE,
        )
        for row in sweep.rows
    ]
    axis = "macro accuracy, %" + (" · dots: seeds · bar: 95 % t interval" if width > charts.NARROW else "")
    return charts.dots(rows, f"Final macro accuracy by {sweep.subject}", axis, width)


def standalone(chart: str) -> str:
    """A chart as a file of its own, with the colours of both themes in it."""
    head, _, rest = chart.partition(">")
    style = render("chart.css.jinja") + ":root { background: var(--paper); }"
    return f"{head}><style>{style}</style>{rest}\n"
