"""Write the report of a sweep: an HTML page, and the comparison as Markdown, CSV and SVG."""

from pathlib import Path

from markupsafe import Markup

from tapir_exp.core.store import write_text_atomic
from tapir_exp.report import charts
from tapir_exp.report.sweep.comparison import Sweep, load_sweep
from tapir_exp.report.sweep.csv_table import runs_to_csv, to_csv
from tapir_exp.report.sweep.curriculum_section import rounds_of_arms
from tapir_exp.report.sweep.formatting import CELLS, cell_accuracy
from tapir_exp.report.sweep.rounds_section import accuracies_by_round, draw_panels
from tapir_exp.report.sweep.samples_section import sample_responses
from tapir_exp.report.sweep.search_section import draw_course, draw_front, load_search
from tapir_exp.report.sweep.setting_curve import draw_curve
from tapir_exp.report.sweep.setting_map import draw_maps
from tapir_exp.report.sweep.spend_section import spend_by_arm
from tapir_exp.report.sweep.task_mix_section import task_mix
from tapir_exp.report.templates import render

INDEX = "index.html"
PAPER = "paper/index.html"
"""Page of the paper's tables, if jobs were evaluated."""


def write_sweep_report(sweep_dir: Path) -> Path:
    """Write the comparison as Markdown, CSV and SVG, runs.csv and index.html, and return the path of index.html.

    A sweep over the values of one number has its curve in curve.svg, too.

    Raises:
        StoreError: There is no job below `sweep_dir`.
    """
    sweep = load_sweep(sweep_dir)
    write_text_atomic(sweep_dir / "comparison.md", render("comparison.md.jinja", sweep=sweep, cell=CELLS))
    write_text_atomic(sweep_dir / "comparison.csv", to_csv(sweep))
    write_text_atomic(sweep_dir / "runs.csv", runs_to_csv(sweep))
    write_text_atomic(sweep_dir / "comparison.svg", standalone_svg(draw_comparison(sweep)))
    if curve := draw_curve(sweep):
        write_text_atomic(sweep_dir / "curve.svg", standalone_svg(curve))
    write_text_atomic(sweep_dir / INDEX, render_page(sweep))
    return sweep_dir / INDEX


def render_page(sweep: Sweep) -> str:
    """Render the page of a sweep, which loads no other file."""
    by_round = accuracies_by_round(sweep.arms)
    search = load_search(sweep.path)
    return render(
        "sweep/page.html.jinja",
        sweep=sweep,
        cell=CELLS,
        # Charts are our own SVG, with their labels escaped already.
        chart=Markup(draw_comparison(sweep)),
        narrow=Markup(draw_comparison(sweep, charts.NARROW)),
        curve=Markup(draw_curve(sweep)),
        maps=[Markup(svg) for svg in draw_maps(sweep)],
        search=search,
        course=Markup(draw_course(search)),
        front=Markup(draw_front(search)),
        by_round=by_round,
        curriculum=rounds_of_arms(sweep.arms),
        panels=[Markup(svg) for svg in draw_panels(by_round, sweep.baseline)],
        mix=task_mix(sweep.arms),
        samples=sample_responses(sweep.arms),
        spend=spend_by_arm(sweep.arms),
        paper=PAPER if (sweep.path / PAPER).is_file() else None,
    )


def draw_comparison(sweep: Sweep, width: int = charts.WIDE) -> str:
    """Draw the dot-and-interval plot of the rows as SVG."""
    rows = [
        charts.Dot(
            label=row.label,
            mean=row.accuracy.mean if row.accuracy else None,
            low=row.accuracy.low if row.accuracy else None,
            high=row.accuracy.high if row.accuracy else None,
            values=tuple(row.accuracy_by_seed.values()),
            note=cell_accuracy(row.accuracy),
            strong=row.label == sweep.baseline,
        )
        for row in sweep.rows
    ]
    # The narrow chart, for telephones, has no room for the legend.
    axis = "macro accuracy, %" + (" · dots: seeds · bar: 95 % t interval" if width > charts.NARROW else "")
    return charts.dots(rows, f"Final macro accuracy by {sweep.subject}", axis, width)


def standalone_svg(chart: str) -> str:
    """Return a chart as the text of an SVG file, with the colours of both themes embedded."""
    # The page has the colours in its own style sheet; a file needs them inside the svg element.
    head, _, rest = chart.partition(">")
    style = render("chart.css.jinja") + ":root { background: var(--paper); }"
    return f"{head}><style>{style}</style>{rest}\n"
