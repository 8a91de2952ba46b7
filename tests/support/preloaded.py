"""Processes of `tapir` that start with their libraries already imported.

A new interpreter imports torch and transformers for about eight seconds, most of the time of a tiny run. A server
process imports them once, and forks itself for each run. Use `python -m tapir_exp` if a test needs a new interpreter.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import current_process, get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from tapir_exp.commands.main import main

LIBRARIES = (
    *("tapir_exp.commands.run_job", "tapir_exp.commands.hydra_app", "tapir_exp.lab.base_student"),
    *("tapir_exp.student.training.train", "tapir_exp.student.generate", "wandb", "peft"),
)
TIMEOUT_S = 300

_context = get_context("forkserver")
_context.set_forkserver_preload(list(LIBRARIES))


class PreloadedProcess:
    """Process that runs a command of `tapir`, with the methods of `subprocess.Popen` that tests need.

    Args:
        arguments: Arguments of `tapir`.
        stdout: File to which standard output is appended; without one it is dropped.
        stderr: File to which standard error is appended; by default that of standard output.
        cwd: Working directory; by default that of the test.
        env: Environment; by default that of the test.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdout: Path | None = None,
        stderr: Path | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        files = [str(path or os.devnull) for path in (stdout, stderr or stdout)]
        target = (list(arguments), files, str(cwd or Path.cwd()), dict(os.environ if env is None else env))
        self._process = _context.Process(target=_run, args=target)
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit code, None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        """Wait for the end and return the exit code.

        Raises:
            TimeoutError: The process has not ended in `timeout` seconds; it is killed.
        """
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            self.send_signal(signal.SIGKILL)
            raise TimeoutError(f"the run did not end within {timeout:g} s")
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs."""
        if self.poll() is None and self._process.pid is not None:
            os.kill(self._process.pid, number)


@dataclass(frozen=True)
class Finished:
    """Exit code and output of a finished process."""

    returncode: int
    stdout: str
    stderr: str


def run_preloaded(
    arguments: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT_S,
) -> Finished:
    """Run a command of `tapir` to its end, and return its exit code and output."""
    with TemporaryDirectory() as directory:
        out, err = Path(directory, "stdout"), Path(directory, "stderr")
        code = PreloadedProcess(arguments, stdout=out, stderr=err, cwd=cwd, env=env).wait(timeout)
        return Finished(code, out.read_text(), err.read_text())


def _run(arguments: list[str], files: list[str], cwd: str, env: dict[str, str]) -> None:
    for stream, path in enumerate(files, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    current_process().name = "MainProcess"  # with another name the run counts as a worker of a sweep
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["tapir", *arguments]
    main()
