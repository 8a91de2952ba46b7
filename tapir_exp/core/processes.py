"""End a worker process with the process that started it, even if that process is killed and cannot notify it."""

import os
import signal
import socket
import time
from dataclasses import dataclass
from multiprocessing import current_process
from pathlib import Path
from threading import Thread, main_thread

POLL_S = 0.25
"""Interval of checks of the parent."""
GRACE_S = 1.5
"""Time for an orderly stop, as after Ctrl-C: calls in flight are read, and the spend is written."""
MORE_S = 0.5
"""Time after `GRACE_S` in which this process exits by itself."""
ORPHANED_EXIT_CODE = 86
"""Exit code of a process after the end of its parent."""

SWEEP_VARIABLE = "TAPIR_SWEEP_PROCESS"
"""Environment variable with process id and start time of a sweep, for worker processes that start without arguments."""

_watched: list[Thread] = []
"""The thread that watches the parent; a worker starts it once for all of its jobs."""
_marked: list[bool] = []
"""Not empty in a worker that `multiprocessing` did not start."""


@dataclass(frozen=True)
class ProcessRef:
    """A process of a machine, which another process with the same id is not.

    Attributes:
        host: Name of its machine.
        pid: Process id.
        started: Start time in clock ticks since the boot; empty if the system does not report it.
    """

    host: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> "ProcessRef":
        """Return this process."""
        return cls(socket.gethostname(), os.getpid(), _start_time(os.getpid()))

    @property
    def is_here(self) -> bool:
        """Return whether the process belongs to this machine, so that it can be watched."""
        return self.host == socket.gethostname() and self.is_running

    @property
    def is_running(self) -> bool:
        """Return whether the process has not ended; it must belong to this machine."""
        if self.started:
            return _start_time(self.pid) == self.started
        try:
            os.kill(self.pid, 0)  # sends nothing
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def mark_worker() -> None:
    """Make this process a worker: it runs jobs of a sweep that another process has started."""
    _marked.append(True)


def is_worker() -> bool:
    """Return whether this process runs jobs of a sweep that another process has started."""
    return bool(_marked) or current_process().name != "MainProcess"


def announce_to_workers() -> None:
    """Name this process to the worker processes that it starts; one that starts late cannot find an ended parent."""
    me = ProcessRef.current()
    os.environ[SWEEP_VARIABLE] = f"{me.pid} {me.started}"


def end_with_parent(parent: ProcessRef | None = None, between: int | None = None) -> None:
    """Interrupt this process if its parent ends, and exit `GRACE_S` later; a second call does nothing.

    Args:
        parent: A process of this machine to watch; by default the announced one, or the one that started this process.
        between: Id of a process between the two that does nothing but wait for this one; it is killed then.
    """
    if not _watched:
        pid, _, started = os.environ.get(SWEEP_VARIABLE, "").partition(" ")
        if parent is None and pid.isdigit():
            parent = ProcessRef(socket.gethostname(), int(pid), started)
        _watched.append(Thread(target=_watch, args=(os.getppid(), parent, between), daemon=True))
        _watched[0].start()


def _watch(ppid: int, parent: ProcessRef | None, between: int | None) -> None:
    # An orphan gets another parent. PR_SET_PDEATHSIG would also fire at the end of the thread that started the process.
    while parent.is_running if parent else os.getppid() == ppid:
        time.sleep(POLL_S)
    if between is not None and os.getppid() == between:
        os.kill(between, signal.SIGKILL)
    # The end of the interpreter stops this thread, and takes long on a busy machine; the kernel's timer goes on.
    if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
        signal.setitimer(signal.ITIMER_REAL, GRACE_S + MORE_S)
    # A real signal, because `_thread.interrupt_main` ends no wait of the main thread.
    signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)
    time.sleep(GRACE_S)
    os._exit(ORPHANED_EXIT_CODE)  # sys.exit would end this thread only


def _start_time(pid: int) -> str:
    """Return the start time of a process in clock ticks; empty if it has ended, or if there is no /proc."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
