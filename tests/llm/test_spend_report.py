"""The spend of a run as a file and as a printed line."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tapir_exp.config import SpendConfig
from tapir_exp.core.errors import StoreError
from tapir_exp.llm import spend_report
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import Usage
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.ledger import Spend, SpendScope
from tapir_exp.llm.spend_report import SpendReport, write_spend_report

PAID = {"calls": 1, "cached": 0, "prompt_tokens": 5, "completion_tokens": 2, "usd": 0.25}


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Capture the console."""
    out = io.StringIO()
    monkeypatch.setattr(spend_report, "console", Console(file=out, highlight=False))
    return out


def spend(call_store: CallStore) -> None:
    ledger = call_store.ledger
    with ledger.record_stage("task_labels"):
        ledger.record_paid("teacher", Usage(prompt_tokens=5, completion_tokens=2, usd=0.25))
        ledger.record_cached("judge")
        for kind in (FailureKind.EMPTY, FailureKind.SERVER, FailureKind.SERVER):
            ledger.record_failure("teacher", kind)
        ledger.record_failed("teacher", "k", CallError(FailureKind.UNREADABLE, "no number", raw="siebenund\u2028"))


def test_report_file_holds_all_counts(call_store: CallStore, tmp_path: Path, output: io.StringIO) -> None:
    spend(call_store)
    write_spend_report(call_store.ledger, tmp_path)
    nothing = dict.fromkeys(PAID, 0)
    assert json.loads((tmp_path / "spend.json").read_text()) == {
        "stages": {"task_labels": {"judge": {**nothing, "cached": 1, "usd": 0.0}, "teacher": PAID}},
        "scope": {**PAID, "cached": 1},
        "faults": [
            {"stage": "task_labels", "role": "teacher", "kind": "empty reply", "count": 1},
            {"stage": "task_labels", "role": "teacher", "kind": "server error", "count": 2},
        ],
        "given_up": [
            {"stage": "task_labels", "role": "teacher", "key": "k", "kind": "unreadable reply", "detail": "no number"}
            | {"raw": "siebenund\u2028"}
        ],
    }
    assert SpendReport.load(tmp_path) == SpendReport.of(call_store.ledger)


def test_total_is_printed_on_one_line(call_store: CallStore, tmp_path: Path, output: io.StringIO) -> None:
    spend(call_store)
    write_spend_report(call_store.ledger, tmp_path)
    assert output.getvalue() == (
        "chat models: 1 paid calls, 1 from the cache, 7 tokens, 0.25 USD; failed calls: server error 2, empty reply 1; "
        "1 failed requests (spend.json)\n"
    )


def test_unknown_price_is_printed(call_store: CallStore, tmp_path: Path, output: io.StringIO) -> None:
    call_store.ledger.record_paid("teacher", Usage(prompt_tokens=5, completion_tokens=2, usd=None))
    write_spend_report(call_store.ledger, tmp_path)
    assert output.getvalue() == ("chat models: 1 paid calls, 0 from the cache, 7 tokens, price unknown\n")


def test_scope_includes_other_jobs_stages_do_not(tmp_path: Path) -> None:
    first, second = (CallStore(tmp_path / "call_store", SpendScope("sweep", job), SpendConfig()) for job in "12")
    for call_store, calls in ((first, 1), (second, 2)):
        with call_store.ledger.record_stage("task_labels"):
            for _ in range(calls):
                call_store.ledger.record_paid("teacher", Usage(prompt_tokens=1, completion_tokens=1, usd=None))
    spend_report = SpendReport.of(first.ledger)
    assert spend_report.total == Spend(calls=1, prompt_tokens=1, completion_tokens=1, usd=None)
    assert spend_report.scope == Spend(calls=3, prompt_tokens=3, completion_tokens=3, usd=None)
    first.close()
    second.close()


def test_no_calls_print_nothing(call_store: CallStore, tmp_path: Path, output: io.StringIO) -> None:
    assert SpendReport.load(tmp_path) is None
    write_spend_report(call_store.ledger, tmp_path)
    assert output.getvalue() == ""
    spend_report = SpendReport.load(tmp_path)
    assert spend_report is not None
    assert (spend_report.stages, spend_report.total, spend_report.failures_by_kind) == ({}, Spend(), {})


def test_calls_in_flight_at_a_stop_make_price_a_lower_bound(
    call_store: CallStore, tmp_path: Path, output: io.StringIO
) -> None:
    call_store.ledger.record_paid("teacher", Usage(prompt_tokens=5, completion_tokens=2, usd=0.25))
    call_store.ledger.record_failure("teacher", FailureKind.LOST)
    call_store.ledger.record_lost(SpendScope("run"), 2)
    write_spend_report(call_store.ledger, tmp_path)
    assert "7 tokens, at least 0.25 USD; up to 3 calls were in flight when the run was stopped" in output.getvalue()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"stages": 3}'])
def test_damaged_file_names_the_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spend.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"spend\.json cannot be read .*no call is repeated"):
        SpendReport.load(tmp_path)
