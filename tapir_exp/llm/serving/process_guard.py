"""Guard of a child process, to be run as a script with a pipe as its input: `python process_guard.py COMMAND ...`.

The pipe closes when the parent closes it or ends, even if the parent is killed. The guard then stops the command and
its child processes. The file imports nothing of the package, so that it starts within some ten milliseconds.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 3.0
"""Time between SIGTERM and SIGKILL; five seconds after a kill of the parent nothing may be left."""
WATCH_S = 0.1
"""Interval of checks of the command and of the pipe."""
PR_SET_PDEATHSIG = 1
"""Constant of linux/prctl.h."""


def main() -> int:
    """Run the command until it ends or the pipe closes. Return its exit status; 128 + n stands for signal n."""
    # SystemExit, so that `finally` below also runs on SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    command = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent
    )
    try:
        while command.poll() is None:
            if select.select([sys.stdin], [], [], WATCH_S)[0]:
                break
    finally:
        stop(command)  # also after its end, because its child processes may still run
    status = command.returncode
    return status if status >= 0 else 128 - status


def stop(command: "subprocess.Popen[bytes]") -> None:
    """Stop all processes in the session of the command, first with SIGTERM, then with SIGKILL."""
    _signal(command, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while command.poll() is None and time.monotonic() < deadline:
        time.sleep(WATCH_S / 2)
    _signal(command, signal.SIGKILL)
    command.wait()


def _die_with_parent() -> None:
    """Make the kernel kill the command if the guard itself is killed; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal(command: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(command.pid, number)


if __name__ == "__main__":
    sys.exit(main())
