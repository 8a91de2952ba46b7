"""Calls, tokens and price of the chat models by stage and role, and the budget that limits them.

The spend is stored with the completions. A budget therefore includes what the run spent before it was stopped, and
what other jobs of the same sweep spend at the same time.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from tapir_exp.config import SpendConfig
from tapir_exp.core import events
from tapir_exp.core.errors import BudgetSpent, StoreError
from tapir_exp.core.records import Record
from tapir_exp.llm.chat import Usage
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.reply_size import MAX_CHARS
from tapir_exp.llm.sqlite import Database

# Stores outlive versions: tables and columns keep their names even if the code renames the records.
SCHEMA = """
CREATE TABLE IF NOT EXISTS spend
    (scope TEXT, job TEXT, stage TEXT, role TEXT, calls INTEGER, cached INTEGER, prompt_tokens INTEGER,
     completion_tokens INTEGER, usd REAL, unpriced INTEGER, PRIMARY KEY (scope, job, stage, role)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS faults
    (scope TEXT, job TEXT, stage TEXT, role TEXT, kind TEXT, count INTEGER,
     PRIMARY KEY (scope, job, stage, role, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS given_up
    (scope TEXT, job TEXT, stage TEXT, role TEXT, key TEXT, kind TEXT, detail TEXT, raw TEXT,
     PRIMARY KEY (scope, job, stage, key)) WITHOUT ROWID;
"""

# Rows are added up: a resumed run writes to the rows of its first attempt.
ADD_SPEND = (
    "INSERT INTO spend VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
    "calls = calls + excluded.calls, cached = cached + excluded.cached, "
    "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
    "completion_tokens = completion_tokens + excluded.completion_tokens, "
    "usd = usd + excluded.usd, unpriced = unpriced + excluded.unpriced"
)
ADD_FAILURES = "INSERT INTO faults VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count"
AMOUNTS = ("calls", "cached", "prompt_tokens", "completion_tokens", "usd", "unpriced")
"""Columns of the spend table that hold amounts, in its order."""
EVENT_INTERVAL_S = 5.0
"""Least time between two events that tell the calls of a stage."""
MAX_AMOUNT = 10**15
"""Largest amount that is believed: more than all providers of the world sell in a day."""


class Spend(Record):
    """Calls and their cost.

    Attributes:
        calls: Paid calls, including those without a usable completion.
        cached: Completions that cost nothing.
        prompt_tokens: Prompt tokens of the paid calls.
        completion_tokens: Completion tokens of the paid calls.
        usd: Price of the paid calls; None if the price of any is unknown.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0

    @property
    def tokens(self) -> int:
        """Return prompt plus completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Self) -> "Spend":
        return Spend(
            calls=self.calls + other.calls,
            cached=self.cached + other.cached,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            usd=None if self.usd is None or other.usd is None else round(self.usd + other.usd, 12),
        )


class FailureCount(Record):
    """Failed calls of one kind in a stage, including calls that succeeded when retried."""

    stage: str
    role: str
    kind: FailureKind
    count: int


class FailedRequest(Record):
    """A request that failed for good, with the reason and the last reply."""

    stage: str
    role: str
    key: str
    kind: FailureKind
    detail: str
    raw: str


@dataclass(frozen=True)
class SpendScope:
    """The job that a ledger records, and the scope that shares its budget.

    Attributes:
        scope: Directory of the sweep, or of a single run.
        job: Name of the job within its sweep; empty for a single run.
    """

    scope: str
    job: str = ""


class Ledger:
    """The spend of one job, and the budget of its scope."""

    def __init__(self, database: Database, scope: SpendScope, budget: SpendConfig) -> None:
        self._database = database
        self._scope = scope
        self._budget = budget
        self._stage = ""
        self._stage_spend: defaultdict[str, Spend] = defaultdict(Spend)
        self._unwritten: defaultdict[str, Spend] = defaultdict(Spend)
        self._failures: defaultdict[tuple[str, FailureKind], int] = defaultdict(int)

    @contextmanager
    def record_stage(self, stage: str) -> Iterator[dict[str, Spend]]:
        """Record calls under a stage, and write them at the end.

        Failed requests of an earlier, stopped attempt at the stage are deleted, because the stage repeats them.

        Yields:
            The spend of the stage by role, updated with every call.
        """
        self.flush()
        self._stage, self._stage_spend = stage, defaultdict(Spend)
        job = (self._scope.scope, self._scope.job)
        self._database.run("DELETE FROM given_up WHERE scope = ? AND job = ? AND stage = ?", *job, stage)
        try:
            yield self._stage_spend
        finally:
            # Also if the stage fails: its calls were paid.
            self.flush()
            self._stage = ""

    def record_paid(self, role: str, usage: Usage) -> None:
        """Count a paid call, usable or not; the next `flush` writes it."""
        tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        self._record(role, Spend(calls=1, usd=usage.usd, **tokens))
        if usage.estimated:
            self.record_failure(role, FailureKind.NO_USAGE)

    def record_cached(self, role: str) -> None:
        """Count a completion that cost nothing: it was cached, or an identical call was in flight."""
        self._record(role, Spend(cached=1))

    def record_failure(self, role: str, kind: FailureKind) -> None:
        """Count one failed call."""
        self._failures[role, kind] += 1

    def record_lost(self, scope: SpendScope, count: int) -> None:
        """Record calls of a killed process that may have been paid; neither stage nor role is known."""
        if count:
            self._database.run(ADD_FAILURES, scope.scope, scope.job, "", "", FailureKind.LOST, count)

    def record_failed(self, role: str, key: str, error: CallError) -> None:
        """Record a request that failed for good, with the reason and the beginning of the last reply."""
        values = (*self._row_key(role), key, error.kind, error.detail[:MAX_CHARS], error.raw[:MAX_CHARS])
        self._database.run("INSERT OR REPLACE INTO given_up VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *values)

    def flush(self) -> None:
        """Write all counts since the last flush."""
        if self._unwritten or self._failures:
            with self.flushed():
                pass

    @contextmanager
    def flushed(self) -> Iterator[None]:
        """Run the block and write all counts in one transaction; if it fails, the next flush writes the counts."""
        with self._database.transaction():
            yield
            # Taken after the block, which may record calls itself.
            spends = [(*self._row_key(role), *_columns(spend)) for role, spend in self._unwritten.items()]
            failures = [(*self._row_key(role), kind, count) for (role, kind), count in self._failures.items()]
            if spends:
                self._database.run_many(ADD_SPEND, spends)
            if failures:
                self._database.run_many(ADD_FAILURES, failures)
        self._unwritten.clear()
        self._failures.clear()

    def check(self) -> None:
        """Check the budget of the scope. Calls in flight are not included, so the spend can exceed the budget slightly.

        Raises:
            BudgetSpent: If calls, tokens or USD have reached their limit.
        """
        budget = self._budget
        # The database is not read for each call of a run without a budget.
        limits = {"calls": budget.max_calls, "tokens": budget.max_tokens, "usd": budget.max_usd}
        if all(limit is None for limit in limits.values()):
            return
        spent = self._on_disk()
        used = {"calls": spent.calls, "tokens": spent.tokens, "usd": spent.usd}
        for unit, limit in limits.items():
            # An unknown price counts as spent: the budget could not be kept otherwise.
            amount = used[unit]
            if limit is not None and (amount is None or amount >= limit):
                raise BudgetSpent(
                    f"The budget of {self._scope.scope} is spent: {'an unknown price' if amount is None else amount} "
                    f"of spend.max_{unit}={limit:g}. All completions are cached: to resume, run the same command with "
                    f"a larger spend.max_{unit}."
                )

    def spent_by_scope(self) -> Spend:
        """Return the spend of all jobs of the scope, including those of other processes."""
        self.flush()
        return self._on_disk()

    def by_stage(self) -> dict[str, dict[str, Spend]]:
        """Return the spend of this job by stage and role, including what it spent before it was stopped."""
        self.flush()
        spends: defaultdict[str, dict[str, Spend]] = defaultdict(dict)
        for stage, role, spend in self._read_spend("scope = ? AND job = ?", self._scope.scope, self._scope.job):
            spends[stage][role] = spend
        return dict(spends)

    def failure_counts(self) -> list[FailureCount]:
        """Return the failed calls of this job by stage, role and kind."""
        self.flush()
        rows = self._database.run(
            "SELECT stage, role, kind, count FROM faults WHERE scope = ? AND job = ? ORDER BY stage, role, kind",
            *(self._scope.scope, self._scope.job),
        )
        return [FailureCount(stage=stage, role=role, kind=kind, count=count) for stage, role, kind, count in rows]

    def failed_requests(self) -> list[FailedRequest]:
        """Return the requests of this job that failed for good."""
        rows = self._database.run(
            "SELECT stage, role, key, kind, detail, raw FROM given_up WHERE scope = ? AND job = ? ORDER BY stage, key",
            *(self._scope.scope, self._scope.job),
        )
        names = ("stage", "role", "key", "kind", "detail", "raw")
        return [FailedRequest.model_validate(dict(zip(names, row, strict=True))) for row in rows]

    def _on_disk(self) -> Spend:
        # SQL could not add up the spend: one unknown price makes the sum unknown.
        return sum((spend for _, _, spend in self._read_spend("scope = ?", self._scope.scope)), Spend())

    def _record(self, role: str, spend: Spend) -> None:
        self._unwritten[role] += spend
        self._stage_spend[role] += spend
        events.record_sparsely(events.Kind.CALLS, EVENT_INTERVAL_S, self._stage_so_far)

    def _stage_so_far(self) -> dict[str, Any]:
        spend = sum(self._stage_spend.values(), Spend())
        return {"stage": self._stage, **spend.model_dump(include={"calls", "cached", "usd"})}

    def _row_key(self, role: str) -> tuple[str, str, str, str]:
        return self._scope.scope, self._scope.job, self._stage, role

    def _read_spend(self, where: str, *values: str) -> Iterator[tuple[str, str, Spend]]:
        rows = self._database.run(
            "SELECT stage, role, calls, cached, prompt_tokens, completion_tokens, usd, unpriced "
            f"FROM spend WHERE {where} ORDER BY job, stage, role",
            *values,
        )
        for stage, role, *cells in rows:
            yield stage, role, self._spend_of(stage, role, cells)

    def _spend_of(self, stage: str, role: str, cells: Sequence[Any]) -> Spend:
        """Return the spend of one row. Raises StoreError if a cell is no plausible amount."""
        for name, cell in zip(AMOUNTS, cells, strict=True):
            if not is_plausible_amount(name, cell):
                raise StoreError(
                    f"{self._database.path}: the spend of stage {stage!r}, role {role!r} cannot be read: {name} = "
                    f"{cell!r} is no amount. Completions are not affected. `tapir doctor {self._database.path.parent} "
                    "--fix` sets it to zero and the price to unknown; then repeat the same command."
                )
        calls, cached, prompt, completion, usd, unpriced = cells
        price = None if unpriced else round(usd, 12)  # without the noise of adding floats
        return Spend(calls=calls, cached=cached, prompt_tokens=prompt, completion_tokens=completion, usd=price)


def is_plausible_amount(column: str, cell: object) -> bool:
    """Return whether a cell of the spend table can be true: a whole number from 0, or USD from 0."""
    kinds = (int, float) if column == "usd" else (int,)
    return isinstance(cell, kinds) and 0 <= cell <= MAX_AMOUNT


def repair_spend(database: Database) -> int:
    """Set amounts that cannot be true to zero and their price to unknown; return the number of changed rows."""
    changed = 0
    with database.transaction():
        columns = ", ".join(AMOUNTS)
        rows = database.run(f"SELECT scope, job, stage, role, {columns} FROM spend").fetchall()
        for scope, job, stage, role, *cells in rows:
            kept = [cell if is_plausible_amount(name, cell) else 0 for name, cell in zip(AMOUNTS, cells, strict=True)]
            if kept == cells:
                continue
            kept[-1] = max(kept[-1], 1)
            database.run(
                f"UPDATE spend SET ({columns}) = (?, ?, ?, ?, ?, ?) "
                "WHERE scope = ? AND job = ? AND stage = ? AND role = ?",
                *kept,
                *(scope, job, stage, role),
            )
            changed += 1
    return changed


def scopes_with_failures(database: Database) -> list[SpendScope]:
    """Return the jobs with requests that failed for good."""
    return [SpendScope(*row) for row in database.run("SELECT DISTINCT scope, job FROM given_up ORDER BY scope, job")]


def _columns(spend: Spend) -> tuple[int, int, int, int, float, int]:
    tokens = spend.prompt_tokens, spend.completion_tokens
    return spend.calls, spend.cached, *tokens, spend.usd or 0.0, int(spend.usd is None)
