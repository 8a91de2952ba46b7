"""Charts as SVG text, drawn from plain data: lines, bars, dots, histograms, losses and matrices."""

from tapir_exp.report.charts.bar_chart import Group, grouped_bars
from tapir_exp.report.charts.dot_chart import Dot, dots
from tapir_exp.report.charts.histogram import gap_bins, histograms
from tapir_exp.report.charts.line_chart import Point, Series, lines
from tapir_exp.report.charts.loss_chart import FitCurve, loss_curves, smooth
from tapir_exp.report.charts.matrix_chart import matrix, reliability
from tapir_exp.report.charts.svg import NARROW, WIDE, compact, percent, spread

__all__ = [
    "NARROW",
    "WIDE",
    "Dot",
    "FitCurve",
    "Group",
    "Point",
    "Series",
    "compact",
    "dots",
    "gap_bins",
    "grouped_bars",
    "histograms",
    "lines",
    "loss_curves",
    "matrix",
    "percent",
    "reliability",
    "smooth",
    "spread",
]
