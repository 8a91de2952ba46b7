"""Every way of failing, alone and mixed, seldom and often: all rows, or an error with the table of reasons."""

import re

import pytest
from faulty import FAULTS, TIMEOUT_S, Faulty, read_whole
from loopback import request
from serving import serving

from tapir_exp.config import LLMConfig
from tapir_exp.core.errors import TooManyFailures
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.client import Client
from tapir_exp.llm.executor import RequestResult, run_requests
from tapir_exp.llm.failures import FailureKind

ROWS = 120
KINDS = {
    "429": FailureKind.RATE_LIMIT,
    "500": FailureKind.SERVER,
    "time-out": FailureKind.TIMEOUT,
    "dropped connection": FailureKind.CONNECTION,
    "HTML page": FailureKind.MALFORMED,
    "truncated JSON": FailureKind.MALFORMED,
    "empty": FailureKind.EMPTY,
    "content filter": FailureKind.FILTERED,
}
"""What the ledger calls those that the client meets; a cut or unreadable reply is met by whoever reads it."""


def ask_rows(server: Faulty, call_store: CallStore, max_failure_rate: float) -> list[RequestResult[str]]:
    config = LLMConfig(model="openai/m", api_base=server.base, timeout_s=TIMEOUT_S, concurrency=64)
    prompts = [request(f"question {n}") for n in range(ROWS)]
    chat = Client(config, "teacher", call_store)
    return run_requests(chat, prompts, read_whole, label="rows", concurrency=64, max_failure_rate=max_failure_rate)


@pytest.mark.parametrize("rate", [0.05, 0.3])
@pytest.mark.parametrize("faults", [*((fault,) for fault in FAULTS), tuple(FAULTS)], ids=" or ".join)
def test_no_row_is_ever_empty_cut_or_invented(faults: tuple[str, ...], rate: float, call_store: CallStore) -> None:
    with serving(Faulty(faults, rate)) as server, call_store.ledger.record_stage("stage"):
        outcomes = ask_rows(server, call_store, max_failure_rate=1.0)
    whole = [outcome.value == f"re: question {n}" for n, outcome in enumerate(outcomes)]
    assert all(
        good or (outcome.value is None and outcome.failure) for good, outcome in zip(whole, outcomes, strict=True)
    )
    assert len(call_store.ledger.failed_requests()) == ROWS - sum(whole)
    for fault in set(faults) & set(KINDS):
        counted = sum(row.count for row in call_store.ledger.failure_counts() if row.kind is KINDS[fault])
        assert counted >= server.committed[fault] > 0 or server.committed[fault] == 0
    if "content filter" not in faults:  # which is final
        assert sum(whole) >= (ROWS - 1 if faults[0] not in ("cut", "unreadable") else ROWS * (1 - 2 * rate**2))


@pytest.mark.parametrize("faults", [("content filter",), tuple(FAULTS)], ids=len)
def test_too_many_failures_are_an_error_with_the_table(faults: tuple[str, ...], call_store: CallStore) -> None:
    with serving(Faulty(faults, 0.9)) as server, pytest.raises(TooManyFailures) as caught:
        ask_rows(server, call_store, max_failure_rate=0.01)
    table = str(caught.value).splitlines()
    assert re.fullmatch(r"rows: \d+ of 120 rows failed, more than the allowed 1.0%:", table[0])
    assert sum(int(line.split()[0]) for line in table[1:-1] if "content filter" in line) >= 3
    assert sum(server.tries.values()) < 5 * ROWS  # and it did not ask for all of them first
