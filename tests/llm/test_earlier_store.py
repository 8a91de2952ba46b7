"""Stores written by the commit before the renames (e04eba8): their completions are found and cost nothing.

`data/books_e04eba8.sqlite` is the file of paid calls of a small lab run with that commit; only the directory of the run
was replaced by a neutral one. A failure here means that every existing store would be paid for again.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from preloaded import run_preloaded

from tapir_exp.config import Config, SpendConfig
from tapir_exp.llm import batch_api, compaction, inflight, ledger, rate_limit, response_cache
from tapir_exp.llm.call_store import CALLS_FILE, CALLS_SCHEMA, CallStore, calls_file
from tapir_exp.llm.chat import ChatRequest, Message
from tapir_exp.llm.compaction import return_space, rewrite_earlier
from tapir_exp.llm.ledger import Spend, SpendScope
from tapir_exp.llm.response_cache import ResponseCache, cache_key
from tapir_exp.llm.serving.pool import ServerPool
from tapir_exp.llm.spend_report import SpendReport
from tapir_exp.llm.sqlite import Database
from tapir_exp.pipeline.opening import open_chat

EARLIER_FILE = Path(__file__).parent / "data" / "books_e04eba8.sqlite"
EARLIER_RUN = SpendScope("outputs/runs/lab")
OVERRIDES = (
    "seeds.size=18",
    "curriculum.rounds=1",
    "curriculum.rows_per_round=12",
    "sft.seed_stage.max_tokens=2000",
    "sft.round_stage.max_tokens=2000",
    "student.max_new_tokens=8",
    "evals.problems_per_level=0",
    "logger=disabled",
)
"""The settings of the earlier run, by their present names."""
SEED_STAGES = {"task_labels": "classifier", "teacher_responses": "teacher"}
"""Stages with their role; their requests depend on no student, and so not on floating-point rounding."""

USER = Message(role="user", content="Why?")
PINNED_KEYS = [
    (
        {"model": "openai/gpt-4o", "api_base": None, "options": {}},
        ChatRequest(messages=(USER,), max_tokens=10),
        "dbbddb5ab9a8f76a3173a5d90926772abb3f616d92adaf872850cff58003b45a",
    ),
    (
        {
            "model": "hosted_vllm/org/model",
            "api_base": "http://localhost:8000/v1",
            "options": {"top_p": 0.9, "extra_body": {"min_p": 0.1}},
        },
        ChatRequest(
            messages=(Message(role="system", content="Be brief."), Message(role="user", content="Où?")),
            max_tokens=512,
            temperature=0.7,
            sample=3,
        ),
        "6b4c510925c04d54d444858d3771b035cedebe6d01ec4a95aec3b177a8a4ba55",
    ),
    (
        {"model": "lab/judge", "api_base": None, "options": {"bias": 0.5}, "version": "ce06856691cc"},
        ChatRequest(
            messages=(
                Message(role="user", content="A or B?"),
                Message(role="assistant", content="A"),
                Message(role="user", content="Sure?"),
            ),
            max_tokens=1,
            top_logprobs=5,
        ),
        "b11aa8a397c7f7081db2f0116cdc3382f33ab198ecafd20e8aa5453c0b84c151",
    ),
]
TABLES = {
    "replies": "key model asked request reply",
    "completions": "id key model asked size content",
    "spend": "scope job stage role calls cached prompt_tokens completion_tokens usd unpriced",
    "faults": "scope job stage role kind count",
    "given_up": "scope job stage role key kind detail raw",
    "batched": "account key batch",
    "claims": "key owner",
    "windows": "account slot requests tokens",
    "gates": "account opens",
}


@pytest.fixture
def earlier_store(tmp_path: Path) -> Path:
    """Return the root of a store that holds the earlier file only."""
    root = tmp_path / "outputs" / "store"
    root.mkdir(parents=True)
    shutil.copy(EARLIER_FILE, root / "books.sqlite")
    return root


@pytest.fixture
def earlier_calls(earlier_store: Path) -> Iterator[CallStore]:
    call_store = CallStore(earlier_store, EARLIER_RUN, SpendConfig())
    yield call_store
    call_store.close()


@pytest.mark.parametrize(("identity", "request_", "key"), PINNED_KEYS)
def test_cache_key_is_pinned(identity: dict[str, Any], request_: ChatRequest, key: str) -> None:
    assert cache_key(identity, request_) == key


def test_table_columns_are_pinned() -> None:
    database = sqlite3.connect(":memory:")
    for module in (response_cache, ledger, batch_api, inflight, rate_limit):
        database.executescript(module.SCHEMA)
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = {table: " ".join(row[1] for row in database.execute(f"PRAGMA table_info({table})")) for table in tables}
    assert columns == TABLES


def test_table_definitions_equal_those_of_earlier_store() -> None:
    """The tables of the earlier store are unchanged; `completions` came later."""
    earlier, present = sqlite3.connect(EARLIER_FILE), sqlite3.connect(":memory:")
    for module in (response_cache, ledger, batch_api):
        present.executescript(module.SCHEMA)
    query = "SELECT name, sql FROM sqlite_master WHERE tbl_name != 'completions' ORDER BY name"
    assert present.execute(query).fetchall() == earlier.execute(query).fetchall()


def test_calls_file_prefers_earlier_file(tmp_path: Path) -> None:
    assert calls_file(tmp_path) == tmp_path / CALLS_FILE
    (tmp_path / CALLS_FILE).touch()
    assert calls_file(tmp_path) == tmp_path / CALLS_FILE
    (tmp_path / "books.sqlite").touch()
    assert calls_file(tmp_path) == tmp_path / "books.sqlite"


def test_earlier_file_is_opened_in_place(earlier_calls: CallStore, earlier_store: Path) -> None:
    assert sum(model.replies for model in earlier_calls.cache.summaries()) == 93
    assert earlier_calls.ledger.spent_by_scope() == Spend(
        calls=93, cached=9, prompt_tokens=7113, completion_tokens=1049, usd=0.0
    )
    assert not (earlier_store / CALLS_FILE).exists()


def test_earlier_file_is_rewritten_without_loss(earlier_store: Path) -> None:
    """Every entry stays the same, and a kill between two steps leaves each in one of the tables."""
    database = Database(earlier_store / "books.sqlite", CALLS_SCHEMA, durable=True)
    before = list(ResponseCache(database).entries())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "ROWS_PER_STEP", 40)
        patch.setattr(compaction, "pack", fail_after(50))
        with pytest.raises(KeyboardInterrupt):
            rewrite_earlier(database)
    assert database.run("SELECT count(*) FROM completions").fetchone() == (40,)
    assert list(ResponseCache(database).entries()) == before
    assert rewrite_earlier(database) == len(before) - 40
    assert return_space(database) > 0
    assert list(ResponseCache(database).entries()) == before
    assert database.run("SELECT count(*) FROM replies").fetchone() == (0,)
    database.close()


def fail_after(count: int) -> Callable[[str, str], tuple[int, bytes]]:
    calls = iter(range(count))

    def pack_or_stop(request: str, reply: str) -> tuple[int, bytes]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return response_cache.pack(request, reply)

    return pack_or_stop


def test_earlier_keys_equal_present_keys(earlier_calls: CallStore, compose_config: Callable[..., Config]) -> None:
    """Every stored request has the key that today's code computes for its model."""
    config = compose_config(*OVERRIDES)
    llms = {"teacher": config.teacher.llm, "judge": config.judge.llm, "classifier": config.classifier.llm}
    servers = ServerPool(Path("servers"))
    identities = {llm.model: open_chat(llm, role, earlier_calls, servers).identity() for role, llm in llms.items()}
    entries = list(earlier_calls.cache.entries())
    assert {entry.model for entry in entries} == set(identities)
    assert [entry.key for entry in entries] == [cache_key(identities[entry.model], entry.request) for entry in entries]


@pytest.mark.slow
def test_run_with_earlier_store_pays_for_no_seed(earlier_store: Path, tmp_path: Path) -> None:
    """Repeat the earlier run in an empty store with its completions.

    The requests about a student's responses can differ on another CPU, so only the stages of the seeds are checked.
    """
    done = run_preloaded([*OVERRIDES, f"outputs={earlier_store.parent}"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (earlier_store.parent / "runs").iterdir()
    report = SpendReport.load(run)
    assert report is not None
    for stage, role in SEED_STAGES.items():
        assert report.stages[stage] == {role: Spend(cached=18)}
