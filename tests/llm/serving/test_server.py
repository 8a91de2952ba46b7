"""Local servers: start, health check, restart, and stop in every case."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
from assets import ROOT

from tapir_exp.core.console import console
from tapir_exp.llm.serving.server import ManagedServer, ServerError, ServerSpec

FAKE = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die": os._exit(3)
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *arguments): pass
print("it is up", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def fake(tmp_path: Path, code: str = FAKE, **settings: object) -> ServerSpec:
    return ServerSpec("teacher", ("{python}", "-c", code, "{port}"), tmp_path / "server.log", **settings)  # type: ignore[arg-type]


def ask(server: ManagedServer, path: str = "/health") -> int:
    with urlopen(server.base + path, timeout=5) as answer:
        return int(answer.read())


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].strip().startswith("Z")


def wait_for(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not reached within {seconds:g} s"
        time.sleep(0.05)


def test_server_runs_until_end_of_with(tmp_path: Path) -> None:
    with ManagedServer(fake(tmp_path)) as server:
        assert not server.alive  # started at the first `ensure` only
        server.ensure()
        pid = ask(server)
        server.ensure()
        assert ask(server) == pid
    assert not is_running(pid)
    assert "it is up" in (tmp_path / "server.log").read_text()


def test_concurrent_ensure_starts_one_process(tmp_path: Path) -> None:
    with ManagedServer(fake(tmp_path)) as server:
        callers = [threading.Thread(target=server.ensure) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert (tmp_path / "server.log").read_text().count("it is up") == 1


def test_crashed_server_restarts_at_same_address(
    tmp_path: Path,
) -> None:
    with ManagedServer(fake(tmp_path, max_restarts=1)) as server, console.capture() as output:
        server.ensure()
        base, pid = server.base, ask(server)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not server.alive)
        server.ensure()
        assert server.base == base
        again = ask(server)
        assert again != pid
        os.kill(again, signal.SIGKILL)
        wait_for(lambda: not server.alive)
        for _ in range(2):  # every later call fails for the same reason
            with pytest.raises(ServerError, match=r"(?s)exited with status 137 \(failure 2; restart limit.*it is up"):
                server.ensure()
    assert "teacher: server exited with status 137; restarting it (1 of 1)" in output.get()


def test_failed_start_shows_log(tmp_path: Path) -> None:
    code = "import sys; print('no such weights'); sys.exit(7)"
    with (
        ManagedServer(fake(tmp_path, code)) as server,
        pytest.raises(ServerError, match=r"(?s)exited with status 7 before it could serve.*no such weights"),
    ):
        server.ensure()


def test_start_timeout_stops_process(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with (
        ManagedServer(fake(tmp_path, code, startup_timeout_s=2.0)) as server,
        pytest.raises(ServerError, match=r"did not answer http://127\.0\.0\.1:\d+/health within 2 s"),
    ):
        server.ensure()
    assert not is_running(int((tmp_path / "server.log").read_text()))


def test_stop_ends_child_processes(tmp_path: Path) -> None:
    child = "import subprocess, sys; c = subprocess.Popen(['sleep', '600']); print(c.pid, flush=True)\n"
    with ManagedServer(fake(tmp_path, child + FAKE)) as server:
        server.ensure()
        pid = int((tmp_path / "server.log").read_text().split()[0])
        assert is_running(pid)
    wait_for(lambda: not is_running(pid))


def test_server_ends_with_killed_parent(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal\nfrom urllib.request import urlopen\n"
        "from tapir_exp.llm.serving.server import ManagedServer, ServerSpec\n"
        f"spec = ServerSpec('teacher', ('{{python}}', '-c', {FAKE!r}, '{{port}}'), pathlib.Path('server.log'))\n"
        "server = ManagedServer(spec)\n"
        "server.ensure()\nprint(urlopen(server.base + '/health').read().decode(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = str(ROOT)
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_for(lambda: not is_running(int(done.stdout)))


def test_server_ends_with_killed_guard(tmp_path: Path) -> None:
    with ManagedServer(fake(tmp_path)) as server:
        server.ensure()
        pid = ask(server)
        assert server._process is not None
        os.kill(server._process.pid, signal.SIGKILL)
        wait_for(lambda: not is_running(pid))


def test_port_in_use_is_an_error(tmp_path: Path) -> None:
    with ManagedServer(fake(tmp_path)) as first, ManagedServer(fake(tmp_path)) as second:
        first.ensure()
        second._port = first._port  # the other server was faster
        with pytest.raises(ServerError, match=r"port \d+ is in use"):
            second.ensure()
