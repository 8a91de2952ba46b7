"""`tapir cache`: list, export and prune cached completions, and list failed requests."""

import json
import os
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from assets import ROOT
from fakes import completion_of

from tapir_exp.commands.cache import main
from tapir_exp.config import SpendConfig
from tapir_exp.core.errors import StoreError
from tapir_exp.llm.call_store import CALLS_FILE, CallStore
from tapir_exp.llm.chat import ChatRequest, Message
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.response_cache import CacheEntry

STORED = {
    "1": ("openai/gpt-4o", "2026-03-01", "One\u2028line."),
    "2": ("openai/gpt-4o", "2026-05-01", "Two."),
    "3": ("dashscope/qwen-max", "2026-04-01", "Drei."),
}
"""Each completion in the store by key: model, day and text."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the store of `outputs`, in the directory that the command runs in."""
    monkeypatch.chdir(tmp_path)
    call_store = CallStore(tmp_path / "outputs" / "store", SpendScope("run"), SpendConfig())
    for key, (model, day, text) in STORED.items():
        monkeypatch.setattr(time, "time", lambda day=day: seconds(day))
        call_store.cache.put(key, model, question(key), completion_of(text))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    call_store.close()
    return tmp_path / "outputs" / "store"


def seconds(day: str) -> float:
    return datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=UTC).timestamp()


def question(text: str) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), max_tokens=5)


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    main(arguments)
    out, err = capsys.readouterr()
    assert err == ""
    return out.removesuffix("\n").split("\n") if out else []


