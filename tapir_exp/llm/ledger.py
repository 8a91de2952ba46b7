"""What was asked of the chat models and what it cost, by stage and role; and the budget that ends it.

The spend of a run, or of all jobs of a sweep together, is kept on disk with the replies, so that a budget counts what
was spent before a run was stopped and what other processes spend at the same time.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from tapir_exp.config import SpendConfig
from tapir_exp.core.errors import BudgetSpent
from tapir_exp.core.records import Record
from tapir_exp.llm.chat import Usage
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.sqlite import Database

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

ADD_SPEND = (
    "INSERT INTO spend VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
    "calls = calls + excluded.calls, cached = cached + excluded.cached, "
    "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
    "completion_tokens = completion_tokens + excluded.completion_tokens, "
    "usd = usd + excluded.usd, unpriced = unpriced + excluded.unpriced"
)
ADD_FAILURES = "INSERT INTO faults VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count"


class Spend(Record):
    """Calls and their cost over some stretch of a run.

    calls: replies paid for, unusable ones too; cached: replies had without paying.
    prompt_tokens, completion_tokens, usd: of the paid calls only; usd is None where the price of any is not known.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and completion together."""
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
    """How often calls of a stage failed in one way, those that went well at a later try included."""

    stage: str
    role: str
    kind: FailureKind
    count: int


class FailedRequest(Record):
    """A request that brought nothing in the end: why, and what was said last."""

    stage: str
    role: str
    key: str
    kind: FailureKind
    detail: str
    raw: str


@dataclass(frozen=True)
class SpendScope:
    """Whose spend a ledger writes down: a job, and the scope that shares a budget: its sweep, or the run alone."""

    scope: str
    job: str = ""


class Ledger:
    """The spend of one job, and the budget that all jobs of its scope share."""

    def __init__(self, database: Database, account: SpendScope, budget: SpendConfig) -> None:
        self._database = database
        self._account = account
        self._budget = budget
        self._stage = ""
        self._here: defaultdict[str, Spend] = defaultdict(Spend)
        self._unwritten: defaultdict[str, Spend] = defaultdict(Spend)
        self._faults: defaultdict[tuple[str, FailureKind], int] = defaultdict(int)

    @contextmanager
    def record_stage(self, stage: str) -> Iterator[dict[str, Spend]]:
        """Write down under this stage. Gives the spend by role as it grows; all of it is on disk at the end.

        The requests that the stage gave up before it was stopped are forgotten, for they are asked again.
        """
        self.flush()
        self._stage, self._here = stage, defaultdict(Spend)
        place = (self._account.scope, self._account.job, stage)
        self._database.run("DELETE FROM given_up WHERE scope = ? AND job = ? AND stage = ?", *place)
        try:
            yield self._here
        finally:
            self.flush()
            self._stage = ""

    def record_paid(self, role: str, usage: Usage) -> None:
        """Count a reply that was paid for, whether or not it can be used; on disk with the next `flush`."""
        tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        self._record(role, Spend(calls=1, usd=usage.usd, **tokens))

    def record_cached(self, role: str) -> None:
        """Count a reply that cost nothing: it was in the cache, or an identical call was in flight."""
        self._record(role, Spend(cached=1))

    def record_failure(self, role: str, kind: FailureKind) -> None:
        """Count one failed try."""
        self._faults[role, kind] += 1

    def record_failed(self, role: str, key: str, error: CallError) -> None:
        """Keep a request that brought nothing, with its reason and what was said last."""
        values = (*self._place(role), key, error.kind, error.detail, error.raw)
        self._database.run("INSERT OR REPLACE INTO given_up VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *values)

    def flush(self) -> None:
        """Write down what has been counted since; within a transaction where there is one."""
        spends = [(*self._place(role), *_columns(spend)) for role, spend in self._unwritten.items()]
        faults = [(*self._place(role), kind, count) for (role, kind), count in self._faults.items()]
        self._unwritten.clear()
        self._faults.clear()
        if spends:
            self._database.run_many(ADD_SPEND, spends)
        if faults:
            self._database.run_many(ADD_FAILURES, faults)

    def check(self) -> None:
        """Raises BudgetSpent where the scope has spent its budget; what is in flight may still come on top."""
        budget = self._budget
        limits = {"calls": budget.max_calls, "tokens": budget.max_tokens, "usd": budget.max_usd}
        if all(limit is None for limit in limits.values()):
            return
        spent = self._on_disk()
        used = {"calls": spent.calls, "tokens": spent.tokens, "usd": spent.usd}
        for unit, limit in limits.items():
            amount = used[unit]
            if limit is not None and (amount is None or amount >= limit):
                raise BudgetSpent(
                    f"The budget of {self._account.scope} is spent: {'an unknown price' if amount is None else amount} "
                    f"of spend.max_{unit}={limit:g}. What was answered is kept: the same command with a larger "
                    f"spend.max_{unit} goes on."
                )

    def spent_by_scope(self) -> Spend:
        """What all jobs of the scope have spent, other processes' included."""
        self.flush()
        return self._on_disk()

    def by_stage(self) -> dict[str, dict[str, Spend]]:
        """What this job has spent, before it was stopped and since, by stage and role."""
        self.flush()
        spends: defaultdict[str, dict[str, Spend]] = defaultdict(dict)
        for stage, role, spend in self._read("scope = ? AND job = ?", self._account.scope, self._account.job):
            spends[stage][role] = spend
        return dict(spends)

    def failure_counts(self) -> list[FailureCount]:
        """How often the calls of this job failed, and how."""
        self.flush()
        rows = self._database.run(
            "SELECT stage, role, kind, count FROM faults WHERE scope = ? AND job = ? ORDER BY stage, role, kind",
            *(self._account.scope, self._account.job),
        )
        return [FailureCount(stage=stage, role=role, kind=kind, count=count) for stage, role, kind, count in rows]

    def failed_requests(self) -> list[FailedRequest]:
        """The requests of this job that brought nothing."""
        rows = self._database.run(
            "SELECT stage, role, key, kind, detail, raw FROM given_up WHERE scope = ? AND job = ? ORDER BY stage, key",
            *(self._account.scope, self._account.job),
        )
        names = ("stage", "role", "key", "kind", "detail", "raw")
        return [FailedRequest.model_validate(dict(zip(names, row, strict=True))) for row in rows]

    def _on_disk(self) -> Spend:
        return sum((spend for _, _, spend in self._read("scope = ?", self._account.scope)), Spend())

    def _record(self, role: str, spend: Spend) -> None:
        self._unwritten[role] += spend
        self._here[role] += spend

    def _place(self, role: str) -> tuple[str, str, str, str]:
        return self._account.scope, self._account.job, self._stage, role

    def _read(self, where: str, *values: str) -> Iterator[tuple[str, str, Spend]]:
        rows = self._database.run(
            "SELECT stage, role, calls, cached, prompt_tokens, completion_tokens, usd, unpriced "
            f"FROM spend WHERE {where} ORDER BY job, stage, role",
            *values,
        )
        for stage, role, calls, cached, prompt, completion, usd, unpriced in rows:
            price = None if unpriced else round(usd, 12)
            tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
            yield stage, role, Spend(calls=calls, cached=cached, usd=price, **tokens)


def scopes_with_failures(database: Database) -> list[SpendScope]:
    """Whose requests were given up."""
    return [SpendScope(*row) for row in database.run("SELECT DISTINCT scope, job FROM given_up ORDER BY scope, job")]


def _columns(spend: Spend) -> tuple[int, int, int, int, float, int]:
    tokens = spend.prompt_tokens, spend.completion_tokens
    return spend.calls, spend.cached, *tokens, spend.usd or 0.0, int(spend.usd is None)
