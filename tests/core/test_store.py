"""The artifact store: resuming, concurrent processes, keys, and rows that name their errors."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.core import store
from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Label, example_id
from tapir_exp.core.store import ROWS, SIDECAR, Store, digest_files, read_rows, recipe_key, write_rows
from tapir_exp.core.stored_rows import UNFINISHED
from tapir_exp.core.task_types import TaskType

RECIPE: dict[str, Any] = {"config": {"delta": 2.0, "orders": ["a", "b"]}, "prompts": "p", "seed": 0, "inputs": ["k"]}
LABELS = [
    Label(id=example_id("a"), task=next(iter(TaskType)), raw="odd\u2028line\u0085ends\r\nand é"),
    Label(id=example_id("b"), task=None, raw="hm", failure="unreadable"),
]

MAKER = """
import os, sys, time
from pathlib import Path
from tapir_exp.core.store import Store
def make(directory):
    with open(sys.argv[2], "a") as log:
        log.write(f"{os.getpid()}\\n")
    (directory / "half").write_text("one half")
    time.sleep(float(sys.argv[3]))
    (directory / "other").write_text("the other")
    return {"rows": 2}
artifact = Store(Path(sys.argv[1])).produce("verdicts", {"seed": 0}, make)
print(artifact.key, artifact.reused, sorted(artifact.files))
"""


def start_maker(root: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKER, str(root), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def write_labels(directory: Path) -> dict[str, int]:
    return {"rows": write_rows(directory / ROWS, LABELS)}


def fail(directory: Path) -> dict[str, int]:
    raise AssertionError("was made again")


def test_produce_makes_an_artifact_once_and_reuses_it(tmp_path: Path) -> None:
    made = Store(tmp_path).produce("task_labels", RECIPE, write_labels)
    found = Store(tmp_path).produce("task_labels", RECIPE, fail)
    assert (made.reused, found.reused) == (False, True)
    assert made.path == found.path == tmp_path / "task_labels" / recipe_key("task_labels", RECIPE)
    assert found.figures == {"rows": 2}
    assert found.files == digest_files(found.path)
    assert found.rows(Label) == LABELS
    assert list((tmp_path / "partial").iterdir()) == []


def test_sidecar_holds_the_recipe(tmp_path: Path) -> None:
    made = Store(tmp_path).produce("task_labels", RECIPE, write_labels)
    sidecar = json.loads((made.path / SIDECAR).read_text())
    assert (sidecar["stage"], sidecar["key"], sidecar["recipe"]) == ("task_labels", made.key, RECIPE)
    assert list(sidecar["files"]) == [ROWS]


@pytest.mark.slow
def test_produce_in_many_processes_makes_one_artifact(tmp_path: Path) -> None:
    log = tmp_path / "log"
    makers = [start_maker(tmp_path / "store", log, 0.5) for _ in range(4)]
    heard = [maker.communicate(timeout=60)[0].split() for maker in makers]
    assert [maker.returncode for maker in makers] == [0] * 4
    assert len(log.read_text().splitlines()) == 1
    assert sorted(words[1] for words in heard) == ["False", "True", "True", "True"]
    assert {(words[0], *words[2:]) for words in heard} == {(heard[0][0], "['half',", "'other']")}


def test_produce_after_a_killed_process_makes_it_again(tmp_path: Path) -> None:
    root, log = tmp_path / "store", tmp_path / "log"
    victim = start_maker(root, log, 60.0)
    half = root / "partial" / f"verdicts-{recipe_key('verdicts', {'seed': 0})}" / "half"
    deadline = time.monotonic() + 30
    while not half.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert half.is_file()
    with pytest.raises(StoreError):
        Store(root).open("verdicts", recipe_key("verdicts", {"seed": 0}))
    heard = start_maker(root, log, 0.0).communicate(timeout=60)[0]
    assert heard.split()[1:] == ["False", "['half',", "'other']"]
    assert len(log.read_text().splitlines()) == 2


def test_produce_with_a_failing_make_leaves_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Store(tmp_path).produce("task_labels", RECIPE, fail)
    assert not Store(tmp_path).produce("task_labels", RECIPE, write_labels).reused


def test_produce_after_a_failure_gets_the_partial_files(tmp_path: Path) -> None:
    def begin(directory: Path) -> dict[str, int]:
        (directory / "checkpoint").write_text("step 100")
        raise KeyboardInterrupt

    def resume(directory: Path) -> dict[str, str]:
        return {"found": (directory / "checkpoint").read_text()}

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).produce("fit", RECIPE, begin)
    assert Store(tmp_path).produce("fit", RECIPE, resume).figures == {"found": "step 100"}


@pytest.mark.parametrize("stopped", ["replace", "rename", "sync_file", "sync_tree", "digest_files"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_produce_after_a_kill_at_any_step_makes_an_intact_artifact(
    stopped: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process leaves what it had written: the temporary file of the rows, of the sidecar, or both."""
    owner = Path if stopped in ("replace", "rename") else store
    original, calls = getattr(owner, stopped), iter(range(1, 100))

    def stop(*args: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(owner, stopped, stop)
    with suppress(KeyboardInterrupt):
        Store(tmp_path).produce("task_labels", RECIPE, write_labels)
    monkeypatch.undo()
    made = Store(tmp_path).produce("task_labels", RECIPE, write_labels)
    checked = Store(tmp_path).open("task_labels", made.key, every_byte=True)
    assert list(checked.files) == [ROWS]
    assert sorted(path.name for path in made.path.iterdir()) == sorted([ROWS, SIDECAR])


def test_planted_link_in_unfinished_work_is_refused(tmp_path: Path) -> None:
    precious, key = tmp_path / "precious.txt", recipe_key("seeds", {"a": 1})
    precious.write_text("kept")
    partial = tmp_path / "store" / "partial" / f"seeds-{key}"
    partial.mkdir(parents=True)
    (partial / UNFINISHED).symlink_to(precious)
    with pytest.raises(StoreError, match=rf"{UNFINISHED} is a link to {precious}; remove it"):
        Store(tmp_path / "store").produce("seeds", {"a": 1}, lambda _: pytest.fail("made in a planted directory"))
    assert precious.read_text() == "kept"


def test_atomic_write_does_not_follow_a_planted_link(tmp_path: Path) -> None:
    precious, report = tmp_path / "precious.txt", tmp_path / "report.html"
    precious.write_text("kept")
    for link in (report, tmp_path / "report.html.partial"):
        link.symlink_to(precious)
    store.write_text_atomic(report, "new")
    assert (precious.read_text(), report.read_text(), report.is_symlink()) == ("kept", "new", False)


def test_artifact_without_sidecar_is_not_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.produce("task_labels", RECIPE, write_labels)
    (made.path / "stray").write_text("left over")
    (made.path / SIDECAR).unlink()
    with pytest.raises(StoreError, match=f"The artifact task_labels/{made.key} is not in"):
        store.open("task_labels", made.key)
    again = store.produce("task_labels", RECIPE, write_labels)
    assert not again.reused
    assert list(again.files) == [ROWS]
    assert not (again.path / "stray").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"delta": 2.5, "orders": ["a", "b"]}},
        {"config": {"delta": 2.0, "orders": ["b", "a"]}},
        {"config": {"delta": 2.0, "orders": ["a", "b"], "new": None}},
        {"prompts": "p "},
        {"seed": 1},
        {"inputs": ["other"]},
        {"inputs": []},
    ],
)
def test_recipe_key_changes_with_every_value(change: dict[str, Any]) -> None:
    assert recipe_key("task_labels", {**RECIPE, **change}) != recipe_key("task_labels", RECIPE)


