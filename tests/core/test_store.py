"""The store: one rule for what is there, one maker among many, and rows that say where they are wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Label, example_id
from tapir_exp.core.store import ROWS, SIDECAR, Store, digest_files, read_rows, recipe_key, write_rows
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
def make(place):
    with open(sys.argv[2], "a") as log:
        log.write(f"{os.getpid()}\\n")
    (place / "half").write_text("one half")
    time.sleep(float(sys.argv[3]))
    (place / "other").write_text("the other")
    return {"rows": 2}
artifact = Store(Path(sys.argv[1])).produce("verdicts", {"seed": 0}, make)
print(artifact.key, artifact.reused, sorted(artifact.files))
"""


def start_maker(root: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKER, str(root), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def write_labels(place: Path) -> dict[str, int]:
    return {"rows": write_rows(place / ROWS, LABELS)}


def fail(place: Path) -> dict[str, int]:
    raise AssertionError("was made again")


def test_a_product_is_made_once_and_then_found(tmp_path: Path) -> None:
    made = Store(tmp_path).produce("task_labels", RECIPE, write_labels)
    found = Store(tmp_path).produce("task_labels", RECIPE, fail)
    assert (made.reused, found.reused) == (False, True)
    assert made.path == found.path == tmp_path / "task_labels" / recipe_key("task_labels", RECIPE)
    assert found.figures == {"rows": 2}
    assert found.files == digest_files(found.path)
    assert found.rows(Label) == LABELS
    assert list((tmp_path / "partial").iterdir()) == []


def test_the_sidecar_tells_the_recipe(tmp_path: Path) -> None:
    made = Store(tmp_path).produce("task_labels", RECIPE, write_labels)
    sidecar = json.loads((made.path / SIDECAR).read_text())
    assert (sidecar["stage"], sidecar["key"], sidecar["recipe"]) == ("task_labels", made.key, RECIPE)
    assert list(sidecar["files"]) == [ROWS]


def test_one_of_many_processes_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    log = tmp_path / "log"
    makers = [start_maker(tmp_path / "store", log, 0.5) for _ in range(4)]
    heard = [maker.communicate(timeout=60)[0].split() for maker in makers]
    assert [maker.returncode for maker in makers] == [0] * 4
    assert len(log.read_text().splitlines()) == 1
    assert sorted(words[1] for words in heard) == ["False", "True", "True", "True"]
    assert {(words[0], *words[2:]) for words in heard} == {(heard[0][0], "['half',", "'other']")}


def test_a_killed_maker_leaves_nothing_that_counts_and_blocks_nobody(tmp_path: Path) -> None:
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


def test_a_maker_that_fails_leaves_nothing_that_counts(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Store(tmp_path).produce("task_labels", RECIPE, fail)
    assert not Store(tmp_path).produce("task_labels", RECIPE, write_labels).reused


def test_what_a_failed_maker_wrote_is_there_for_the_next(tmp_path: Path) -> None:
    def begin(place: Path) -> dict[str, int]:
        (place / "checkpoint").write_text("step 100")
        raise KeyboardInterrupt

    def resume(place: Path) -> dict[str, str]:
        return {"found": (place / "checkpoint").read_text()}

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).produce("fit", RECIPE, begin)
    assert Store(tmp_path).produce("fit", RECIPE, resume).figures == {"found": "step 100"}


def test_without_its_sidecar_a_product_is_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.produce("task_labels", RECIPE, write_labels)
    (made.path / "stray").write_text("left over")
    (made.path / SIDECAR).unlink()
    with pytest.raises(StoreError, match=f"No artifact labels/{made.key} in"):
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
def test_the_key_depends_on_every_part_of_the_recipe(change: dict[str, Any]) -> None:
    assert recipe_key("task_labels", {**RECIPE, **change}) != recipe_key("task_labels", RECIPE)


@pytest.mark.parametrize("subset", RECIPE)
def test_the_key_depends_on_no_part_being_left_out(subset: str) -> None:
    less = {name: value for name, value in RECIPE.items() if name != subset}
    assert recipe_key("task_labels", less) != recipe_key("task_labels", RECIPE)


def test_the_key_depends_on_the_stage_but_not_on_the_order_of_names() -> None:
    assert recipe_key("verdicts", RECIPE) != recipe_key("task_labels", RECIPE)
    assert recipe_key("task_labels", dict(reversed(RECIPE.items()))) == recipe_key("task_labels", RECIPE)


def test_the_key_is_the_same_in_every_process() -> None:
    assert recipe_key("task_labels", {"seed": 0, "delta": 2.0}) == "0596e93f9c89ba44c58d"


def test_digests_tell_every_file_apart_by_path_and_content(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_text("x")
    (tmp_path / "b").write_text("y")
    (tmp_path / SIDECAR).write_text("{}")
    digests = digest_files(tmp_path)
    assert list(digests) == ["b", "below/a"]
    (tmp_path / "b").write_text("z")
    assert digest_files(tmp_path)["b"] != digests["b"]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "rows.jsonl", LABELS) == 2
    assert read_rows(tmp_path / "rows.jsonl", Label) == LABELS
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"id": "x", "task": null, "raw": "r", "surprise": 1}', "surprise"),
        ('{"id": "x", "task": null}', "raw"),
        ('{"id": "x", "task": "cookery", "raw": "r"}', "task"),
        ('{"id": "x", "task": nu', "JSON"),
        ("", "JSON"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, LABELS)
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(StoreError, match=rf"rows\.jsonl, line 3: not a Label: (?s:.*){reason}"):
        read_rows(path, Label)


def test_a_last_row_without_its_line_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(LABELS[1].model_dump_json())
    assert read_rows(path, Label) == LABELS[1:]
