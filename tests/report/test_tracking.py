"""Tracking with the real wandb library, offline: logged data can be read back from its files."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from assets import ROOT

from tapir_exp.config import LoggerConfig, WandbMode
from tapir_exp.core.records import Quota, Subset
from tapir_exp.core.task_types import TaskType
from tapir_exp.report.tracking import Tracker

BLOCK, HEADER = 32 * 1024, 7
QUOTAS = [
    Quota(task=TaskType.MATH, subset=Subset.HARD, wanted=5, drawn=2, ordered=3, filled=1),
    Quota(task=TaskType.LAW, subset=Subset.REST, wanted=4, drawn=4, ordered=0, filled=0),
]


@dataclass
class Logged:
    """Content of the file of an offline run."""

    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    project: str = ""
    group: str = ""
    name: str = ""
    exit_code: int | None = None


def fragments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and payload of each fragment of a LevelDB log, after the header of the file."""
    offset = HEADER
    while offset + HEADER <= len(content):
        if BLOCK - offset % BLOCK < HEADER:  # no room for a header: the block ends with padding
            offset += BLOCK - offset % BLOCK
            continue
        length, kind = int.from_bytes(content[offset + 4 : offset + 6], "little"), content[offset + 6]
        yield kind, content[offset + HEADER : offset + HEADER + length]
        offset += HEADER + length


def messages(content: bytes) -> Iterator[bytes]:
    """Join the fragments of each record of the log (1 whole, 2 first, 3 middle, 4 last)."""
    record = b""
    for kind, payload in fragments(content):
        record = payload if kind in (1, 2) else record + payload
        if kind in (1, 4):
            yield record


def read(path: Path) -> Logged:
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    logged = Logged()
    for message in messages(path.read_bytes()):
        record = Record()
        record.ParseFromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            logged.project, logged.group, logged.name = (
                record.run.project,
                record.run.run_group,
                record.run.display_name,
            )
            logged.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            items = record.history.item
            logged.history.append(
                {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
        elif kind == "exit":
            logged.exit_code = record.exit.exit_code
    return logged


def runs_of(run_dir: Path) -> list[Logged]:
    """Read the finished W&B runs of a run directory; another process writes their files, so wait for its end."""
    paths = sorted(run_dir.glob("wandb/offline-run-*/*.wandb"))
    deadline = time.monotonic() + 30
    while True:
        logged = [read(path) for path in paths]
        if all(run.exit_code is not None for run in logged) or time.monotonic() > deadline:
            return logged
        time.sleep(0.1)


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Track two runs in one process: the second starts and fails while the first is open."""
    group = tmp_path_factory.mktemp("group")
    good, bad = group / "good", group / "bad"
    config = LoggerConfig(mode=WandbMode.offline, project="a-project")
    for run_dir in (good, bad):
        run_dir.mkdir()
    with Tracker(config, good, "a-group", {"seed": 1, "lab": {"noise": 0.5}}) as tracker:
        tracker.log_round(0, {"round": 0, "train/tokens": 10, "gap/mean": None}, [])
        with pytest.raises(ZeroDivisionError):
            fail(config, bad)
        tracker.log_round(1, {"round": 1, "train/tokens": 20, "mix/task/Math": 0.25}, QUOTAS)
    return good, bad


def fail(config: LoggerConfig, run_dir: Path) -> None:
    with Tracker(config, run_dir, "a-group", {"seed": 2}) as tracker:
        tracker.log_round(0, {"round": 0, "train/tokens": 99}, [])
        raise ZeroDivisionError


@pytest.mark.slow
def test_tracker_finishes_one_wandb_run_with_its_exit_code(run_dirs: tuple[Path, Path]) -> None:
    good, bad = (runs_of(run_dir) for run_dir in run_dirs)
    assert [run.exit_code for run in good] == [0]
    assert [run.exit_code for run in bad] == [1]


@pytest.mark.slow
def test_wandb_run_has_project_group_and_name(run_dirs: tuple[Path, Path]) -> None:
    for run_dir in run_dirs:
        (run,) = runs_of(run_dir)
        assert (run.project, run.group, run.name) == ("a-project", "a-group", run_dir.name)


@pytest.mark.slow
def test_wandb_run_has_the_settings(run_dirs: tuple[Path, Path]) -> None:
    good, bad = (runs_of(run_dir)[0].config for run_dir in run_dirs)
    assert (good["seed"], good["lab"]) == (1, {"noise": 0.5})
    assert bad["seed"] == 2
    assert "lab" not in bad


@pytest.mark.slow
def test_wandb_run_has_the_metrics_of_each_round(run_dirs: tuple[Path, Path]) -> None:
    first, second = runs_of(run_dirs[0])[0].history
    assert (first["_step"], first["round"], first["train/tokens"], first["gap/mean"]) == (0, 0, 10, None)
    assert (second["_step"], second["round"], second["train/tokens"], second["mix/task/Math"]) == (1, 1, 20, 0.25)
    assert [row["train/tokens"] for row in runs_of(run_dirs[1])[0].history] == [99]


@pytest.mark.slow
def test_wandb_run_has_the_curriculum_as_a_table(run_dirs: tuple[Path, Path]) -> None:
    first, second = runs_of(run_dirs[0])[0].history
    assert not any(name.startswith("curriculum/") for name in first)
    assert second["curriculum/round-1._type"] == "table-file"
    (path,) = run_dirs[0].glob("wandb/offline-run-*/files/media/table/**/*.json")
    table = json.loads(path.read_text())
    assert table["columns"] == list(Quota.model_fields)
    assert table["data"] == [list(quota.model_dump(mode="json").values()) for quota in QUOTAS]


DISABLED = """
import sys
from pathlib import Path
from tapir_exp.config import LoggerConfig, WandbMode
from tapir_exp.report.tracking import Tracker

with Tracker(LoggerConfig(mode=WandbMode.disabled), Path("."), "group", {"seed": 1}) as tracker:
    tracker.log_round(0, {"round": 0}, [])
print("wandb" in sys.modules)
"""


def test_disabled_tracker_does_not_import_wandb(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", DISABLED], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert list(tmp_path.iterdir()) == []


def test_disabled_tracker_lets_an_exception_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail(LoggerConfig(mode=WandbMode.disabled), tmp_path)


class FakeWandb(ModuleType):
    """Keeps what `init` gets, and looks for the home directory as wandb does."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.settings: dict[str, Any] = {}

    def init(self, **settings: Any) -> "FakeWandb":
        self.settings = {**settings, "home": Path("~").expanduser()}
        return self

    def Settings(self, **settings: Any) -> None:  # noqa: N802  # as in wandb
        """Take any settings."""

    def finish(self, exit_code: int) -> None:
        """End the run."""


@pytest.mark.parametrize("home", [None, ""])
def test_tracker_works_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("os.getuid", lambda: 54321)  # no entry in the table of users
    monkeypatch.setenv("HOME", "")  # restored after the test
    if home is None:
        os.environ.pop("HOME")
    with Tracker(LoggerConfig(mode=WandbMode.offline), tmp_path, "g" * 300, {}):
        assert wandb.settings["home"] == tmp_path
        assert len(wandb.settings["group"]) == 128
