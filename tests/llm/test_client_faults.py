"""Client and executor against a faulty server: each kind of failure, alone and mixed, at two rates."""

import re
from collections import Counter

import pytest
from faulty import FAULTS, TIMEOUT_S, FaultyServer, parse_whole
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
"""Kinds of the failures that the client detects; cut and unreadable replies are detected by the parser."""


def run_rows(server: FaultyServer, call_store: CallStore, max_failure_rate: float) -> list[RequestResult[str]]:
    config = LLMConfig(model="openai/m", api_base=server.base, timeout_s=TIMEOUT_S, concurrency=64)
    prompts = [request(f"question {n}") for n in range(ROWS)]
    chat = Client(config, "teacher", call_store)
    return run_requests(chat, prompts, parse_whole, label="rows", concurrency=64, max_failure_rate=max_failure_rate)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.05, 0.3])
@pytest.mark.parametrize("faults", [*((fault,) for fault in FAULTS), tuple(FAULTS)], ids=" or ".join)
def test_every_row_is_correct_or_failed(faults: tuple[str, ...], rate: float, call_store: CallStore) -> None:
    with serving(FaultyServer(faults, rate)) as server, call_store.ledger.record_stage("stage"):
        results = run_rows(server, call_store, max_failure_rate=1.0)
    correct = [result.value == f"re: question {n}" for n, result in enumerate(results)]
    failed = [result.value is None and bool(result.failure) for result in results]
    assert [not row for row in correct] == failed
    assert len(call_store.ledger.failed_requests()) == ROWS - sum(correct)
    counts: Counter[FailureKind] = Counter()
    for row in call_store.ledger.failure_counts():
        counts[row.kind] += row.count
    # On a busy machine a response can arrive after the client's time-out, which then hides the server's failure.
    late = max(0, counts[FailureKind.TIMEOUT] - server.committed["time-out"])
    for fault in set(faults) & set(KINDS):
        assert counts[KINDS[fault]] + late >= server.committed[fault]
    if "content filter" not in faults:  # which is not retried
        assert sum(correct) >= (ROWS - 1 if faults[0] not in ("cut", "unreadable") else ROWS * (1 - 2 * rate**2))


@pytest.mark.slow
@pytest.mark.parametrize("faults", [("content filter",), tuple(FAULTS)], ids=len)
def test_too_many_failures_raise_with_table(faults: tuple[str, ...], call_store: CallStore) -> None:
    with serving(FaultyServer(faults, 0.9)) as server, pytest.raises(TooManyFailures) as caught:
        run_rows(server, call_store, max_failure_rate=0.01)
    table = str(caught.value).splitlines()
    assert re.fullmatch(r"rows: \d+ of 120 rows failed, more than the allowed 1.0%:", table[0])
    assert sum(int(line.split()[0]) for line in table[1:-1] if "content filter" in line) >= 3
    assert sum(server.attempts.values()) < 5 * ROWS  # it stopped before the end
