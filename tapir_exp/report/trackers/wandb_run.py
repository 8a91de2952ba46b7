"""Weights & Biases, online or offline."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from tapir_exp.config import LoggerConfig, WandbMode
from tapir_exp.core.errors import TapirError
from tapir_exp.report.trackers.base import ArtifactReference, Entry, Histogram, JobInfo, Page, Point, Table

LONGEST_NAME = 128
"""Characters that W&B accepts in a name, and that its pages show."""
LONGEST_TAG = 64
SERVICE = "WANDB_SERVICE"
"""Variable with the address of a process of W&B; its second part is the number of the process that has started it."""
FINISH_TIMEOUT_S = 120.0
"""Seconds that the upload of the last data may take; what is left stays on disk for `wandb sync`."""


class WandbTracker:
    """A run of W&B. Its id is that of the job, so that a resumed job continues it, also offline."""

    name = "wandb"
    continues = True
    buffer_s = 60.0  # W&B writes its file about every 15 seconds, later if the machine is busy

    def __init__(self, config: LoggerConfig, mode: WandbMode, job: JobInfo, first_step: int) -> None:
        """Start the run.

        Args:
            config: Project and entity.
            mode: offline or online.
            job: The job.
            first_step: Least internal step of W&B that no earlier attempt of the job has used.

        Raises:
            TapirError: If W&B rejects the run.
        """
        ensure_home(job.run_dir)
        leave_inherited_service()
        import wandb  # slow, and not needed by runs without it

        try:
            self._run: Any = wandb.init(
                id=job.id,
                resume="allow",
                project=config.project,
                entity=config.entity,
                mode=mode.value,
                group=job.group and job.group[:LONGEST_NAME],
                name=job.name[:LONGEST_NAME],
                job_type=job.job_type,
                tags=[tag[:LONGEST_TAG] for tag in job.tags],
                dir=job.run_dir,
                config=dict(job.settings),
                reinit="create_new",  # a sweep may have other runs open in this process
                settings=wandb.Settings(silent=True, finish_timeout=FINISH_TIMEOUT_S),
            )
        except wandb.Error as error:
            raise TapirError(
                f"Weights & Biases refused the run ({error}): check the key, logger.project and logger.entity. A run "
                "that was deleted there cannot be continued: choose another logger.project."
            ) from error
        # W&B drops a row if the run has a later step already.
        self._step = max(first_step, self._run.starting_step)
        self._axis_of: dict[str, str] = {}

    def log(self, entry: Entry) -> None:
        """Log an entry."""
        import wandb

        match entry:
            case Point():
                self._define(entry)
                self._log({entry.axis: entry.position, **entry.values}, entry.time)
            case Table():
                # Inferring a type for each column, or checking each cell, takes as long as all else of a round.
                table = wandb.Table(columns=list(entry.columns), data=[], allow_mixed_types=True)
                table.data.extend(list(row) for row in entry.rows)
                self._log({"round": entry.position, entry.name: table}, entry.time)
            case Histogram():
                self._set_axis(entry.name, "round")
                counts: Any = (entry.counts, list(entry.edges))  # lists, so that numpy is not needed
                histogram = wandb.Histogram(np_histogram=counts)
                self._log({"round": entry.position, entry.name: histogram}, entry.time)
            case ArtifactReference():
                artifact = wandb.Artifact(entry.name, type=entry.stage, metadata=dict(entry.metadata))
                # The path with its key names the content, so nothing is read or copied.
                artifact.add_reference(entry.path.resolve().as_uri(), checksum=False)
                self._run.log_artifact(artifact)
            case Page():
                self._log({entry.name: wandb.Html(entry.path.read_text(encoding="utf-8"), inject=False)}, entry.time)

    def finish(self, *, succeeded: bool) -> None:
        """Finish the run with the exit code 0 or 1."""
        try:
            self._run.finish(exit_code=0 if succeeded else 1)
        except Exception:
            restart_service()
            raise

    def _log(self, values: dict[str, Any], time: float) -> None:
        self._run.log({**values, "_timestamp": time}, step=self._step, commit=True)
        self._step += 1

    def _define(self, point: Point) -> None:
        for name in point.values:
            self._set_axis(name, point.axis)

    def _set_axis(self, name: str, axis: str) -> None:
        """Let the charts of a value have its own axis."""
        if axis not in self._axis_of:
            self._axis_of[axis] = axis
            self._run.define_metric(axis, hidden=True)
        if name not in self._axis_of:
            self._axis_of[name] = axis
            self._run.define_metric(name, step_metric=axis, step_sync=False)


def leave_inherited_service() -> None:
    """Let this process start its own process of W&B, even if the program that has started it uses one.

    The other one would still hold the run of an attempt that was killed, and refuse to continue it.
    """
    if os.environ.get(SERVICE, "").split("-")[1:2] != [str(os.getpid())]:
        os.environ.pop(SERVICE, None)


def restart_service() -> None:
    """Let the next run of this process, as the next job of a sweep, start another process of W&B."""
    import wandb

    with suppress(Exception):  # it cannot end its process in order, which is the reason for this call
        wandb.teardown()
    os.environ.pop(SERVICE, None)


def ensure_home(run_dir: Path) -> None:
    """Set HOME to the run's directory if the user has none, as in a container with a numeric user id."""
    # W&B looks for its settings there, and raises RuntimeError if neither HOME nor the user's entry names one.
    try:
        has_home = os.environ.get("HOME") != "" and Path.home().is_absolute()
    except RuntimeError:
        has_home = False
    if not has_home:
        os.environ["HOME"] = str(run_dir.resolve())
