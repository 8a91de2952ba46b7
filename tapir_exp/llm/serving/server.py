"""Local HTTP servers that a run starts, monitors, restarts after a crash, and stops.

A server is any command that listens at a port. It runs under `process_guard.py`, which ends it together with this
process, even if this process is killed.
"""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from tapir_exp.core.console import console
from tapir_exp.core.errors import TapirError
from tapir_exp.llm.serving import process_guard

PORT, PYTHON, WEIGHTS = "{port}", "{python}", "{weights}"
"""Placeholders in a command for the port and for this Python interpreter."""
POLL_S = 0.1
"""Interval of health checks while a server starts."""
HEALTH_TIMEOUT_S = 5.0
"""Time-out of such a check."""
HANG_TIMEOUT_S = 30.0
"""Time-out of a health check of a running server; longer, because a busy server may be slow."""
LOG_TAIL_LINES = 15
"""Lines of the log in an error message."""
_open = build_opener(ProxyHandler({})).open
"""Opens a local URL; it ignores proxies that the environment configures."""


class ServerError(TapirError):
    """A server that does not start or crashes too often; the message includes the last lines of its log."""


@dataclass(frozen=True)
class ServerSpec:
    """How to start and check a server.

    Attributes:
        name: Name in messages.
        command: Command and arguments; {port}, {python} and {weights} are replaced.
        log: File that the output is appended to.
        health_path: Path that returns status 200 once the server can serve.
        startup_timeout_s: Seconds until it must be able to serve.
        max_restarts: Restarts after a crash.
        weights: Path that replaces {weights}.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    health_path: str = "/health"
    startup_timeout_s: float = 300.0
    max_restarts: int = 3
    weights: str = ""

    def arguments(self, port: int) -> list[str]:
        """Return the command with its placeholders replaced; a path that holds `{port}` stays as it is."""
        values = {PORT: str(port), PYTHON: sys.executable, WEIGHTS: self.weights}
        # In one pass, so that nothing is replaced within a replacement.
        pattern = re.compile("|".join(map(re.escape, values)))
        return [pattern.sub(lambda match: values[match[0]], part) for part in self.command]


class ManagedServer:
    """A server process: `ensure` starts or restarts it, and leaving the `with` block stops it."""

    def __init__(self, spec: ServerSpec) -> None:
        self._spec = spec
        # Chosen once: clients keep the address when the server is restarted.
        self._port = find_free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._crashes = 0
        self._fatal: str | None = None

    def __enter__(self) -> "ManagedServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def base(self) -> str:
        """Return the address, which stays the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def alive(self) -> bool:
        """Return True if the process is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def ready(self) -> bool:
        """Return True if the process is running and can serve."""
        return self.alive and not self._lock.locked()

    def ensure(self) -> None:
        """Start or restart the server if it is not running; safe to call from several threads.

        Raises:
            ServerError: If it does not start in time, or has crashed more than `max_restarts` times.
        """
        if self.ready:
            return
        with self._lock:
            # Another thread may have started it by now, or failed to.
            if self._fatal is not None:
                raise ServerError(self._fatal)
            if self._process is not None and not self.alive:
                self._handle_exit()
            if self._process is None:
                self._start()

    def end_if_hung(self) -> None:
        """Stop the server if it does not answer a health check, so that the next `ensure` restarts it."""
        with self._lock:
            process = self._process
            if process is None or not self.alive or self._is_healthy(HANG_TIMEOUT_S):
                return
            console.print(
                f"{self._spec.name}: server hangs; no answer from {self._spec.health_path} within "
                f"{HANG_TIMEOUT_S:g} s; stopping it",
                markup=False,
                soft_wrap=True,
            )
            _terminate(process)

    def stop(self) -> None:
        """Stop the server and its child processes, also during its start."""
        # Reset first, so that a thread within `ensure` does not take the stopped process for a crash.
        process, self._process = self._process, None
        if process is not None:
            _terminate(process)

    def _start(self) -> None:
        spec, began = self._spec, time.monotonic()
        if _port_in_use(self._port):
            self._fail(f"cannot start: port {self._port} is in use by another process")
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        with spec.log.open("ab") as log:
            self._process = process = _spawn_guarded(spec.arguments(self._port), log)
        try:
            while not self._is_healthy(HEALTH_TIMEOUT_S):
                if process.poll() is not None:
                    self._fail(f"exited with status {process.returncode} before it could serve")
                if time.monotonic() - began > spec.startup_timeout_s:
                    self._fail(f"did not answer {self.base}{spec.health_path} within {spec.startup_timeout_s:g} s")
                time.sleep(POLL_S)
        except BaseException:  # Ctrl-C included: a server that is still loading must not stay behind
            self.stop()
            raise
        console.print(f"{spec.name}: serving at {self.base} after {time.monotonic() - began:.1f} s", markup=False)

    def _is_healthy(self, within_s: float) -> bool:
        try:
            with _open(self.base + self._spec.health_path, timeout=within_s) as response:
                return bool(response.status == HTTPStatus.OK)
        except (URLError, OSError):
            return False

    def _handle_exit(self) -> None:
        """Count a crash, and report whether the server is restarted.

        Raises:
            ServerError: If it has crashed more than `max_restarts` times.
        """
        assert self._process is not None
        status, self._process = self._process.returncode, None
        self._crashes += 1
        limit = self._spec.max_restarts
        if self._crashes > limit:
            self._fail(f"exited with status {status} (failure {self._crashes}; restart limit of {limit} reached)")
        console.print(
            f"{self._spec.name}: server exited with status {status}; restarting it ({self._crashes} of {limit}); "
            "completed requests are cached",
            markup=False,
            soft_wrap=True,
        )

    def _fail(self, reason: str) -> None:
        """Raise ServerError, now and at every later `ensure`."""
        spec = self._spec
        self._fatal = (
            f"{spec.name}: the server {reason}. Command: {' '.join(spec.arguments(self._port))}\n"
            f"Last lines of {spec.log}:\n{tail_log(spec.log)}\n"
            "Completed requests are cached: fix the cause and run the same command again."
        )
        raise ServerError(self._fatal)


def find_free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _port_in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tail_log(log: Path) -> str:
    """Return the last lines of a log, indented."""
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:] if log.is_file() else []
    return "\n".join(f"  {line}" for line in lines) or "  (empty)"


def _spawn_guarded(command: Sequence[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a command under its guard."""
    guarded = [sys.executable, "-S", "-E", str(process_guard.__file__), *command]
    # In a new session Ctrl-C does not reach the server: this process stops it in order.
    return subprocess.Popen(guarded, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)


def _terminate(process: "subprocess.Popen[bytes]") -> None:
    """End a command and its child processes: closing its input makes the guard stop them."""
    assert process.stdin is not None, "the guard is started with a pipe"
    with suppress(BrokenPipeError):
        process.stdin.close()
    process.wait()
