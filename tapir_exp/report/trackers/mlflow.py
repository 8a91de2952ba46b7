"""MLflow, by the logger of Lightning: a directory of files, or a server."""

import csv
import io
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from filelock import FileLock

from tapir_exp.config import LoggerConfig
from tapir_exp.report.trackers.base import ArtifactReference, Entry, Histogram, JobInfo, Page, Point, StepPace, Table
from tapir_exp.report.trackers.base import plain_number as number_of

DIRECTORY, LOCK = "mlflow", ".mlflow.lock"
ID_TAG = "tapir.id"
NOT_IN_NAMES = re.compile(r"[^\w/. -]", re.ASCII)
"""Characters that MLflow rejects in names."""
LONGEST_PARAMETER, MOST_PARAMETERS, MOST_METRICS, LONGEST_TAG = 500, 100, 1000, 5000
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Limits of a call to the server, which otherwise blocks a job for minutes; variables that are set already stay."""


class MlflowTracker:
    """A run of MLflow. It is found by a tag with the id of the job, so that a resumed job continues it."""

    name = "mlflow"
    continues = True
    buffer_s = 5.0  # events that were recorded, but not logged yet

    def __init__(self, config: LoggerConfig, job: JobInfo) -> None:
        """Find or create the run of a job.

        Args:
            config: Name of the experiment, and address of the tracking server.
            job: The job.
        """
        uri = tracking_uri(config, job)
        for variable, value in PATIENCE.items():
            os.environ.setdefault(variable, value)
        if "://" not in uri or uri.startswith("file:"):
            # MLflow only maintains this format; its databases need further packages.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.tracking import MlflowClient
        from pytorch_lightning.loggers import MLFlowLogger

        tags = {ID_TAG: job.id, "job_type": job.job_type, "sweep": job.group or "", "tags": " ".join(job.tags)}
        # Two jobs of a sweep that start at once would make two experiments of one name.
        with FileLock(job.outputs / LOCK):
            run_id = _find_run(MlflowClient(uri), config.project, job.id)
        self._logger = MLFlowLogger(config.project, job.name, uri, tags=tags, run_id=run_id)
        self._client: Any = self._logger.experiment
        self._run: Any = self._logger.run_id
        self._pace = StepPace()
        self._metrics: list[Any] = []
        self._client.update_run(self._run, status="RUNNING")
        self._log_settings(job.settings)

    def log(self, entry: Entry) -> None:
        """Log an entry; texts of a point become tags, tables and histograms become files of the run."""
        match entry:
            case Point():
                self._log_point(entry)
            case Table():
                text = io.StringIO()
                csv.writer(text).writerows([entry.columns, *entry.rows])
                self._client.log_text(self._run, text.getvalue(), f"{entry.name}.csv")
            case Histogram():
                content = {"edges": list(entry.edges), "counts": entry.counts}
                self._client.log_text(self._run, json.dumps(content), f"{entry.name}/round-{entry.position}.json")
            case ArtifactReference():
                content = {"uri": entry.path.resolve().as_uri(), **entry.metadata}
                self._client.log_text(self._run, json.dumps(content, indent=1), f"artifacts/{entry.name}.json")
            case Page():
                self._client.log_artifact(self._run, str(entry.path))

    def finish(self, *, succeeded: bool) -> None:
        """Log what is left, and set the state of the run to finished or failed."""
        self._write([])
        self._logger.finalize("success" if succeeded else "failed")

    def _log_point(self, point: Point) -> None:
        from mlflow.entities import Metric, RunTag

        time_ms = round(point.time * 1000)
        numbers = {name: number for name, value in point.values.items() if (number := number_of(value)) is not None}
        self._metrics += [Metric(metric_name(name), value, time_ms, point.position) for name, value in numbers.items()]
        if self._pace.is_due(point):
            texts = {metric_name(name): value for name, value in point.values.items() if isinstance(value, str)}
            self._write([RunTag(name, value[:LONGEST_TAG]) for name, value in texts.items()])

    def _write(self, tags: list[Any]) -> None:
        """Log tags, and the metrics that were held back; each call of MLflow reads the state of the run first."""
        metrics, self._metrics = self._metrics, []
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + MOST_METRICS])
        for start in range(0, len(tags), MOST_PARAMETERS):
            self._client.log_batch(self._run, tags=tags[start : start + MOST_PARAMETERS])

    def _log_settings(self, settings: Mapping[str, Any]) -> None:
        """Log the settings as parameters; those of an earlier attempt stay, since MLflow changes none."""
        from mlflow.entities import Param

        known = self._client.get_run(self._run).data.params
        flat = {metric_name(name): str(value)[:LONGEST_PARAMETER] for name, value in _flatten(settings)}
        new = [Param(name, value) for name, value in flat.items() if name not in known]
        for start in range(0, len(new), MOST_PARAMETERS):
            self._client.log_batch(self._run, params=new[start : start + MOST_PARAMETERS])


def tracking_uri(config: LoggerConfig, job: JobInfo) -> str:
    """Return the configured address, that of the environment, or a directory of the outputs."""
    uri = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return uri or (job.outputs / DIRECTORY).resolve().as_uri()


def metric_name(name: str) -> str:
    """Return a name without the characters that MLflow rejects."""
    return NOT_IN_NAMES.sub("", name)


def _find_run(client: Any, experiment: str, job_id: str) -> str | None:
    """Return the run of a job; None if it has none. The experiment is made if needed."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        client.create_experiment(experiment)
        return None
    runs = client.search_runs([found.experiment_id], f"tags.`{ID_TAG}` = '{job_id}'", max_results=1)
    return runs[0].info.run_id if runs else None


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in settings.items():
        key = f"{prefix}{name}"
        flat += _flatten(value, f"{key}.") if isinstance(value, Mapping) and value else [(key, value)]
    return flat