def keys(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    return [json.loads(line)["key"] for line in lines(capsys, "export", *arguments)]


def exit_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code, capsys.readouterr().err


def test_list_shows_count_days_and_size_by_model(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines(capsys, "list") if "│" in line]
    assert rows == [
        ["dashscope/qwen-max", "1", "2026-04-01", "2026-04-01", "0.0"],
        ["openai/gpt-4o", "2", "2026-03-01", "2026-05-01", "0.0"],
    ]


def test_export_writes_one_entry_a_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [CacheEntry.model_validate_json(line) for line in lines(capsys, "export")]
    for entry, (key, (model, day, text)) in zip(entries, STORED.items(), strict=True):
        assert entry == CacheEntry(
            key=key, model=model, asked=seconds(day), request=question(key), reply=completion_of(text)
        )
    assert keys(capsys, "--model", "openai/gpt-4o") == ["1", "2"]
    assert keys(capsys, "--model", "openai/gpt") == []


def test_export_memory_does_not_grow_with_entries(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call_store = CallStore(store, SpendScope("run"), SpendConfig())
    for number in range(100):
        call_store.cache.put(f"long {number}", "m", question("?"), completion_of("x" * 100_000))
    call_store.close()
    with (tmp_path / "exported").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        tracemalloc.start()
        main(["export"])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (tmp_path / "exported").stat().st_size > 10_000_000
    assert peak < 2_000_000


def test_export_ends_quietly_when_its_pipe_closes(store: Path) -> None:
    call_store = CallStore(store, SpendScope("run"), SpendConfig())
    for number in range(20):
        call_store.cache.put(f"long {number}", "m", question("?"), completion_of("x" * 100_000))
    call_store.close()
    process = subprocess.Popen(
        [sys.executable, "-c", "from tapir_exp.commands.main import main; main(['cache', 'export'])"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert (process.wait(30), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize(
    ("options", "remaining"),
    [
        (["--model", "openai/gpt-4o"], ["3"]),
        (["--before", "2026-04-02"], ["2"]),
        (["--before", "2026-04-01"], ["2", "3"]),
        (["--model", "openai/gpt-4o", "--before", "2026-04-02"], ["2", "3"]),
        (["--model", "nobody/knows"], ["1", "2", "3"]),
        (["--before", "1970-01-01"], ["1", "2", "3"]),
        (["--all"], []),
    ],
    ids=" ".join,
)
def test_prune_deletes_only_with_yes(
    store: Path, capsys: pytest.CaptureFixture[str], options: list[str], remaining: list[str]
) -> None:
    count = 3 - len(remaining)
    assert lines(capsys, "prune", *options) == [f"{count} completions would be deleted; --yes deletes them."]
    assert keys(capsys) == ["1", "2", "3"]
    assert lines(capsys, "prune", *options, "--yes")[0] == f"{count} completions deleted."
    assert keys(capsys) == remaining


def fill(store: Path, count: int, *, earlier: bool = False) -> int:
    """Store completions of 5 kB each, and return the size of the file."""
    call_store = CallStore(store, SpendScope("run"), SpendConfig())
    with call_store.ledger.flushed():
        for number in range(count):
            key, reply = f"{number:064x}", completion_of(os.urandom(2500).hex())
            if earlier:
                values = (key, "m", 1.0, question("?").model_dump_json(), reply.model_dump_json())
                call_store._durable.run("INSERT INTO replies VALUES (?, ?, ?, ?, ?)", *values)
            else:
                call_store.cache.put(key, "m", question("?"), reply)
    call_store.close()
    return (store / CALLS_FILE).stat().st_size


def test_prune_returns_the_space(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = fill(store, 200)
    assert lines(capsys, "prune", "--model", "m", "--yes")[1] == "0.8 MB returned to the disk."
    assert (store / CALLS_FILE).stat().st_size < size - 700_000
    assert keys(capsys) == ["1", "2", "3"]


def without_incremental_vacuum(store: Path) -> None:
    """Make the file one of an earlier version, which cannot return single pages."""
    with sqlite3.connect(store / CALLS_FILE) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("PRAGMA auto_vacuum=NONE")
        database.execute("VACUUM")
    database.close()


def test_compact_rewrites_earlier_completions(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without_incremental_vacuum(store)
    size, before = fill(store, 700, earlier=True), lines(capsys, "export")
    assert lines(capsys, "compact")[0].startswith("700 completions rewritten; ")
    assert sorted(lines(capsys, "export")) == sorted(before)
    assert (store / CALLS_FILE).stat().st_size < 0.6 * size
    assert lines(capsys, "compact") == ["0 completions rewritten; 0.0 MB returned to the disk."]


def test_prune_of_earlier_file_in_use_tells_that_no_space_returns(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_incremental_vacuum(store)
    fill(store, 100)
    call_store = CallStore(store, SpendScope("run"), SpendConfig())
    deleted, told = lines(capsys, "prune", "--model", "m", "--yes")
    call_store.close()
    assert deleted == "100 completions deleted."
    assert f"not returned to the disk: {store.relative_to(store.parents[1])} is in use by process {os.getpid()}" in told
    assert keys(capsys) == ["1", "2", "3"]


@pytest.mark.parametrize("options", [[], ["--yes"]])
def test_prune_without_a_filter_requires_all(
    store: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    code, text = exit_of(capsys, "prune", *options)
    assert code == 2
    assert "would delete everything; add --all if that is meant" in text
    assert len(keys(capsys)) == 3


@pytest.fixture
def failed(store: Path) -> None:
    """Record failed requests of a single run and of a job of a sweep."""
    for scope in (SpendScope(str(store.parent / "runs" / "lab")), SpendScope("outputs/sweeps/delta", "seed-1")):
        call_store = CallStore(store, scope, SpendConfig())
        with call_store.ledger.record_stage("task_labels"):
            for key in "ab":
                error = CallError(FailureKind.UNREADABLE, "no number", raw="VII")
                call_store.ledger.record_failed("teacher", key, error)
        call_store.close()


def test_failures_have_run_reason_and_last_reply(store: Path, failed: None, capsys: pytest.CaptureFixture[str]) -> None:
    (store.parent / "runs" / "lab").mkdir(parents=True)
    (store.parent / "latest").symlink_to("runs/lab")
    rows = [json.loads(line) for line in lines(capsys, "failures", "--run", "outputs/latest")]
    assert [row["key"] for row in rows] == ["a", "b"]
    assert rows[0] == {
        "stage": "task_labels",
        "role": "teacher",
        "key": "a",
        "kind": "unreadable reply",
        "detail": "no number",
        "raw": "VII",
        "run": str(store.parent / "runs" / "lab"),
    }
    everywhere = [json.loads(line)["run"] for line in lines(capsys, "failures")]
    assert set(everywhere) == {str(store.parent / "runs" / "lab"), "outputs/sweeps/delta/seed-1"}
    job = [json.loads(line)["run"] for line in lines(capsys, "failures", "--run", "outputs/sweeps/delta/seed-1")]
    assert job == ["outputs/sweeps/delta/seed-1"] * 2
    assert lines(capsys, "failures", "--run", "outputs/sweeps/delta") == []


@pytest.mark.parametrize("command", ["list", "export", "prune --all", "failures"])
def test_missing_store_is_an_error_with_a_remedy(tmp_path: Path, command: str) -> None:
    with pytest.raises(StoreError, match=rf"nowhere/{CALLS_FILE} does not exist; .* --store outputs/store"):
        main([*command.split(), "--store", str(tmp_path / "nowhere")])
    assert list(tmp_path.iterdir()) == []


def test_store_option_names_another_store(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "outputs").rename(tmp_path / "moved")
    assert keys(capsys, "--store", "moved/store") == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: ACTION"),
        (["prune", "--before", "yesterday"], "'yesterday' is not a date; expected YYYY-MM-DD, such as 2026-11-25"),
        (["remove"], "invalid choice: 'remove'"),
    ],
)
def test_wrong_arguments_are_reported(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, err = exit_of(capsys, *arguments)
    assert code == 2
    assert message in err
