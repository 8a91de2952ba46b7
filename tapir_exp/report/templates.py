"""Rendering of the Jinja templates of the reports."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tapir_exp.core.markup import escape_markdown, escape_url
from tapir_exp.core.text import escape_controls
from tapir_exp.evals.statistics import Estimate
from tapir_exp.report import charts

REPORT = "report.html"
NONE = "–"
RARE = 0.005
"""Task types below this share that are not in the target share one row of a chart or table."""


def render(template: str, **context: object) -> str:
    """Render a template of this package; everything except charts is escaped.

    Args:
        template: Path of the template, relative to the package.
        **context: Variables of the template.
    """
    return _environment().get_template(template).render(**context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        # Markdown and LaTeX must not contain HTML entities.
        autoescape=lambda name: name is None or not name.endswith((".md.jinja", ".tex.jinja")),
        undefined=StrictUndefined,  # a misspelt field is an error, not an empty cell
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(FILTERS, md=escape_markdown, url=escape_url)
    return environment


def student_name(number: int) -> str:
    """Return S with the round as a subscript."""
    return "S" + "".join(chr(0x2080 + int(digit)) for digit in str(number))


def _or_none(show: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: NONE if value is None else show(value)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _plain(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _accuracy(estimate: Estimate) -> str:
    error = "" if estimate.error is None else f" ± {estimate.error * 100:.1f}"
    return f"{estimate.mean * 100:.1f}{error}"


FILTERS: dict[str, Callable[[Any], str]] = {
    "count": _or_none(lambda n: f"{n:,}".replace(",", "\u202f")),  # thousands apart by a narrow no-break space
    "whole": _or_none(lambda value: f"{value:,.0f}".replace(",", "\u202f")),
    "rate": _or_none(lambda value: f"{value:.2g}"),
    "percent": _or_none(lambda share: f"{share * 100:.1f} %"),
    "decimal": _or_none(lambda value: f"{value:.2f}"),
    "signed": _or_none(_signed),
    "plain": _or_none(_plain),
    "loss": _or_none(lambda value: f"{value:.3f}"),
    "usd": _or_none(lambda value: f"${value:.4f}" if value < 1 else f"${value:.2f}"),
    "compact": _or_none(charts.compact),
    "accuracy": _or_none(_accuracy),
    "figure": _or_none(lambda value: f"{value:.4g}"),
    "duration": _duration,
    "student": student_name,
    "visible": _or_none(escape_controls),
}
