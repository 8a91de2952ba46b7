"""End a worker process with its parent, even if the parent is killed and cannot tell it."""

import os
import signal
import time
from threading import Thread, main_thread

POLL_S = 0.25
"""Interval of checks of the parent."""
GRACE_S = 2.5
"""Time for an orderly stop, as after Ctrl-C: calls in flight are read, and the spend is written."""
ORPHANED_EXIT_CODE = 86
"""Exit code of a process after the death of its parent."""

_watched: list[Thread] = []
"""The thread that watches the parent; a worker starts it once for all of its jobs."""


def end_with_parent() -> None:
    """Interrupt this process if its parent ends, and exit `GRACE_S` later; a second call does nothing."""
    if not _watched:
        _watched.append(Thread(target=_watch, args=(os.getppid(),), daemon=True))
        _watched[0].start()


def _watch(parent: int) -> None:
    # An orphan gets another parent. PR_SET_PDEATHSIG would also fire at the end of the thread that started the process.
    while os.getppid() == parent:
        time.sleep(POLL_S)
    # A real signal, because `_thread.interrupt_main` ends no wait of the main thread.
    signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)
    time.sleep(GRACE_S)
    os._exit(ORPHANED_EXIT_CODE)  # sys.exit would end this thread only
