"""`tapir doctor`: check the files of a run or of a store, or everything that a run will need before it starts."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

SWEEP_FLAGS = ("-m", "--multirun", "--config-name", "--config-dir")
"""Flags of `tapir run` that stand for a configuration even without an override."""


def main(arguments: Sequence[str]) -> None:
    """Check every file of a run, of a store or of an outputs directory against what was recorded.

    With the overrides of `tapir run`, such as experiment=own_data seeds.path=mine.json, check what that run will need.
    This includes endpoints (one token each), data, student, hub, packages and disk space.

    Exit code: 0 if nothing is damaged, or everything was mended; else 1.
    """
    if any("=" in argument or argument in SWEEP_FLAGS for argument in arguments):
        _check_configuration(arguments)
        return
    options = _parser().parse_args(arguments)
    from tapir_exp.commands.doctor_job import examine, print_findings

    findings = examine(options.directory, fix=options.fix)
    print_findings(findings)
    if any(finding.problem and not finding.mended for finding in findings):
        sys.exit(1)


def _check_configuration(arguments: Sequence[str]) -> None:
    """Make the checks of every job that these arguments of `tapir run` stand for; exit with 1 if one fails."""
    from tapir_exp.commands.command_line import compose_jobs

    jobs = compose_jobs(arguments)
    from tapir_exp.core.console import Terminal
    from tapir_exp.pipeline.local_checks import print_checks, raise_problems
    from tapir_exp.pipeline.preflight import all_checks

    checks = list(dict.fromkeys(check for job in jobs for check in all_checks(job)))
    print_checks(checks, Terminal())  # stdout: the table is the result of the command
    raise_problems(checks)
    Terminal().print(f"{len(checks)} checks passed: nothing that the run needs is missing.")


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
