"""The command `tapir-replies`: read, export and prune what the chat models have answered, without a single call."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tapir_exp.config import SpendConfig
from tapir_exp.core.errors import StoreError, TapirError
from tapir_exp.llm import ledger, response_cache
from tapir_exp.llm.call_store import calls_file
from tapir_exp.llm.ledger import FailedRequest, Ledger, scopes_with_failures
from tapir_exp.llm.response_cache import CacheSummary, ResponseCache
from tapir_exp.llm.sqlite import Database


class FailureLine(FailedRequest):
    """A request that was given up, and the directory of the run that asked it."""

    run: str


def list_replies(database: Database) -> None:
    """By model: how many replies, the days of the first and the last, and their size with their requests."""
    table = Table("model", "replies", "first", "last", "million characters")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for held in ResponseCache(database).holdings():
        table.add_row(*_told(held))
    Console(highlight=False).print(table)


def export_replies(database: Database, model: str | None) -> None:
    """Every reply with its request, one JSON object a line, one at a time."""
    for entry in ResponseCache(database).entries(model):
        sys.stdout.write(entry.model_dump_json() + "\n")


def prune_replies(database: Database, model: str | None, before: float | None, *, sure: bool) -> None:
    """Forget replies where one is sure; else say how many it would be."""
    replies = ResponseCache(database)
    if not sure:
        sys.stdout.write(f"{replies.count(model, before)} replies would be forgotten; --yes forgets them.\n")
        return
    sys.stdout.write(f"{replies.prune(model, before)} replies forgotten.\n")


def list_failures(database: Database, run: Path | None) -> None:
    """The requests that brought nothing, with the reason and what was said last, one JSON object a line."""
    for account in scopes_with_failures(database):
        place = Path(account.scope, account.job)
        if run is not None and place.resolve() != run.resolve():
            continue
        for row in Ledger(database, account, SpendConfig()).given_up():
            sys.stdout.write(FailureLine(run=str(place), **row.model_dump()).model_dump_json() + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """The command `tapir-replies`: list, export and prune the replies of a store, with no call to any model."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "prune" and not arguments.all and {arguments.model, arguments.before} == {None}:
        parser.error("prune without --model or --before would forget everything; --all says that this is meant")
    try:
        with _opened(arguments.store) as database:
            _carry_out(arguments, database)
    except TapirError as error:
        sys.exit(f"tapir-replies: {error}")
    except BrokenPipeError:  # whoever reads has seen enough; what is still to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _carry_out(arguments: argparse.Namespace, database: Database) -> None:
    match arguments.command:
        case "list":
            list_replies(database)
        case "export":
            export_replies(database, arguments.model)
        case "prune":
            prune_replies(database, arguments.model, arguments.before, sure=arguments.yes)
        case "failures":
            list_failures(database, arguments.run)


@contextmanager
def _opened(store: Path) -> Iterator[Database]:
    """The file of replies in a store. Raises StoreError where there is none."""
    path = calls_file(store)
    if not path.is_file():
        raise StoreError(f"{path} is not there; name the store of an outputs directory, as in --store outputs/store.")
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
    parser = argparse.ArgumentParser(prog="tapir-replies", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[store], help="how many replies there are, by model")
    commands.add_parser("export", parents=[store, model], help="replies with their requests, as JSON lines")
    prune = commands.add_parser("prune", parents=[store, model], help="forget replies, which are then paid anew")
    prune.add_argument(
        "--before", type=_day, metavar="DATE", help="only what was asked before this day, YYYY-MM-DD, UTC"
    )
    prune.add_argument("--all", action="store_true", help="all replies, where no model and no day is given")
    prune.add_argument("--yes", action="store_true", help="do it; without, only say how many")
    failures = commands.add_parser("failures", parents=[store], help="requests that brought nothing, as JSON lines")
    failures.add_argument("--run", type=Path, metavar="DIR", help="only those of this run directory")
    return parser


def _day(text: str) -> float:
    """The beginning of a day, in seconds since 1970."""
    try:
        return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it as 2026-11-25") from None


def _told(held: CacheSummary) -> list[str]:
    first, last = (datetime.fromtimestamp(when, UTC).date().isoformat() for when in (held.first, held.last))
    return [held.model, str(held.replies), first, last, f"{held.characters / 1e6:.1f}"]
