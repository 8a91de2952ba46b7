"""`tapir view`: the database is made once, the port is ours only, and a missing extra has a remedy."""

import socket
from contextlib import closing
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tapir_exp.commands import view_job
from tapir_exp.commands.view import main
from tapir_exp.core.errors import ConfigError, StoreError
from tapir_exp.core.events import EVENTS, EventStream, Kind


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return the directory of a run that has only begun."""
    EventStream(tmp_path / EVENTS).record(Kind.RUN_STARTED, pid=1)
    return tmp_path


def test_build_only_writes_the_file_once(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run_dir), "--build-only"])
    assert capsys.readouterr().out.strip() == str(run_dir / "view.sqlite")
    first = (run_dir / "view.sqlite").stat().st_mtime_ns
    main([str(run_dir), "--build-only"])
    assert (run_dir / "view.sqlite").stat().st_mtime_ns == first
    EventStream(run_dir / EVENTS).record(Kind.RUN_FAILED, reason="x")
    main([str(run_dir), "--build-only"])
    assert (run_dir / "view.sqlite").stat().st_mtime_ns > first


def test_missing_directory_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere is not a directory; give that of a run or a sweep"):
        main([str(tmp_path / "nowhere"), "--build-only"])


def test_missing_extra_is_an_error_with_a_remedy(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name == "datasette" else ModuleSpec(name, None)

    monkeypatch.setattr(view_job, "find_spec", find)
    with pytest.raises(ConfigError, match=r"datasette, which is not installed: pip install 'tapir-exp\[view\]'"):
        main([str(run_dir), "--no-open"])


def test_listener_is_on_this_machine_only() -> None:
    with closing(view_job._listen(0)) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: cannot be used"):
            view_job._listen(port)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_port_that_does_not_exist_is_an_error(port: int) -> None:
    with pytest.raises(ConfigError, match="expected a free port"):
        view_job._listen(port)


def test_default_port_in_use_gives_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.socket()) as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        monkeypatch.setattr(view_job, "DEFAULT_PORT", busy.getsockname()[1])
        with closing(view_job._listen(None)) as listener:
            assert listener.getsockname()[1] != busy.getsockname()[1]
