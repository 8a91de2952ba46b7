"""One process (rank) of a fit: `python -m tapir_exp.student.training.worker RANKS_DIR`, started by torchrun or srun.

It reads the planned fit in RANKS_DIR, and nothing of the command line or environment of the surrounding run.
"""

import os
import sys
import traceback
from pathlib import Path
from threading import Thread

from tapir_exp.core.console import Progress
from tapir_exp.core.errors import TapirError
from tapir_exp.core.events import EventStream
from tapir_exp.core.library_messages import clean_library_messages
from tapir_exp.core.store import write_text_atomic
from tapir_exp.student.training.job import read_planned_fit
from tapir_exp.student.training.launcher import EVENTS_PATH, FIT, ORPHANED_EXIT_CODE, PROGRESS, RANK_ERROR, RANK_LOG


class FileProgress(Progress):
    """Writes the number of finished steps to a file, which the parent process shows."""

    def __init__(self, path: Path) -> None:
        super().__init__("", 0)
        self._path, self._done = path, 0

    def advance(self, steps: int = 1) -> None:
        """Add finished steps."""
        self._done += steps
        if current_rank() == 0:
            write_text_atomic(self._path, str(self._done), durable=False)


def current_rank() -> int:
    """Return the rank of this process, as torchrun or SLURM sets it."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def exit_with_parent() -> None:
    """Exit this process as soon as its standard input is closed, which happens if the parent stops or is killed.

    The pipe passes from the process of `tapir` through the launcher, and through ssh or srun if they are used.
    """

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(ORPHANED_EXIT_CODE)  # sys.exit would end this thread only

    Thread(target=watch, daemon=True).start()


def redirect_output(log: Path) -> None:
    """Append all output of this process, including that of native code, to a log file."""
    stream = log.open("ab")
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)


def main(ranks_dir: Path) -> None:
    """Run this rank's part of the fit that `ranks_dir` describes."""
    exit_with_parent()
    clean_library_messages()
    redirect_output(ranks_dir / RANK_LOG.format(current_rank()))
    from tapir_exp.student.training.train import run_fit  # after the redirection, so that its warnings are logged

    stream = ranks_dir / EVENTS_PATH
    try:
        with EventStream(Path(stream.read_text()) if stream.is_file() else None).active():
            run_fit(read_planned_fit(ranks_dir / FIT), ranks_dir.parent, FileProgress(ranks_dir / PROGRESS))
    except TapirError as error:
        # The parent shows this text as it is, instead of the end of a log.
        write_text_atomic(ranks_dir / RANK_ERROR.format(current_rank()), str(error))
        raise


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # a regular exit would wait for ranks that wait for this one
