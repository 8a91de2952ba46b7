"""The table of failed calls: every kind once, with what was tried and what was given up."""

from tapir_exp.llm.failures import FailureKind
from tapir_exp.llm.ledger import FailedRequest, FailureCount, Spend
from tapir_exp.llm.spend_report import SpendReport
from tapir_exp.report.failures_section import FailureRow, failure_rows


def fault(kind: FailureKind, count: int, stage: str = "task_labels") -> FailureCount:
    return FailureCount(stage=stage, role="judge", kind=kind, count=count)


def lost(kind: FailureKind, key: str) -> FailedRequest:
    return FailedRequest(stage="task_labels", role="judge", key=key, kind=kind, detail="why", raw="hm")


def test_tries_of_all_stages_are_summed_and_stand_beside_what_they_ended() -> None:
    faults = (
        fault(FailureKind.TIMEOUT, 2),
        fault(FailureKind.SERVER, 3),
        fault(FailureKind.SERVER, 4, stage="train_mix-1"),
    )
    given_up = (lost(FailureKind.SERVER, "a"), lost(FailureKind.UNREADABLE, "b"), lost(FailureKind.UNREADABLE, "c"))
    rows = failure_rows(SpendReport(stages={}, scope=Spend(), faults=faults, given_up=given_up))
    assert rows == [
        FailureRow("server error", FailureKind.SERVER.policy, 7, 1),
        FailureRow("time-out", FailureKind.TIMEOUT.policy, 2, 0),
        FailureRow("unreadable reply", FailureKind.UNREADABLE.policy, 0, 2),
    ]


def test_a_run_that_wrote_nothing_down_has_no_rows() -> None:
    assert failure_rows(None) == []
