"""What a run spent, as a file for people."""

import json
from pathlib import Path

import pytest

from tapir_exp.config import SpendConfig
from tapir_exp.llm.books import Books
from tapir_exp.llm.chat import Usage
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.ledger import Account
from tapir_exp.llm.spending import write_spending


def test_all_that_was_counted_is_in_the_file(books: Books, tmp_path: Path) -> None:
    ledger = books.ledger
    with ledger.during("labels"):
        ledger.record_paid("teacher", Usage(prompt_tokens=5, completion_tokens=2, usd=0.25))
        ledger.record_cached("judge")
        ledger.record_fault("teacher", FailureKind.SERVER)
        ledger.record_given_up("teacher", "k", CallError(FailureKind.UNREADABLE, "no number", raw="siebenund\u2028"))
    path = write_spending(ledger, tmp_path)
    assert path == tmp_path / "spend.json"
    spent = {"calls": 1, "cached": 0, "prompt_tokens": 5, "completion_tokens": 2, "usd": 0.25}
    nothing = dict.fromkeys(spent, 0)
    assert json.loads(path.read_text()) == {
        "stages": {"labels": {"judge": {**nothing, "cached": 1, "usd": 0.0}, "teacher": spent}},
        "scope": {**spent, "cached": 1},
        "faults": [{"stage": "labels", "role": "teacher", "kind": "server error", "count": 1}],
        "given_up": [
            {"stage": "labels", "role": "teacher", "key": "k", "kind": "unreadable reply", "detail": "no number"}
            | {"raw": "siebenund\u2028"}
        ],
    }


def test_what_was_not_yet_written_down_is_in_it_too(books: Books, tmp_path: Path) -> None:
    books.ledger.record_cached("teacher")
    told = json.loads(write_spending(books.ledger, tmp_path).read_text())
    assert told["scope"]["cached"] == 1


def test_the_scope_is_of_all_jobs_the_stages_of_this_one(tmp_path: Path) -> None:
    first, second = (Books(tmp_path / "books", Account("sweep", job), SpendConfig()) for job in "12")
    for books, calls in ((first, 1), (second, 2)):
        with books.ledger.during("labels"):
            for _ in range(calls):
                books.ledger.record_paid("teacher", Usage(prompt_tokens=1, completion_tokens=1, usd=None))
    told = json.loads(write_spending(first.ledger, tmp_path).read_text())
    assert told["stages"]["labels"]["teacher"]["calls"] == 1
    assert (told["scope"]["calls"], told["scope"]["usd"]) == (3, None)
    first.close()
    second.close()


@pytest.mark.parametrize("turns", [1, 2])
def test_where_nothing_was_asked_nothing_is_told(books: Books, tmp_path: Path, turns: int) -> None:
    for _ in range(turns):
        path = write_spending(books.ledger, tmp_path)
    assert json.loads(path.read_text())["stages"] == {}
    assert [entry.name for entry in tmp_path.glob("spend*")] == ["spend.json"]
