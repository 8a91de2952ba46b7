"""TensorBoard, by the logger of Lightning."""

from typing import Any

from tapir_exp.report.trackers.base import Entry, Histogram, JobInfo, Point, StepPace, Table, plain_number

DIRECTORY = "tensorboard"
MOST_ROWS = 50
"""Rows of a table that are shown as text."""


class TensorBoardTracker:
    """Event files in `tensorboard/` of the run. A resumed job adds a file, which TensorBoard joins to the others."""

    name = "tensorboard"
    continues = True
    buffer_s = 5.0  # events that were recorded, but not logged yet

    def __init__(self, job: JobInfo) -> None:
        """Open the event file of a job."""
        from pytorch_lightning.loggers import TensorBoardLogger

        self._logger = TensorBoardLogger(job.run_dir, name="", version=DIRECTORY)
        self._writer: Any = self._logger.experiment
        self._pace = StepPace()
        self._writer.add_text("job", f"{job.name} · {job.job_type} · {job.group or ''} · {' '.join(job.tags)}")

    def log(self, entry: Entry) -> None:
        """Log an entry; pages and artifacts are skipped."""
        match entry:
            case Point():
                for name, value in entry.values.items():
                    if (number := plain_number(value)) is not None:
                        # Lightning's own method would take the time of the call.
                        self._writer.add_scalar(name, number, entry.position, walltime=entry.time)
                    elif isinstance(value, str):
                        self._writer.add_text(name, value, entry.position, walltime=entry.time)
            case Table():
                self._writer.add_text(entry.name, _as_markdown(entry), entry.position, walltime=entry.time)
            case Histogram() if entry.values:
                import numpy as np

                values, edges = np.array(entry.values), np.array(entry.edges)
                self._writer.add_histogram(entry.name, values, entry.position, bins=edges, walltime=entry.time)
            case _:
                return
        if self._pace.is_due(entry):
            self._writer.flush()  # otherwise a killed job would lose two minutes

    def finish(self, *, succeeded: bool) -> None:
        """Close the event file."""
        self._logger.finalize("success" if succeeded else "failed")


def _as_markdown(table: Table) -> str:
    """Return the first rows of a table; texts of models are shown as code, so that they form no Markdown."""
    lines = [f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in table.rows[:MOST_ROWS]]
    if len(table.rows) > MOST_ROWS:
        lines.append(f"\n{len(table.rows) - MOST_ROWS} more rows are not shown.")
    return "\n".join(lines)


def _cell(cell: float | str | None) -> str:
    if not isinstance(cell, str):
        return "" if cell is None else f"{cell:g}"
    return f"`{' '.join(cell.split()).replace('`', chr(39)).replace('|', '¦')}`" if cell.strip() else ""
