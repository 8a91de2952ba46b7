"""What a run spent on chat models, as a file in its directory, from which the report tells it without a call."""

from collections import Counter
from pathlib import Path

from tapir_exp.core.console import console
from tapir_exp.core.records import Record
from tapir_exp.core.store import write_text_atomic
from tapir_exp.llm.failures import FailureKind
from tapir_exp.llm.ledger import FailedRequest, FailureCount, Ledger, Spend

SPEND_FILE = "spend.json"


class SpendReport(Record):
    """The ledger of one job.

    stages: by stage and role, what the job itself paid for and found in the cache, before it was stopped and since.
    scope: of all jobs that share its budget.
    """

    stages: dict[str, dict[str, Spend]]
    scope: Spend
    faults: tuple[FailureCount, ...]
    given_up: tuple[FailedRequest, ...]

    @property
    def total(self) -> Spend:
        """What the job spent in all."""
        return sum((spend for roles in self.stages.values() for spend in roles.values()), Spend())

    @property
    def failures_by_kind(self) -> dict[FailureKind, int]:
        """How many tries failed, the commonest reason first."""
        counts: Counter[FailureKind] = Counter()
        for fault in self.faults:
            counts[fault.kind] += fault.count
        return dict(counts.most_common())

    @classmethod
    def of(cls, ledger: Ledger) -> "SpendReport":
        """What a ledger holds by now."""
        return cls(
            stages=ledger.by_stage(),
            scope=ledger.spent_by_scope(),
            faults=tuple(ledger.failure_counts()),
            given_up=tuple(ledger.failed_requests()),
        )

    @classmethod
    def load(cls, run_dir: Path) -> "SpendReport | None":
        """What a run wrote down; None for one that did not come so far."""
        path = run_dir / SPEND_FILE
        return cls.model_validate_json(path.read_text()) if path.is_file() else None


def write_spend_report(ledger: Ledger, run_dir: Path) -> None:
    """Write `spend.json`, and say its sum where anything was asked."""
    spending = SpendReport.of(ledger)
    write_text_atomic(run_dir / SPEND_FILE, spending.model_dump_json(indent=1) + "\n")
    total = spending.total
    if total.calls + total.cached == 0:
        return
    usd = "a price that is not known" if total.usd is None else f"{total.usd:,.2f} USD"
    failed = "".join(f", {kind} {count}" for kind, count in spending.failures_by_kind.items())
    console.print(
        f"chat models: {total.calls:,} calls paid, {total.cached:,} from the cache, {total.tokens:,} tokens, {usd}"
        + (f"; failed tries{failed.replace(',', ':', 1)}" if failed else "")
        + (f"; {len(spending.given_up):,} requests given up (spend.json)" if spending.given_up else ""),
        soft_wrap=True,
    )