@pytest.mark.parametrize("subset", RECIPE)
def test_recipe_key_changes_with_a_missing_key(subset: str) -> None:
    less = {name: value for name, value in RECIPE.items() if name != subset}
    assert recipe_key("task_labels", less) != recipe_key("task_labels", RECIPE)


def test_recipe_key_depends_on_stage_not_on_key_order() -> None:
    assert recipe_key("verdicts", RECIPE) != recipe_key("task_labels", RECIPE)
    assert recipe_key("task_labels", dict(reversed(RECIPE.items()))) == recipe_key("task_labels", RECIPE)


class Colour(Enum):
    red = "value of red"


def test_recipe_key_holds_enums_by_value() -> None:
    assert recipe_key("plan", {"colour": Colour.red}) == recipe_key("plan", {"colour": "value of red"})


def test_recipe_key_depends_on_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_key("plan", RECIPE)
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert recipe_key("plan", RECIPE) != before


def test_recipe_key_is_the_same_in_every_process() -> None:
    """Pin one key: if it changes, every artifact of every user is made again."""
    assert recipe_key("task_labels", {"seed": 0, "delta": 2.0}) == "ab594496f7a090eb37a5"


def test_digest_files_depends_on_path_and_content(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_text("x")
    (tmp_path / "b").write_text("y")
    (tmp_path / SIDECAR).write_text("{}")
    digests = digest_files(tmp_path)
    assert list(digests) == ["b", "below/a"]
    (tmp_path / "b").write_text("z")
    assert digest_files(tmp_path)["b"] != digests["b"]


def test_read_rows_returns_the_written_rows(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "rows.jsonl", LABELS) == 2
    assert read_rows(tmp_path / "rows.jsonl", Label) == LABELS
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "x", "task": null, "raw": "r", "surprise": 1}', "surprise"),
        ('{"id": "x", "task": null}', "raw"),
        ('{"id": "x", "task": "cookery", "raw": "r"}', "task"),
        ('{"id": "x", "task": nu', "JSON"),
        ("", "JSON"),
    ],
)
def test_read_rows_names_file_and_line_of_an_invalid_row(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, LABELS)
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(StoreError, match=rf"rows\.jsonl, line 3: not a valid Label: (?s:.*){reason}"):
        read_rows(path, Label)


def test_read_rows_reads_a_last_line_without_newline(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(LABELS[1].model_dump_json())
    assert read_rows(path, Label) == LABELS[1:]
