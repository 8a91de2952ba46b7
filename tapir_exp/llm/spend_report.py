"""The spend of a run on chat models, as a file in its directory that the report reads."""

from collections import Counter
from pathlib import Path

from pydantic import ValidationError

from tapir_exp.core.console import console
from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Record
from tapir_exp.core.store import write_text_atomic
from tapir_exp.llm.failures import FailureKind
from tapir_exp.llm.ledger import FailedRequest, FailureCount, Ledger, Spend

SPEND_FILE = "spend.json"


class SpendReport(Record):
    """The ledger of one job.

    Attributes:
        stages: Spend of the job by stage and role, including what it spent before it was stopped and resumed.
        scope: Spend of all jobs that share the budget.
        faults: Failed calls by stage, role and kind.
        given_up: Requests that failed for good.
    """

    # The field names are those of the file.
    stages: dict[str, dict[str, Spend]]
    scope: Spend
    faults: tuple[FailureCount, ...]
    given_up: tuple[FailedRequest, ...]

    @property
    def total(self) -> Spend:
        """Return the spend of the job."""
        return sum((spend for roles in self.stages.values() for spend in roles.values()), Spend())

    @property
    def failures_by_kind(self) -> dict[FailureKind, int]:
        """Return the number of failed calls of each kind, most frequent first."""
        counts: Counter[FailureKind] = Counter()
        for failure in self.faults:
            counts[failure.kind] += failure.count
        return dict(counts.most_common())

    @classmethod
    def of(cls, ledger: Ledger) -> "SpendReport":
        """Return the current state of a ledger."""
        return cls(
            stages=ledger.by_stage(),
            scope=ledger.spent_by_scope(),
            faults=tuple(ledger.failure_counts()),
            given_up=tuple(ledger.failed_requests()),
        )

    @classmethod
    def load(cls, run_dir: Path) -> "SpendReport | None":
        """Load the report of a run; None if it has not been written yet.

        Raises:
            StoreError: If the file is damaged, or was written by another version.
        """
        path = run_dir / SPEND_FILE
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StoreError(
                f"{path} cannot be read ({error.error_count()} errors; the first: {error.errors()[0]['msg']}). Repeat "
                "the command of the run to write it again from the books of the store; no call is repeated."
            ) from error


def write_spend_report(ledger: Ledger, run_dir: Path) -> None:
    """Write `spend.json`, and print the total if there were any calls."""
    report = SpendReport.of(ledger)
    write_text_atomic(run_dir / SPEND_FILE, report.model_dump_json(indent=1) + "\n")
    total = report.total
    # A finished run that is repeated makes no calls.
    if total.calls + total.cached == 0:
        return
    usd = "price unknown" if total.usd is None else f"{total.usd:,.2f} USD"
    counts = report.failures_by_kind
    estimated, lost = counts.pop(FailureKind.NO_USAGE, 0), counts.pop(FailureKind.LOST, 0)
    if lost:
        usd = f"at least {usd}"
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    console.print(
        f"chat models: {total.calls:,} paid calls, {total.cached:,} from the cache, {total.tokens:,} tokens, {usd}"
        + (f"; tokens of {estimated:,} calls are estimated: the provider reports none" if estimated else "")
        + (f"; up to {lost:,} calls were in flight when the run was stopped, and may have been paid" if lost else "")
        + (f"; failed calls: {kinds}" if kinds else "")
        + (f"; {len(report.given_up):,} failed requests ({SPEND_FILE})" if report.given_up else ""),
        soft_wrap=True,
    )
