"""Failed calls of a run, by kind."""

from collections import Counter
from dataclasses import dataclass

from tapir_exp.llm.spend_report import SpendReport


@dataclass(frozen=True)
class FailureRow:
    """One kind of failure.

    Attributes:
        kind: Name of the kind.
        policy: What the client does about it.
        attempts: Failed attempts of this kind.
        given_up: Requests that ended without a completion because of it.
    """

    kind: str
    policy: str
    attempts: int
    given_up: int


def failure_rows(spending: SpendReport | None) -> list[FailureRow]:
    """List the kinds of failure, most frequent first; empty if the run has no spend report."""
    if spending is None:
        return []
    attempts, given_up = spending.failures_by_kind, Counter(row.kind for row in spending.given_up)
    # A reply that cannot be parsed ends a request without being a failed attempt of the transport.
    kinds = [*attempts, *(kind for kind in given_up if kind not in attempts)]
    return [FailureRow(kind, kind.policy, attempts.get(kind, 0), given_up[kind]) for kind in kinds]
