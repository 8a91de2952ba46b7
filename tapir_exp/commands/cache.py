"""`tapir cache`: list, export, prune and compact the cached completions of chat models, without a call."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

from rich.table import Table

from tapir_exp.config import SpendConfig
from tapir_exp.core.console import Terminal, write_line
from tapir_exp.core.errors import StoreError
from tapir_exp.llm import ledger, response_cache
from tapir_exp.llm.call_store import calls_file
from tapir_exp.llm.call_store_repair import refuse_running
from tapir_exp.llm.compaction import return_space, rewrite_earlier
from tapir_exp.llm.ledger import FailedRequest, Ledger, scopes_with_failures
from tapir_exp.llm.response_cache import CacheSummary, ResponseCache
from tapir_exp.llm.sqlite import Database


class FailureLine(FailedRequest):
    """A failed request, and the directory of the run that made it."""

    run: str


def print_summary(database: Database) -> None:
    """Print by model: number of completions, first and last day, and size with their requests."""
    table = Table("model", "completions", "first", "last", "M chars")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for summary in ResponseCache(database).summaries():
        table.add_row(*_cells(summary))
    Terminal().print(table)


def export_entries(database: Database, model: str | None) -> None:
    """Write every completion with its request to stdout, one JSON object a line."""
    for entry in ResponseCache(database).entries(model):
        write_line(entry.model_dump_json())


def prune_entries(database: Database, model: str | None, before: float | None, *, confirmed: bool) -> None:
    """Delete completions if confirmed; otherwise print how many would be deleted.

    Args:
        database: The call store.
        model: Only completions of this model; None for all.
        before: Only requests made before this time, in seconds since 1970; None for all.
        confirmed: Whether to delete.
    """
    cache = ResponseCache(database)
    if not confirmed:
        sys.stdout.write(f"{cache.count(model, before)} completions would be deleted; --yes deletes them.\n")
        return
    sys.stdout.write(f"{cache.prune(model, before)} completions deleted.\n")
    try:
        freed = return_space(database)
    except StoreError as error:
        write_line(f"Their space is used for new completions, but not returned to the disk: {error}")
    else:
        sys.stdout.write(f"{freed / 1e6:,.1f} MB returned to the disk.\n")


def compact_entries(database: Database) -> None:
    """Rewrite completions of earlier versions, which take more space, and return unused space to the disk."""
    refuse_running(database.path.parent)
    count = rewrite_earlier(database)
    sys.stdout.write(f"{count} completions rewritten; {return_space(database) / 1e6:,.1f} MB returned to the disk.\n")


def export_failures(database: Database, run: Path | None) -> None:
    """Write failed requests with reason and last reply to stdout, one JSON object a line."""
    for scope in scopes_with_failures(database):
        # The scope of a sweep is its directory, with the job as a subdirectory; that of a run is the run itself.
        directory = Path(scope.scope, scope.job)
        if run is not None and directory.resolve() != run.resolve():
            continue
        for request in Ledger(database, scope, SpendConfig()).failed_requests():
            line = FailureLine(run=str(directory), **request.model_dump())
            write_line(line.model_dump_json())


def main(arguments: Sequence[str]) -> None:
    """List, export, prune and compact the completions in a store, without a call to any model."""
    parser = _parser()
    options = parser.parse_args(arguments)
    # Completions were paid for, so that deleting all of them must be explicit.
    if options.action == "prune" and not options.all and {options.model, options.before} == {None}:
        parser.error("prune without --model or --before would delete everything; add --all if that is meant")
    try:
        with _open_database(options.store) as database:
            _dispatch(options, database)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has stopped; Python's flush at exit must not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(options: argparse.Namespace, database: Database) -> None:
    match options.action:
        case "list":
            print_summary(database)
        case "export":
            export_entries(database, options.model)
        case "prune":
            prune_entries(database, options.model, options.before, confirmed=options.yes)
        case "compact":
            compact_entries(database)
        case "failures":
            export_failures(database, options.run)


@contextmanager
def _open_database(store: Path) -> Iterator[Database]:
    """Open the call store of an outputs directory.

    Raises:
        StoreError: If there is none.
    """
    path = calls_file(store)
    # Opening would create the file; a mistyped directory must not leave an empty store.
    if not path.is_file():
        raise StoreError(f"{path} does not exist; give the store of an outputs directory, as in --store outputs/store.")
    database = Database(path, response_cache.SCHEMA + ledger.SCHEMA, durable=True)
    try:
        yield database
    finally:
        database.close()


def _parser() -> argparse.ArgumentParser:
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("--store", type=Path, default=Path("outputs/store"), metavar="DIR", help="default: %(default)s")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", help="only this model, as `list` names it")
    parser = argparse.ArgumentParser(prog="tapir cache", description=main.__doc__)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", parents=[store], help="number of completions by model")
    actions.add_parser("export", parents=[store, model], help="completions with their requests, as JSON lines")
    prune = actions.add_parser("prune", parents=[store, model], help="delete completions; they are then paid for again")
    prune.add_argument(
        "--before", type=_parse_day, metavar="DATE", help="only requests made before this day, YYYY-MM-DD, UTC"
    )
    prune.add_argument("--all", action="store_true", help="all completions, if neither model nor day is given")
    prune.add_argument("--yes", action="store_true", help="delete; without this, only the number is printed")
    actions.add_parser("compact", parents=[store], help="rewrite completions of earlier versions in less space")
    failures = actions.add_parser("failures", parents=[store], help="failed requests, as JSON lines")
    failures.add_argument("--run", type=Path, metavar="DIR", help="only those of this run directory")
    return parser


def _parse_day(text: str) -> float:
    """Return the start of a day, in seconds since 1970."""
    try:
        return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; expected YYYY-MM-DD, such as 2026-11-25") from None


def _cells(summary: CacheSummary) -> list[str]:
    first, last = (datetime.fromtimestamp(time, UTC).date().isoformat() for time in (summary.first, summary.last))
    return [summary.model, str(summary.replies), first, last, f"{summary.characters / 1e6:.1f}"]
