"""Ledger: spend, failures, and the budget that jobs and processes share."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapir_exp.config import SpendConfig
from tapir_exp.core.errors import BudgetSpent, StoreError
from tapir_exp.llm.chat import Usage
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.ledger import SCHEMA, Ledger, Spend, SpendScope, repair_spend
from tapir_exp.llm.sqlite import Database

RUN = SpendScope("run")
Open = Callable[..., Ledger]

SPENDER = """
import sys
from pathlib import Path
from tapir_exp.config import SpendConfig
from tapir_exp.core.errors import BudgetSpent, StoreError
from tapir_exp.llm.chat import Usage
from tapir_exp.llm.sqlite import Database
from tapir_exp.llm.ledger import SCHEMA, SpendScope, Ledger
database = Database(Path(sys.argv[1]), SCHEMA, durable=False)
ledger = Ledger(database, SpendScope("sweep", sys.argv[2]), SpendConfig(max_calls=300))
paid = 0
try:
    while True:
        ledger.check()
        ledger.record_paid("teacher", Usage(prompt_tokens=1, completion_tokens=1, usd=0.5))
        ledger.flush()
        paid += 1
except BudgetSpent:
    print(paid)
"""


@pytest.fixture
def open_ledger(tmp_path: Path) -> Iterator[Open]:
    """Return a factory of ledgers, each like that of a separate process."""
    databases: list[Database] = []

    def open_connection(scope: SpendScope = RUN, **budget: float) -> Ledger:
        databases.append(Database(tmp_path / "calls.sqlite", SCHEMA, durable=False))
        return Ledger(databases[-1], scope, SpendConfig(**budget))  # type: ignore[arg-type]

    yield open_connection
    for database in databases:
        database.close()


def usage(usd: float | None = 0.25) -> Usage:
    return Usage(prompt_tokens=100, completion_tokens=10, usd=usd)


def test_spend_is_recorded_by_stage_and_role(open_ledger: Open) -> None:
    ledger = open_ledger()
    with ledger.record_stage("task_labels"):
        ledger.record_paid("teacher", usage())
        ledger.record_cached("teacher")
    with ledger.record_stage("verdicts-1"):
        ledger.record_paid("teacher", usage())
        ledger.record_paid("judge", usage(0.5))
    one = Spend(calls=1, prompt_tokens=100, completion_tokens=10, usd=0.25)
    assert ledger.by_stage() == {
        "task_labels": {"teacher": one.model_copy(update={"cached": 1})},
        "verdicts-1": {"judge": one.model_copy(update={"usd": 0.5}), "teacher": one},
    }
    assert ledger.spent_by_scope() == Spend(calls=3, cached=1, prompt_tokens=300, completion_tokens=30, usd=1.0)
    assert ledger.spent_by_scope().tokens == 330


def test_record_stage_yields_current_spend(open_ledger: Open) -> None:
    ledger = open_ledger()
    with ledger.record_stage("task_labels") as first:
        ledger.record_paid("teacher", usage(0.1))
        ledger.flush()
        ledger.record_cached("teacher")
        assert first == {"teacher": Spend(calls=1, cached=1, prompt_tokens=100, completion_tokens=10, usd=0.1)}
    with ledger.record_stage("verdicts") as second:
        ledger.record_cached("judge")
        assert second == {"judge": Spend(cached=1)}
    assert first["teacher"].calls == 1


def test_spend_of_failed_stage_is_recorded(open_ledger: Open) -> None:
    ledger = open_ledger()

    def spend_and_fail() -> None:
        with ledger.record_stage("task_labels"):
            ledger.record_paid("teacher", usage())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        spend_and_fail()
    assert open_ledger().by_stage()["task_labels"]["teacher"].calls == 1


def test_unknown_price_makes_total_unknown(open_ledger: Open) -> None:
    ledger = open_ledger()
    with ledger.record_stage("task_labels") as spent:
        ledger.record_paid("teacher", usage())
        ledger.record_paid("judge", usage(None))
    assert (spent["teacher"].usd, spent["judge"].usd) == (0.25, None)
    assert ledger.spent_by_scope() == Spend(calls=2, prompt_tokens=200, completion_tokens=20, usd=None)
    with ledger.record_stage("later") as later:
        ledger.record_cached("judge")
    assert later["judge"] == Spend(cached=1, usd=0.0)


def test_unknown_price_stays_unknown_on_disk(open_ledger: Open) -> None:
    ledger = open_ledger()
    for usd in (0.25, None, 0.25):
        ledger.record_paid("teacher", usage(usd))
        ledger.flush()
    assert open_ledger().spent_by_scope() == Spend(calls=3, prompt_tokens=300, completion_tokens=30, usd=None)


def test_prices_sum_without_float_noise(open_ledger: Open) -> None:
    ledger = open_ledger()
    for _ in range(3):
        ledger.record_paid("teacher", usage(0.1))
        ledger.flush()
    assert ledger.spent_by_scope().usd == 0.3


def test_resumed_run_includes_earlier_spend(open_ledger: Open) -> None:
    for _ in range(2):
        ledger = open_ledger(max_calls=2)
        ledger.check()
        with ledger.record_stage("task_labels"):
            ledger.record_paid("teacher", usage())
            ledger.record_failure("teacher", FailureKind.SERVER)
    resumed = open_ledger(max_calls=2)
    assert resumed.by_stage()["task_labels"]["teacher"].calls == 2
    assert resumed.failure_counts()[0].count == 2
    with pytest.raises(BudgetSpent):
        resumed.check()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"max_calls": 2}, "The budget of run is spent: 2 of spend.max_calls=2."),
        ({"max_tokens": 220}, "The budget of run is spent: 220 of spend.max_tokens=220."),
        ({"max_usd": 0.5}, "The budget of run is spent: 0.5 of spend.max_usd=0.5."),
        ({"max_usd": 0.4, "max_calls": 9}, "with a larger spend.max_usd."),
    ],
)
def test_check_raises_when_budget_is_spent(open_ledger: Open, budget: dict[str, float], message: str) -> None:
    ledger = open_ledger(**budget)
    ledger.record_paid("teacher", usage())
    ledger.record_cached("teacher")
    ledger.flush()
    ledger.check()
    ledger.record_paid("judge", usage())
    ledger.flush()
    with pytest.raises(BudgetSpent) as caught:
        ledger.check()
    assert message in str(caught.value)


def test_check_without_budget_passes(open_ledger: Open) -> None:
    ledger = open_ledger()
    ledger.record_paid("teacher", usage(None))
    ledger.flush()
    ledger.check()


def test_usd_budget_raises_at_unknown_price(open_ledger: Open) -> None:
    ledger = open_ledger(max_usd=100.0)
    ledger.record_paid("teacher", usage(None))
    ledger.flush()
    with pytest.raises(BudgetSpent, match="an unknown price of spend"):
        ledger.check()


def test_jobs_of_scope_share_budget_only(open_ledger: Open) -> None:
    first, second, other = (
        open_ledger(SpendScope(scope, job), max_calls=2)
        for scope, job in (("sweep", "1"), ("sweep", "2"), ("else", "1"))
    )
    for ledger in (first, second):
        with ledger.record_stage("task_labels"):
            ledger.record_paid("teacher", usage())
            ledger.record_failure("teacher", FailureKind.EMPTY)
            ledger.record_failed("teacher", "k", CallError(FailureKind.EMPTY, "nothing"))
    for ledger in (first, second):
        assert ledger.by_stage()["task_labels"]["teacher"].calls == 1
        assert [row.count for row in ledger.failure_counts()] == [1]
        assert len(ledger.failed_requests()) == 1
        assert ledger.spent_by_scope().calls == 2
        with pytest.raises(BudgetSpent, match="The budget of sweep is spent"):
            ledger.check()
    other.check()
    assert (other.spent_by_scope(), other.failure_counts(), other.failed_requests()) == (Spend(), [], [])


def test_processes_share_budget(open_ledger: Open, tmp_path: Path) -> None:
    path = str(tmp_path / "calls.sqlite")
    command = [sys.executable, "-c", SPENDER, path]
    spenders = [subprocess.Popen([*command, job], stdout=subprocess.PIPE, text=True) for job in "12"]
    paid = [int(spender.communicate(timeout=60)[0]) for spender in spenders]
    assert 300 <= sum(paid) <= 301
    assert open_ledger(SpendScope("sweep")).spent_by_scope() == Spend(
        calls=sum(paid), prompt_tokens=sum(paid), completion_tokens=sum(paid), usd=sum(paid) / 2
    )


def test_failures_are_counted_by_stage_role_and_kind(open_ledger: Open) -> None:
    ledger = open_ledger()
    with ledger.record_stage("task_labels"):
        for kind in (FailureKind.SERVER, FailureKind.EMPTY, FailureKind.SERVER):
            ledger.record_failure("teacher", kind)
            ledger.flush()
        ledger.record_failure("judge", FailureKind.SERVER)
    counts = [(row.stage, row.role, row.kind, row.count) for row in open_ledger().failure_counts()]
    assert counts == [
        ("task_labels", "judge", FailureKind.SERVER, 1),
        ("task_labels", "teacher", FailureKind.EMPTY, 1),
        ("task_labels", "teacher", FailureKind.SERVER, 2),
    ]
    assert ledger.spent_by_scope() == Spend()


def test_failed_request_has_reason_and_last_reply(open_ledger: Open) -> None:
    ledger = open_ledger()
    with ledger.record_stage("task_labels"):
        ledger.record_failed("teacher", "k", CallError(FailureKind.EMPTY, "first"))
        ledger.record_failed("teacher", "k", CallError(FailureKind.UNREADABLE, "no number", raw="VII"))
    (row,) = open_ledger().failed_requests()
    assert row.model_dump() == {
        "stage": "task_labels",
        "role": "teacher",
        "key": "k",
        "kind": "unreadable reply",
        "detail": "no number",
        "raw": "VII",
    }


def test_repeated_stage_clears_failed_requests(open_ledger: Open) -> None:
    ledger = open_ledger()
    for stage in ("task_labels", "verdicts"):
        with ledger.record_stage(stage):
            ledger.record_failed("teacher", "k", CallError(FailureKind.EMPTY, "nothing"))
    with ledger.record_stage("task_labels"):
        assert [row.stage for row in ledger.failed_requests()] == ["verdicts"]


def fail_to_commit(ledger: Ledger) -> None:
    with ledger.flushed():
        raise OSError("the disk is full")


def test_counts_survive_a_failed_commit(open_ledger: Open) -> None:
    ledger, other = open_ledger(), open_ledger()
    ledger.record_paid("teacher", usage())
    ledger.record_failure("teacher", FailureKind.SERVER)
    with pytest.raises(OSError, match="full"):
        fail_to_commit(ledger)
    assert other.spent_by_scope().calls == 0
    ledger.flush()
    ledger.flush()
    assert other.spent_by_scope().calls == 1
    assert [failure.count for failure in other.failure_counts()] == [1]


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        *(("prompt_tokens", cell) for cell in (1e30, -12_000, None, "many", 1.5, 10**16, b"\xff")),
        *(("usd", cell) for cell in (-1.0, float("inf"), None, "free")),
        *(("calls", cell) for cell in (-1, None)),
        ("unpriced", -1),
    ],
)
def test_spend_that_cannot_be_true_is_named_and_mended(open_ledger: Open, column: str, cell: object) -> None:
    ledger = open_ledger(max_tokens=1000)
    ledger.record_paid("teacher", usage())
    ledger.flush()
    ledger._database.run(f"UPDATE spend SET {column} = ?", cell)
    for read in (ledger.check, ledger.spent_by_scope, ledger.by_stage):
        with pytest.raises(StoreError, match=rf"role 'teacher' cannot be read: {column} = .*`tapir doctor .* --fix`"):
            read()
    assert (repair_spend(ledger._database), repair_spend(ledger._database)) == (1, 0)
    mended = ledger.spent_by_scope()
    assert mended.usd is None
    assert mended.model_dump()[column] in (0, None) if column != "unpriced" else mended.calls == 1
    ledger.check()
