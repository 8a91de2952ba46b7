"""`tapir report`: write the page of a run, a sweep or an evaluation, or the tables of the paper."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tapir_exp.core.console import write_line
from tapir_exp.core.errors import StoreError


def main(arguments: Sequence[str]) -> None:
    """Rebuild the report of a run, a sweep or an evaluation, without a call to any model."""
    parser = argparse.ArgumentParser(prog="tapir report", description=main.__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory of a run, a sweep or an evaluation")
    text = "compare the evaluations below DIR with the published figures, in DIR/paper"
    parser.add_argument("--paper", action="store_true", help=text)
    text = "with --paper, write the cells of the tables to stdout as JSON, at full precision"
    parser.add_argument("--json", action="store_true", help=text)
    options = parser.parse_args(arguments)
    if options.json and not options.paper:
        parser.error("--json needs --paper; the other reports have their figures in metrics.jsonl and comparison.csv")
    if not options.directory.is_dir():
        raise StoreError(f"{options.directory} is not a directory; give that of a run, a sweep or an evaluation.")
    page = _write_paper(options.directory) if options.paper else _write_report(options.directory)
    write_line(json.dumps(_cells_of(page)) if options.json else str(page))


def _write_report(directory: Path) -> Path:
    from tapir_exp.core.evaluation_manifest import EVALUATION, Evaluation
    from tapir_exp.core.manifest import MANIFEST
    from tapir_exp.evals.results import write_results
    from tapir_exp.report.paper_tables import write_tables_of_sweep
    from tapir_exp.report.run_page import write_report
    from tapir_exp.report.sweep.page import write_sweep_report

    # A run and an evaluation have a manifest of their kind; a sweep has none but those of its jobs.
    if (directory / MANIFEST).is_file():
        return write_report(directory)
    if (directory / EVALUATION).is_file():
        return write_results(directory, Evaluation.load(directory).open(directory))
    write_tables_of_sweep(directory)
    return write_sweep_report(directory)


def _write_paper(directory: Path) -> Path:
    from tapir_exp.report.paper_tables import write_paper_tables

    return write_paper_tables(directory)


def _cells_of(page: Path) -> dict[str, object]:
    """Return the page of the tables with the cells of each, as its CSV has them."""
    from tapir_exp.report.paper_tables import read_cells

    return {"page": str(page), "cells": read_cells(page.parent)}
