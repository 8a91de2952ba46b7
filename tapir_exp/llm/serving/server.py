"""A server that a run starts on this machine, checks, starts again when it dies, and stops.

It is any command that serves HTTP at a port; nothing here knows what it serves. It runs below `guard.py`, which ends it
with this process, also where this one is killed.
"""

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

PORT, PYTHON = "{port}", "{python}"
"""What stands in a command for the port to listen at, and for this interpreter."""
POLL_S = 0.1
"""How often a starting server is asked for its health."""
HEALTH_TIMEOUT_S = 5.0
"""How long it may take to say."""
HANG_TIMEOUT_S = 30.0
"""How long one that has served may take to say so before it is taken to hang; a busy one may be slow."""
LOG_TAIL_LINES = 15
"""Lines of the log that an error shows."""
_open = build_opener(ProxyHandler({})).open
"""Asks this machine itself, whatever proxy the environment names."""


class ServerError(TapirError):
    """A server that does not start, or died once too often; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class ServerSpec:
    """What a server is.

    name: for messages. command: its words, with {port} where it is told the port and {python} for this interpreter.
    health_path: path that answers 200 once it can serve. start_s: seconds until it must. restarts: how often it may die and
    be started again. log: file that its output is added to.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    health_path: str = "/health"
    startup_timeout_s: float = 300.0
    max_restarts: int = 3

    def words(self, port: int) -> list[str]:
        """The command as it is run."""
        return [word.replace(PORT, str(port)).replace(PYTHON, sys.executable) for word in self.command]


class ManagedServer:
    """A service while it is needed: `ensure` starts it, or starts it again; the end of the `with` stops it."""

    def __init__(self, service: ServerSpec) -> None:
        self._service = service
        self._port = find_free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._deaths = 0
        self._gave_up: str | None = None

    def __enter__(self) -> "ManagedServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def base(self) -> str:
        """Its address; the same after every start."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def alive(self) -> bool:
        """Whether it has been started and has not died."""
        return self._process is not None and self._process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it has been started, can serve, and has not died."""
        return self.alive and not self._lock.locked()

    def ensure(self) -> None:
        """See to it that it serves, for any number of callers at once; takes nothing where it does.

        Raises ServerError where it does not start in time, or died more often than it may.
        """
        if self.ready:
            return
        with self._lock:
            if self._gave_up is not None:
                raise ServerError(self._gave_up)
            if self._process is not None and not self.alive:
                self._bury()
            if self._process is None:
                self._start()

    def end_if_hung(self) -> None:
        """Stop it where it runs and does not answer; for `ensure` it is then one that has died."""
        with self._lock:
            process = self._process
            if process is None or not self.alive or self._is_healthy(HANG_TIMEOUT_S):
                return
            service = self._service
            console.print(
                f"{service.name}: hangs, {service.health_path} gave no answer within {HANG_TIMEOUT_S:g} s; stopping it",
                markup=False,
                soft_wrap=True,
            )
            _terminate(process)

    def stop(self) -> None:
        """Stop it, and whatever it has started; also while it starts. `ensure` would start it anew."""
        process, self._process = self._process, None
        if process is not None:
            _terminate(process)

    def _start(self) -> None:
        service, began = self._service, time.monotonic()
        if _port_in_use(self._port):
            self._fail("finds its port taken by another program, which was faster")
        service.log.parent.mkdir(parents=True, exist_ok=True)
        with service.log.open("ab") as log:
            self._process = process = _spawn_guarded(service.words(self._port), log)
        try:
            while not self._is_healthy(HEALTH_TIMEOUT_S):
                if process.poll() is not None:
                    self._fail(f"ended with status {process.returncode} before it could serve")
                if time.monotonic() - began > service.startup_timeout_s:
                    self._fail(
                        f"did not answer {self.base}{service.health_path} within {service.startup_timeout_s:g} s"
                    )
                time.sleep(POLL_S)
        except BaseException:
            self.stop()
            raise
        console.print(f"{service.name}: serves at {self.base} after {time.monotonic() - began:.1f} s", markup=False)

    def _is_healthy(self, within_s: float) -> bool:
        try:
            with _open(self.base + self._service.health_path, timeout=within_s) as answer:
                return bool(answer.status == HTTPStatus.OK)
        except (URLError, OSError):
            return False

    def _bury(self) -> None:
        """Say that it died, and whether it is started again."""
        assert self._process is not None
        status, self._process = self._process.returncode, None
        self._deaths += 1
        if self._deaths > self._service.max_restarts:
            self._fail(f"died with status {status}, for the {self._deaths}. time")
        console.print(
            f"{self._service.name}: died with status {status}; starting it again "
            f"({self._deaths} of {self._service.max_restarts}); what was answered is kept",
            markup=False,
            soft_wrap=True,
        )

    def _fail(self, what: str) -> None:
        service = self._service
        self._gave_up = (
            f"{service.name}: the server {what}. Its command: {' '.join(service.words(self._port))}\n"
            f"The last lines of {service.log}:\n{tail_log(service.log)}\n"
            "What was answered is kept: mend the cause and run the same command again."
        )
        raise ServerError(self._gave_up)


def find_free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _port_in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tail_log(log: Path) -> str:
    """The end of a log, indented."""
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:] if log.is_file() else []
    return "\n".join(f"  {line}" for line in lines) or "  (it is empty)"


def _spawn_guarded(words: Sequence[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """The command below its guard, in a session of its own, so that Ctrl-C reaches it only through us."""
    guarded = [sys.executable, "-S", "-E", str(process_guard.__file__), *words]
    return subprocess.Popen(guarded, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)


def _terminate(process: "subprocess.Popen[bytes]") -> None:
    """Have the guard end the command and all that it has started."""
    assert process.stdin is not None, "the guard is started with a pipe"
    with suppress(BrokenPipeError):
        process.stdin.close()
    process.wait()
