"""Run a module of submitit in a process that ends with the sweep: `python -m ... PID STARTED -m MODULE ARGUMENTS`.

submitit starts a job through a process of its own, which goes on after the end of the sweep. So the job watches the
sweep itself, and does so before it imports or unpickles anything, which takes seconds on a busy machine.
"""

import runpy
import shlex
import socket
import sys

from tapir_exp.core.processes import ProcessRef, end_with_parent


def python_command(sweep: ProcessRef) -> str:
    """Return what submitit shall run in place of `python`, as text for a shell.

    Args:
        sweep: The process of the sweep, on this machine.
    """
    return shlex.join([sys.executable, "-u", "-m", __name__, str(sweep.pid), sweep.started or "-"])


def main() -> None:
    """Watch the sweep, and run the module that the command line names."""
    _, pid, started, *options = sys.argv
    end_with_parent(ProcessRef(socket.gethostname(), int(pid), started.removeprefix("-")))
    module = options.index("-m") + 1
    sys.argv[1:] = options[module + 1 :]
    runpy.run_module(options[module], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
