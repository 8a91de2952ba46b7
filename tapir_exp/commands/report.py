"""`tapir report`: write the page of a run, a sweep, an evaluation, or the tables of the paper."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tapir_exp.core.errors import TapirError
from tapir_exp.core.evaluation_manifest import EVALUATION, Evaluation
from tapir_exp.core.manifest import MANIFEST
from tapir_exp.evals.results import write_results
from tapir_exp.report.run_page import write_report


def main(argv: Sequence[str] | None = None) -> None:
    """The command `tapir-report`: rebuild a run's report, a sweep's or an evaluation's, with no call to any model."""
    parser = argparse.ArgumentParser(prog="tapir-report", description=main.__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="of a run, a sweep or an evaluation")
    told = "put the evaluations below DIR beside the published figures, in DIR/paper"
    parser.add_argument("--paper", action="store_true", help=told)
    asked = parser.parse_args(argv)
    try:
        sys.stdout.write(f"{_write_paper(asked.directory) if asked.paper else _write_any(asked.directory)}\n")
    except TapirError as error:
        sys.exit(f"tapir-report: {error}")


def _write_any(directory: Path) -> Path:
    if (directory / MANIFEST).is_file():
        return write_report(directory)
    if (directory / EVALUATION).is_file():
        return write_results(directory, Evaluation.load(directory).open(directory))
    from tapir_exp.report.sweep.page import write_sweep_report  # sweep builds on this module

    return write_sweep_report(directory)


def _write_paper(directory: Path) -> Path:
    from tapir_exp.report.paper_tables import write_paper_tables  # paper builds on this module

    return write_paper_tables(directory)
