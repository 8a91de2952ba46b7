"""`tapir doctor` finds every kind of damage, mends it with --fix, and then finds none."""

import os
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tapir_exp.commands.doctor import main
from tapir_exp.commands.doctor_job import examine
from tapir_exp.config import SpendConfig
from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import Manifest, entry_of
from tapir_exp.core.records import Response
from tapir_exp.core.store import ROWS, SIDECAR, Artifact, Store, write_rows
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message, Usage
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.spend_report import SPEND_FILE, SpendReport, write_spend_report

COMPLETIONS = 400
USAGE = Usage(prompt_tokens=5, completion_tokens=2, usd=0.25)


def write_calls(run: Path, root: Path) -> None:
    """Store paid completions, and the spend of the run."""
    call_store = CallStore(root, SpendScope(str(run)), SpendConfig())
    with call_store.ledger.flushed():
        for number in range(COMPLETIONS):
            request = ChatRequest(messages=(Message(role="user", content=f"{number} " * 100),), max_tokens=5)
            reply = Completion(text="yes", finish_reason="stop", usage=USAGE)
            call_store.cache.put(f"{number:064}", "m", request, reply)
            call_store.ledger.record_paid("teacher", USAGE)
    write_spend_report(call_store.ledger, run)
    call_store.close()


def make_artifact(root: Path) -> Artifact:
    def make(directory: Path) -> dict[str, int]:
        return {"rows": write_rows(directory / ROWS, [Response(id="a", text="yes")])}

    return Store(root).produce("teacher_responses", {}, make)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the directory of a finished run with one artifact and its paid calls."""
    run, root = tmp_path / "runs" / "one", tmp_path / "store"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    (run / "metrics.jsonl").write_text('{"round": 0}\n')
    entries = (entry_of("teacher_responses", 0, make_artifact(root)),)
    settings = {"name": "lab", "arm": "tapir", "seed": 0, "delta": 2.0, "alphas": (), "target": None}
    Manifest(**settings, store="../../store", artifacts=entries).write(run)
    write_calls(run, root)
    return run


def store_of(run: Path) -> Path:
    return run.parents[1] / "store"


def artifact_of(run: Path) -> Path:
    return next(store_of(run).glob("teacher_responses/*"))


def change_calls(*statement: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        with sqlite3.connect(store_of(run) / "calls.sqlite") as database:
            database.execute(*statement)  # type: ignore[arg-type]
        database.close()

    return change


def overwrite_calls(start: float, size: int) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path = store_of(run) / "calls.sqlite"
        with path.open("r+b") as file:
            file.seek(int(start * path.stat().st_size) // 4096 * 4096)
            file.write(b"\xff" * size)

    return change


def cut_calls(run: Path) -> None:
    path = store_of(run) / "calls.sqlite"
    os.truncate(path, path.stat().st_size * 3 // 4 // 4096 * 4096)


def write_half_checkpoint(run: Path) -> None:
    path = store_of(run) / "partial" / "student-x" / "checkpoints" / "step-000000002.ckpt"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", bytes(1000))
    os.truncate(path, 500)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "manifest": (lambda run: os.truncate(run / "manifest.json", 30), "manifest.json"),
    "binary manifest": (lambda run: (run / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json"),
    "spend file": (lambda run: os.truncate(run / SPEND_FILE, 30), "spend.json"),
    "binary spend file": (lambda run: (run / SPEND_FILE).write_bytes(b"\xff"), "spend.json"),
    "metrics": (lambda run: (run / "metrics.jsonl").write_text('{"round": 0}\n{"rou'), "metrics.jsonl"),
    "configuration": (lambda run: (run / "config.yaml").write_bytes(b"seed: [\x00"), "config.yaml"),
    "rows": (lambda run: (artifact_of(run) / ROWS).write_text("{}"), "teacher_responses"),
    "sidecar": (lambda run: os.truncate(artifact_of(run) / SIDECAR, 10), "teacher_responses"),
    "impossible spend": (change_calls("UPDATE spend SET prompt_tokens = 1e30"), "spend"),
    "completion": (change_calls("UPDATE completions SET content = x'00' WHERE id % 10 = 7"), "completions"),
    "earlier completion": (change_calls("INSERT INTO replies VALUES ('k', 'm', 1.0, '{', '{')"), "completions"),
    "traffic": (lambda run: (store_of(run) / "traffic.sqlite").write_text("x" * 5000), "traffic.sqlite"),
    "overwritten calls": (overwrite_calls(0.5, 8192), "calls.sqlite"),
    "cut calls": (cut_calls, "calls.sqlite"),
    "no calls": (overwrite_calls(0.0, 4096), "calls.sqlite"),
}


@pytest.mark.parametrize(("damage", "subject"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_and_mended(
    run: Path, damage: Callable[[Path], object], subject: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(run)])
    damage(run)
    with pytest.raises(SystemExit) as stopped:
        main([str(run)])
    assert stopped.value.code == 1
    assert "1 of" in capsys.readouterr().out
    found = [finding for finding in examine(run, fix=True) if finding.problem]
    assert [(finding.subject.split(" ")[0], finding.mended) for finding in found] == [(subject, True)]
    left = [finding for finding in examine(run, fix=False) if finding.problem]
    # Only a repetition of the run's command makes the artifact again.
    assert [finding.subject.split(" ")[0] for finding in left] == ["teacher_responses"] * (
        subject == "teacher_responses"
    )
    make_artifact(store_of(run))
    main([str(run)])


@pytest.mark.parametrize(
    ("damage", "saved"), [(overwrite_calls(0.5, 8192), 350), (cut_calls, 200)], ids=["overwritten", "cut"]
)
def test_readable_completions_of_a_damaged_store_are_saved(
    run: Path, damage: Callable[[Path], object], saved: int
) -> None:
    damage(run)
    examine(run, fix=True)
    call_store = CallStore(store_of(run), SpendScope(str(run)), SpendConfig())
    (summary,) = call_store.cache.summaries()
    call_store.close()
    assert saved <= summary.replies < COMPLETIONS
    assert list(store_of(run).glob("calls.sqlite.damaged"))


def test_store_in_use_is_not_mended(run: Path) -> None:
    call_store = CallStore(store_of(run), SpendScope("other"), SpendConfig())
    overwrite_calls(0.5, 8192)(run)
    (finding,) = (finding for finding in examine(run, fix=True) if finding.problem)
    assert not finding.mended
    assert f"in use by process {os.getpid()}" in finding.remedy
    call_store._traffic.close()


def test_store_checks_every_artifact_and_checkpoint(run: Path) -> None:
    (artifact_of(run) / ROWS).write_text("{}")
    write_half_checkpoint(run)
    for directory in (store_of(run), run.parents[1]):
        damaged = [finding.subject for finding in examine(directory, fix=False) if finding.problem]
        assert damaged == [f"teacher_responses/{artifact_of(run).name}", "step-000000002.ckpt"]
    examine(store_of(run), fix=True)
    assert not any(finding.problem for finding in examine(store_of(run), fix=False))


def test_artifact_with_other_bytes_than_the_manifest_is_named(run: Path) -> None:
    (artifact_of(run) / ROWS).write_text("{}")
    Store(store_of(run)).set_aside("teacher_responses", artifact_of(run).name)
    Store(store_of(run)).produce("teacher_responses", {}, lambda directory: {"rows": write_rows(directory / ROWS, [])})
    (finding,) = (finding for finding in examine(run, fix=False) if finding.problem)
    assert "made again since the run, with other bytes" in finding.problem


def test_other_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is neither a run, an evaluation nor a store"):
        examine(tmp_path, fix=False)


def test_spend_file_is_unchanged_by_a_check(run: Path) -> None:
    before = SpendReport.load(run)
    examine(run, fix=True)
    assert SpendReport.load(run) == before
