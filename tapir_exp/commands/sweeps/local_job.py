"""Jobs that submitit starts on this machine: they end with the sweep, and the sweep alone interrupts them.

submitit puts a process of its own between the sweep and each job. It goes on after the end of the sweep, and a Ctrl-C
in the terminal would reach all three at once. So it starts with interrupts blocked, and the job has a
process group of its own. The job watches the sweep before it imports or unpickles anything, which may take seconds.
"""

import runpy
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import getppid, setpgid
from typing import Any

from tapir_exp.core.processes import ProcessRef, end_with_parent


def python_command(sweep: ProcessRef) -> str:
    """Return what submitit shall run in place of `python`, as text for a shell.

    Args:
        sweep: The process of the sweep, on this machine.
    """
    return shlex.join([sys.executable, "-u", "-m", __name__, str(sweep.pid), sweep.started or "-"])


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C in the processes that are started during the block; here it is delivered at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class InterruptibleJob:
    """A job that stops in order on SIGTERM, which submitit passes on to it, and would make it ignore.

    Attributes:
        job: Carries out the job.
    """

    job: Callable[[], Any]

    def __call__(self) -> Any:
        """Carry out the job."""
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        return self.job()

    def checkpoint(self) -> Any:
        """Start the job again if its time is up: it resumes from its last checkpoint. Called by submitit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def main() -> None:
    """Watch the sweep, and run the module that the command line names: PID STARTED -m MODULE ARGUMENTS."""
    _, pid, started, *options = sys.argv
    setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    end_with_parent(ProcessRef(socket.gethostname(), int(pid), started.removeprefix("-")), between=getppid())
    module = options.index("-m") + 1
    sys.argv[1:] = options[module + 1 :]
    runpy.run_module(options[module], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
