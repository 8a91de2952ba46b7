"""`tapir report`: write the page of a run, a sweep or an evaluation, or the tables of the paper."""

import argparse
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
    options = parser.parse_args(arguments)
    if not options.directory.is_dir():
        raise StoreError(f"{options.directory} is not a directory; give that of a run, a sweep or an evaluation.")
    page = _write_paper(options.directory) if options.paper else _write_report(options.directory)
    write_line(str(page))


def _write_report(directory: Path) -> Path:
    from tapir_exp.core.evaluation_manifest import EVALUATION, Evaluation
    from tapir_exp.core.manifest import MANIFEST
    from tapir_exp.evals.results import write_results
    from tapir_exp.report.run_page import write_report
    from tapir_exp.report.sweep.page import write_sweep_report

    # A run and an evaluation have a manifest of their kind; a sweep has none but those of its jobs.
    if (directory / MANIFEST).is_file():
        return write_report(directory)
    if (directory / EVALUATION).is_file():
        return write_results(directory, Evaluation.load(directory).open(directory))
    return write_sweep_report(directory)


def _write_paper(directory: Path) -> Path:
    from tapir_exp.report.paper_tables import write_paper_tables

    return write_paper_tables(directory)
