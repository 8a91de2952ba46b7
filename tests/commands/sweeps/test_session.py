"""A sweep ends with one table, one page and the right error after any outcome of its jobs."""

import errno
import io
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tapir_exp.commands.sweeps import session
from tapir_exp.commands.sweeps.session import SweepSession, format_usd, job_lines, update_page
from tapir_exp.core import console as console_module
from tapir_exp.core.console import Terminal
from tapir_exp.core.disk import RESUME, DiskError
from tapir_exp.core.errors import TapirError
from tapir_exp.core.events import EVENTS, EventStream, Kind
from tapir_exp.report.sweep.plan_file import SweepPlan

JOBS = {
    "finished": [(Kind.RUN_STARTED, {}), (Kind.RUN_FINISHED, {"key": "k", "figure": "accuracy", "value": 0.51234})],
    "failed": [
        (Kind.RUN_STARTED, {}),
        (Kind.SPEND, {"usd": 1.5, "calls": 3}),
        (Kind.RUN_FAILED, {"reason": "no key.\nx"}),
    ],
    "stopped": [(Kind.RUN_STARTED, {}), (Kind.RUN_STOPPED, {})],
    "killed": [(Kind.RUN_STARTED, {}), (Kind.STAGE_STARTED, {"stage": "seeds"})],
}
PLAN = SweepPlan([["arm=lion", f"name={name}", "logger=disabled"] for name in (*JOBS, "waiting")])


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    terminal = Terminal(out)
    terminal.width = 40
    for module in (console_module, session):
        monkeypatch.setattr(module, "console", terminal)
    monkeypatch.setattr(session, "_page_due", [0.0])
    return out


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Write the directories of jobs in every state."""
    for number, (name, events) in enumerate(JOBS.items()):
        hydra = tmp_path / str(number) / ".hydra"
        hydra.mkdir(parents=True)
        (hydra / "overrides.yaml").write_text(f"- arm=lion\n- name={name}\n- logger=disabled\n")
        stream = EventStream(tmp_path / str(number) / EVENTS)
        for kind, fields in events:
            stream.record(kind, **fields)
    return tmp_path


def write_page(directory: Path) -> Path:
    return directory / "index.html"


def test_states_are_those_of_the_events(sweep: Path) -> None:
    lines = {line.label: line.cells for line in job_lines(sweep, PLAN)}
    states = {label.removeprefix("name="): cells[1] for label, cells in lines.items()}
    assert states == {**{name: name for name in JOBS}, "killed": "stopped", "waiting": "waiting"}
    assert lines["name=finished"][2] == "accuracy 0.5123"
    assert lines["name=failed"][4:] == ("$1.50", "no key.")


def test_table_names_every_failure_and_cuts_no_cell(sweep: Path, output: io.StringIO) -> None:
    with pytest.raises(TapirError) as caught:
        SweepSession(sweep, PLAN, write_page).finish()
    header, *lines, page = output.getvalue().splitlines()
    assert header.split() == list(session.COLUMNS)
    assert [line.split()[:2] for line in lines][1] == ["name=failed", "failed"]
    assert page == f"page: {sweep}/index.html"
    assert str(caught.value).startswith(
        "4 of 5 jobs did not finish: name=failed (failed: no key); name=stopped (stopped)"
    )


def test_sweep_whose_jobs_are_finished_raises_nothing(sweep: Path, output: io.StringIO) -> None:
    SweepSession(sweep, SweepPlan(PLAN.jobs[:1]), write_page).finish()
    assert "arm=lion name=finished  finished" in output.getvalue()


def test_interrupted_sweep_shows_its_table_and_raises_nothing(sweep: Path, output: io.StringIO) -> None:
    def fail(directory: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    SweepSession(sweep, PLAN, fail).finish(stopped=True)
    assert output.getvalue().startswith("\njob ")  # a line of its own after ^C
    assert "name=waiting" in output.getvalue()
    assert "cannot be written: " in output.getvalue()


@pytest.mark.parametrize("stopped", [False, True])
def test_full_disk_is_the_reason_of_jobs_without_an_end(
    sweep: Path, output: io.StringIO, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """Their journals could not be written."""
    monkeypatch.setattr(session, "find_disk_error", lambda directory: DiskError(f"no space; free some. {RESUME}"))
    with nullcontext() if stopped else pytest.raises(TapirError, match=r"waiting \(failed: no space; free some\)"):
        SweepSession(sweep, PLAN, write_page).finish(stopped=stopped)
    rows = {cells[0]: cells[1:] for line in output.getvalue().splitlines() if len(cells := re.split("  +", line)) > 1}
    assert rows["name=waiting"][0] == ("waiting" if stopped else "failed")
    assert rows["name=waiting"][-1] == rows["name=killed"][-1] == "no space; free some."
    assert rows["name=failed"][-1] == "no key."
    assert "no space" not in rows["name=finished"][-1]


def test_error_of_the_page_follows_the_table(sweep: Path, output: io.StringIO) -> None:
    def fail(directory: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TapirError, match="no space"):
        SweepSession(sweep, PLAN, fail).finish()
    assert "name=waiting" in output.getvalue()


def test_second_process_on_a_sweep_is_refused(sweep: Path, output: io.StringIO) -> None:
    first = SweepSession(sweep, PLAN, write_page)
    with pytest.raises(TapirError, match=r"is in use by process \d+ on "):
        SweepSession(sweep, PLAN, write_page)
    first.finish(stopped=True)
    SweepSession(sweep, PLAN, write_page).finish(stopped=True)


def test_page_of_a_running_sweep_is_rewritten_sometimes(sweep: Path, output: io.StringIO) -> None:
    written: list[Path] = []

    def write(directory: Path) -> Any:
        written.append(directory)
        if len(written) == 1:
            raise RuntimeError("half a file")

    with FileLock(sweep / session.PAGE_LOCK):
        update_page(sweep, write)
    assert written == []  # another job writes it
    update_page(sweep, write)
    assert "RuntimeError: half a file" in output.getvalue()
    session._page_due[0] = float("inf")
    update_page(sweep, write)
    assert len(written) == 1


@pytest.mark.parametrize(
    ("usd", "calls", "text"), [(0.0, 0, "–"), (None, 3, "unknown"), (0.0021, 3, "$0.0021"), (1234.5, 3, "$1,234.50")]
)
def test_format_usd(usd: float | None, calls: int, text: str) -> None:
    assert format_usd(usd, calls) == text


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"jobs": 3, "defaults": {}, "baseline": {}}', '{"jobs": [], "defaults": 1}']
)
def test_damaged_plan_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    assert SweepPlan.load(tmp_path) == SweepPlan()


def test_plan_is_read_back(tmp_path: Path) -> None:
    plan = SweepPlan([["seed=1"], ["seed=2"]], {"seed": "0"}, {"teacher": "lab"})
    plan.write(tmp_path)
    assert SweepPlan.load(tmp_path) == plan
