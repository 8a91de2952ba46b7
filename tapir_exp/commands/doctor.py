"""`tapir doctor`: check the files of a run or of a store, and mend what can be mended."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Check every file of a run, of a store or of an outputs directory against what was recorded.

    Exit code: 0 if nothing is damaged, or everything was mended; else 1.
    """
    options = _parser().parse_args(arguments)
    from tapir_exp.commands.doctor_job import examine, print_findings

    findings = examine(options.directory, fix=options.fix)
    print_findings(findings)
    if any(finding.problem and not finding.mended for finding in findings):
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tapir doctor", description=main.__doc__)
    parser.add_argument(
        "directory", type=Path, metavar="RUN_OR_STORE", help="directory of a run, an evaluation, a store, or outputs"
    )
    parser.add_argument(
        "--fix",
        action="store_true",
        help="put damaged files aside as NAME.damaged, so that the same command makes them again, and save the "
        "readable rows of a damaged call store; stop all runs first",
    )
    return parser
