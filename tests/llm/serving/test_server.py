"""A server in a child process: started, checked, started again, stopped in every case."""

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


def wait_for(holds: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.05)


def test_it_serves_until_the_end_of_the_with(tmp_path: Path) -> None:
    with ManagedServer(fake(tmp_path)) as server:
        assert not server.alive  # nothing is started before somebody needs it
        server.ensure()
        pid = ask(server)
        server.ensure()
        assert ask(server) == pid
    assert not is_running(pid)
    assert "it is up" in (tmp_path / "server.log").read_text()


def test_many_callers_start_one(tmp_path: Path) -> None:
    with ManagedServer(fake(tmp_path)) as server:
        callers = [threading.Thread(target=server.ensure) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert (tmp_path / "server.log").read_text().count("it is up") == 1


def test_one_that_dies_is_started_again_at_the_same_address_and_said(
    tmp_path: Path,
) -> None:
    with ManagedServer(fake(tmp_path, max_restarts=1)) as server, console.capture() as said:
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
        for _ in range(2):  # whoever asks hears the reason
            with pytest.raises(ServerError, match=r"(?s)died with status 137, for the 2\. time.*it is up"):
                server.ensure()
    assert "teacher: died with status 137; starting it again (1 of 1)" in said.get()


def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    code = "import sys; print('no such weights'); sys.exit(7)"
    with (
        ManagedServer(fake(tmp_path, code)) as server,
        pytest.raises(ServerError, match=r"(?s)ended with status 7 before it could serve.*no such weights"),
    ):
        server.ensure()


def test_one_that_never_answers_is_given_up_in_time_and_stopped(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with (
        ManagedServer(fake(tmp_path, code, startup_timeout_s=1.0)) as server,
        pytest.raises(ServerError, match=r"did not answer http://127\.0\.0\.1:\d+/health within 1 s"),
    ):
        server.ensure()
    assert not is_running(int((tmp_path / "server.log").read_text()))


def test_what_the_server_started_ends_with_it(tmp_path: Path) -> None:
    child = "import subprocess, sys; c = subprocess.Popen(['sleep', '600']); print(c.pid, flush=True)\n"
    with ManagedServer(fake(tmp_path, child + FAKE)) as server:
        server.ensure()
        pid = int((tmp_path / "server.log").read_text().split()[0])
        assert is_running(pid)
    wait_for(lambda: not is_running(pid))


def test_it_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal\nfrom urllib.request import urlopen\n"
        "from tapir_exp.llm.serving.server import Server, Service\n"
        f"server = Server(Service('teacher', ('{{python}}', '-c', {FAKE!r}, '{{port}}'), pathlib.Path('server.log')))\n"
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


def test_it_ends_with_its_guard(tmp_path: Path) -> None:
    with ManagedServer(fake(tmp_path)) as server:
        server.ensure()
        pid = ask(server)
        assert server._process is not None
        os.kill(server._process.pid, signal.SIGKILL)
        wait_for(lambda: not is_running(pid))


def test_another_servers_health_is_not_taken_for_its_own(tmp_path: Path) -> None:
    with ManagedServer(fake(tmp_path)) as first, ManagedServer(fake(tmp_path)) as second:
        first.ensure()
        second._port = first._port  # somebody else was faster
        with pytest.raises(ServerError, match="taken by another"):
            second.ensure()
