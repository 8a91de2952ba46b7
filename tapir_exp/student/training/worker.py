"""One of the processes that share a fit: `python -m tapir_exp.student.training.worker ROOM`, started by an engine for launching.

It reads the job in ROOM, and nothing of the command line or environment of the command that the fit is a part of.
"""

import os
import sys
import traceback
from pathlib import Path
from threading import Thread

from tapir_exp.core.console import Progress
from tapir_exp.core.errors import TapirError
from tapir_exp.core.store import write_text_atomic
from tapir_exp.student.training.job import read_job
from tapir_exp.student.training.launcher import JOB, RANK_LOG, ORPHANED_EXIT_CODE, PROGRESS, RANK_ERROR


class FileProgress(Progress):
    """Tells the parent process how far the fit is, in the place of a progress bar."""

    def __init__(self, path: Path) -> None:
        super().__init__("", 0)
        self._path, self._done = path, 0

    def advance(self, steps: int = 1) -> None:
        """Move on by so many steps."""
        self._done += steps
        if current_rank() == 0:
            write_text_atomic(self._path, str(self._done))


def current_rank() -> int:
    """The number of this process among all, as torchrun or SLURM tells it."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def exit_with_parent() -> None:
    """End this process as soon as the other end of its standard input is closed, which only a death can do.

    The pipe goes from the process of `tapir` through the launcher, and ssh or srun where these are between.
    """

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(ORPHANED_EXIT_CODE)

    Thread(target=watch, daemon=True).start()


def redirect_output(log: Path) -> None:
    """Send all that this process prints to a file of its own."""
    stream = log.open("ab")
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)


def main(room: Path) -> None:
    """Take part in the fit whose job lies in `room`."""
    exit_with_parent()
    redirect_output(room / RANK_LOG.format(current_rank()))
    from tapir_exp.student.training.train import fit

    try:
        fit(read_job(room / JOB), room.parent, FileProgress(room / PROGRESS))
    except TapirError as error:
        write_text_atomic(room / RANK_ERROR.format(current_rank()), str(error))
        raise


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # the ranks that still wait for this one would hold up an orderly end
