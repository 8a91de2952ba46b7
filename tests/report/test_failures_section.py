"""Table of failed calls: each kind once, with its failed attempts and failed requests."""

from tapir_exp.llm.failures import FailureKind
from tapir_exp.llm.ledger import FailedRequest, FailureCount, Spend
from tapir_exp.llm.spend_report import SpendReport
from tapir_exp.report.failures_section import FailureRow, failure_rows


def failure_count(kind: FailureKind, count: int, stage: str = "task_labels") -> FailureCount:
    return FailureCount(stage=stage, role="judge", kind=kind, count=count)


def failed_request(kind: FailureKind, key: str) -> FailedRequest:
    return FailedRequest(stage="task_labels", role="judge", key=key, kind=kind, detail="detail", raw="raw reply")


def test_failure_rows_sum_attempts_and_requests_over_stages() -> None:
    faults = (
        failure_count(FailureKind.TIMEOUT, 2),
        failure_count(FailureKind.SERVER, 3),
        failure_count(FailureKind.SERVER, 4, stage="train_mix-1"),
    )
    given_up = (
        failed_request(FailureKind.SERVER, "a"),
        failed_request(FailureKind.UNREADABLE, "b"),
        failed_request(FailureKind.UNREADABLE, "c"),
    )
    rows = failure_rows(SpendReport(stages={}, scope=Spend(), faults=faults, given_up=given_up))
    assert rows == [
        FailureRow(FailureKind.SERVER, FailureKind.SERVER.policy, 7, 1),
        FailureRow(FailureKind.TIMEOUT, FailureKind.TIMEOUT.policy, 2, 0),
        FailureRow(FailureKind.UNREADABLE, FailureKind.UNREADABLE.policy, 0, 2),
    ]


def test_failure_rows_without_a_spend_report_are_empty() -> None:
    assert failure_rows(None) == []
