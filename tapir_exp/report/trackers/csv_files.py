"""CSV files, by the logger of Lightning."""

import csv
import shutil

from tapir_exp.report.trackers.base import Entry, JobInfo, Point, StepPace, Table

DIRECTORY = "csv"


class CsvTracker:
    """`csv/metrics.csv` of the run, with a row for each point, and a file for each table; a resumed job starts anew."""

    name = "csv"
    continues = False
    buffer_s = 0.0

    def __init__(self, job: JobInfo) -> None:
        """Open the files of a job; those of an earlier attempt are removed."""
        from pytorch_lightning.loggers import CSVLogger

        self._directory = job.run_dir / DIRECTORY
        # Lightning would remove the metrics only, with a warning.
        shutil.rmtree(self._directory, ignore_errors=True)
        self._logger = CSVLogger(job.run_dir, name="", version=DIRECTORY)
        self._pace = StepPace()

    def log(self, entry: Entry) -> None:
        """Log a point or a table; everything else is skipped."""
        match entry:
            case Point():
                values: dict[str, object] = {"time": entry.time, entry.axis: entry.position, **entry.values}
                self._logger.log_metrics(values, entry.position)  # type: ignore[arg-type]  # it writes any value
                if self._pace.is_due(entry):
                    self._logger.save()
            case Table():
                path = self._directory / f"{entry.name}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows([entry.columns, *entry.rows])

    def finish(self, *, succeeded: bool) -> None:
        """Write what is left."""
        self._logger.finalize("success" if succeeded else "failed")
