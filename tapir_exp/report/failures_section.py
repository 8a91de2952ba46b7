"""How the calls of a run failed, as the report tells it."""

from collections import Counter
from dataclasses import dataclass

from tapir_exp.llm.spend_report import SpendReport


@dataclass(frozen=True)
class FailureRow:
    """One way of failing: how many tries failed so, what is done about it, and how many requests it ended."""

    kind: str
    policy: str
    tries: int
    given_up: int


def failure_rows(spending: SpendReport | None) -> list[FailureRow]:
    """Every way in which calls of the run failed, the commonest first; none where the run wrote nothing down."""
    if spending is None:
        return []
    tries, ended = spending.faults_by_kind, Counter(row.kind for row in spending.given_up)
    kinds = [*tries, *(kind for kind in ended if kind not in tries)]
    return [FailureRow(kind, kind.policy, tries.get(kind, 0), ended[kind]) for kind in kinds]
