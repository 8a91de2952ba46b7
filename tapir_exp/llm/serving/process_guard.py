"""Runs a command for as long as whoever started this lives: `python guard.py COMMAND ...`, with a pipe for its input.

The pipe ends when its other side is closed, and with its process, whatever kills that. Then the command and all that it
has started are stopped. A file that imports nothing of the package, so that it starts in some ten milliseconds.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 5.0
"""How long the command may take to stop before it is killed."""
WATCH_S = 0.1
"""How often it is looked at."""
PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""


def main() -> int:
    """Run the command to its end, or until the pipe ends; the exit status is the command's, 128 and more a signal's."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    command = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent
    )
    try:
        while command.poll() is None:
            if select.select([sys.stdin], [], [], WATCH_S)[0]:
                break
    finally:
        stop(command)  # where it has ended, what it started may go on
    status = command.returncode
    return status if status >= 0 else 128 - status


def stop(command: "subprocess.Popen[bytes]") -> None:
    """End the whole session of the command: asked first, then killed."""
    _signal(command, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while command.poll() is None and time.monotonic() < deadline:
        time.sleep(WATCH_S / 2)
    _signal(command, signal.SIGKILL)
    command.wait()


def _die_with_parent() -> None:
    """Where the kernel can, be killed with this guard, should somebody kill that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal(command: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(command.pid, number)


if __name__ == "__main__":
    sys.exit(main())
