"""Calls, tokens and price of the chat models by stage and role, and the budget that limits them.

The spend is stored with the completions. A budget therefore includes what the run spent before it was stopped, and
what other jobs of the same sweep spend at the same time.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import add
from typing import Any, Self, TypeVar

from tapir_exp.config import SpendConfig
from tapir_exp.core import events
from tapir_exp.core.errors import BudgetSpent, StoreError
from tapir_exp.core.progress_lines import counted_spend
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
ADD_FAILED_REQUEST = "INSERT OR REPLACE INTO given_up VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
AMOUNTS = ("calls", "cached", "prompt_tokens", "completion_tokens", "usd", "unpriced")
"""Columns of the spend table that hold amounts, in its order."""
EVENT_INTERVAL_S = 5.0
"""Least time between two events that report the calls of a stage."""
MAX_AMOUNT = 10**15
"""Largest amount that is accepted: more than all providers of the world sell in a day."""


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


KeyT = TypeVar("KeyT", bound=Hashable)
RowKey = tuple[str, str, str, str]
"""Scope, job, stage and role."""


@dataclass
class Counts:
    """Amounts that are not written yet.

    Attributes:
        spends: Amounts in the order of `AMOUNTS`, by row of the spend.
        failures: Failed calls by row and kind.
        failed_requests: Rows of requests that failed for good.
    """

    spends: dict[RowKey, list[float]] = field(default_factory=dict)
    failures: dict[tuple[RowKey, str], int] = field(default_factory=dict)
    failed_requests: list[tuple[str, ...]] = field(default_factory=list)

    def add_spend(self, row: RowKey, amounts: Sequence[float]) -> None:
        """Add amounts to a row."""
        _add_amounts(self.spends, row, amounts)

    def add_failures(self, row: RowKey, kind: str, count: int) -> None:
        """Add failed calls of a kind."""
        self.failures[row, kind] = self.failures.get((row, kind), 0) + count

    def write(self, database: Database) -> None:
        """Add the counts to those of the database, within a transaction."""
        if self.spends:
            database.run_many(ADD_SPEND, [(*row, *amounts) for row, amounts in self.spends.items()])
        if self.failures:
            database.run_many(ADD_FAILURES, [(*row, kind, count) for (row, kind), count in self.failures.items()])
        if self.failed_requests:
            database.run_many(ADD_FAILED_REQUEST, self.failed_requests)

    def __bool__(self) -> bool:
        return bool(self.spends or self.failures or self.failed_requests)


class StageSpend(Mapping[str, Spend]):
    """Spend of a stage by role, which grows with every call."""

    def __init__(self) -> None:
        self._amounts: dict[str, list[float]] = {}

    def add(self, role: str, amounts: Sequence[float]) -> None:
        """Add amounts, in the order of `AMOUNTS`."""
        _add_amounts(self._amounts, role, amounts)

    def __getitem__(self, role: str) -> Spend:
        return _spend_of_amounts(self._amounts[role])

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._amounts))  # another thread may add a role at the same time

    def total(self) -> Spend:
        """Return the sum over the roles."""
        return sum(self.values(), Spend())

    def __len__(self) -> int:
        return len(self._amounts)


class Ledger:
    """The spend of one job, and the budget of its scope."""

    def __init__(self, database: Database, scope: SpendScope, budget: SpendConfig) -> None:
        self._database = database
        self._scope = scope
        limits = {"calls": budget.max_calls, "tokens": budget.max_tokens, "usd": budget.max_usd}
        self._limits = {unit: limit for unit, limit in limits.items() if limit is not None}
        self._stage = ""
        self._stage_spend = StageSpend()
        self._unwritten = Counts()

    @contextmanager
    def record_stage(self, stage: str) -> Iterator[Mapping[str, Spend]]:
        """Record calls under a stage, and write them at the end.

        Failed requests of an earlier, stopped attempt at the stage are deleted, because the stage repeats them.

        Yields:
            The spend of the stage by role, updated with every call.
        """
        self.flush()
        self._stage, self._stage_spend = stage, StageSpend()
        job = (self._scope.scope, self._scope.job)
        self._database.run("DELETE FROM given_up WHERE scope = ? AND job = ? AND stage = ?", *job, stage)
        try:
            with counted_spend(lambda: self._stage_spend.total().usd):
                yield self._stage_spend
        finally:
            self.flush()
            self._stage = ""

    def record_paid(self, role: str, usage: Usage) -> None:
        """Count a paid call, usable or not; the next `flush` writes it."""
        price = (usage.usd or 0.0, int(usage.usd is None))
        self._record(role, (1, 0, usage.prompt_tokens, usage.completion_tokens, *price))
        if usage.estimated:
            self.record_failure(role, FailureKind.NO_USAGE)

    def record_cached(self, role: str) -> None:
        """Count a completion that cost nothing: it was cached, or an identical call was in flight."""
        self._record(role, (0, 1, 0, 0, 0.0, 0))

    def record_failure(self, role: str, kind: FailureKind) -> None:
        """Count one failed call."""
        self._unwritten.add_failures(self._row_key(role), kind, 1)

    def record_lost(self, scope: SpendScope, count: int) -> None:
        """Record calls of a killed process that may have been paid; neither stage nor role is known."""
        if count:
            self._database.run(ADD_FAILURES, scope.scope, scope.job, "", "", FailureKind.LOST, count)

    def record_failed(self, role: str, key: str, error: CallError) -> None:
        """Record a request that failed for good, with the reason and the beginning of the last reply."""
        values = (*self._row_key(role), key, error.kind, error.detail[:MAX_CHARS], error.raw[:MAX_CHARS])
        self._unwritten.failed_requests.append(values)

    def flush(self) -> None:
        """Write all counts since the last flush."""
        if self._unwritten:
            with self.flushed():
                pass

    @contextmanager
    def flushed(self) -> Iterator[None]:
        """Run the block and write all counts in one transaction; if it fails, the next flush writes the counts."""
        with self._database.transaction():
            yield
            self._unwritten.write(self._database)  # after the block, which may record calls itself
        self._unwritten = Counts()

    def check(self) -> None:
        """Check the budget of the scope. Calls in flight are not included, so the spend can exceed the budget slightly.

        Raises:
            BudgetSpent: If calls, tokens or USD have reached their limit.
        """
        if not self._limits:  # no reading of the database for each call
            return
        spent = self._on_disk()
        used = {"calls": spent.calls, "tokens": spent.tokens, "usd": spent.usd}
        for unit, limit in self._limits.items():
            # An unknown price counts as spent: the budget could not be kept otherwise.
            amount = used[unit]
            if amount is None or amount >= limit:
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
        self.flush()
        rows = self._database.run(
            "SELECT stage, role, key, kind, detail, raw FROM given_up WHERE scope = ? AND job = ? ORDER BY stage, key",
            *(self._scope.scope, self._scope.job),
        )
        return [FailedRequest.model_validate(dict(zip(FailedRequest.model_fields, row, strict=True))) for row in rows]

    def _on_disk(self) -> Spend:
        # SQL could not add up the spend: one unknown price makes the sum unknown.
        return sum((spend for _, _, spend in self._read_spend("scope = ?", self._scope.scope)), Spend())

    def _record(self, role: str, amounts: Sequence[float]) -> None:
        self._unwritten.add_spend(self._row_key(role), amounts)
        self._stage_spend.add(role, amounts)
        events.record_sparsely(events.Kind.CALLS, EVENT_INTERVAL_S, self._stage_so_far)

    def _stage_so_far(self) -> dict[str, Any]:
        return {"stage": self._stage, **self._stage_spend.total().model_dump(include={"calls", "cached", "usd"})}

    def _row_key(self, role: str) -> RowKey:
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
        return _spend_of_amounts(cells)


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


def _add_amounts(sums: dict[KeyT, list[float]], key: KeyT, amounts: Sequence[float]) -> None:
    """Add amounts to those of a key."""
    present = sums.get(key)
    sums[key] = list(amounts) if present is None else list(map(add, present, amounts))


def _spend_of_amounts(amounts: Sequence[Any]) -> Spend:
    calls, cached, prompt, completion, usd, unpriced = amounts
    price = None if unpriced else round(usd, 12)  # without the noise of adding floats
    return Spend(calls=calls, cached=cached, prompt_tokens=prompt, completion_tokens=completion, usd=price)
