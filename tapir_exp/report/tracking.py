"""Logging to Weights & Biases: metrics and curriculum of each round."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tapir_exp.config import LoggerConfig, WandbMode
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Record
from tapir_exp.report.wandb_access import check_access, effective_mode

LONGEST_NAME = 128
"""Characters that W&B accepts in the name of a group."""


class Tracker:
    """Context manager of one W&B run; does nothing if the mode is `disabled`.

    Leaving it by an exception marks the W&B run as failed. The W&B run is always finished, because jobs of a sweep
    share a process.
    """

    def __init__(self, config: LoggerConfig, run_dir: Path, group: str, settings: Mapping[str, Any]) -> None:
        """Prepare a tracker.

        Args:
            config: Project, entity and mode.
            run_dir: Directory of the run; its name is that of the W&B run.
            group: W&B group, e.g. the sweep.
            settings: The resolved configuration.
        """
        self._config = config
        self._run_dir = run_dir
        self._group = group
        self._settings = settings
        self._run: Any = None

    def __enter__(self) -> Self:
        """Start the W&B run.

        Raises:
            ConfigError: If the run is to be uploaded, and there is no key or no server.
            TapirError: If W&B refuses the run.
        """
        mode = effective_mode(self._config.mode)
        if mode is WandbMode.disabled:
            return self
        if mode is WandbMode.online:
            check_access()
        self._ensure_home()
        import wandb  # slow, and not needed if disabled

        try:
            self._run = wandb.init(
                project=self._config.project,
                entity=self._config.entity,
                mode=mode.value,
                group=self._group[:LONGEST_NAME],
                name=self._run_dir.name[:LONGEST_NAME],
                dir=self._run_dir,
                config=dict(self._settings),
                reinit="create_new",  # a sweep may have other runs open in this process
                settings=wandb.Settings(silent=True),
            )
        except wandb.Error as error:
            raise TapirError(
                f"Weights & Biases refused the run ({error}): check the key, logger.project and logger.entity."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)

    def _ensure_home(self) -> None:
        """Set HOME to the run's directory if the user has none, as in a container with a numeric user id."""
        # W&B looks for its settings there, and raises RuntimeError if neither HOME nor the user's entry names one.
        try:
            has_home = os.environ.get("HOME") != "" and Path.home().is_absolute()
        except RuntimeError:
            has_home = False
        if not has_home:
            os.environ["HOME"] = str(self._run_dir.resolve())

    def log_round(self, number: int, metrics: Mapping[str, Any], curriculum: Sequence[Record]) -> None:
        """Log the metrics of a round, and its curriculum as a table.

        Args:
            number: The round; the W&B step.
            metrics: Metrics by name.
            curriculum: Quotas of the round, one row of the table each; empty for S_0.
        """
        if self._run is None:
            return
        import wandb

        payload = dict(metrics)
        if curriculum:
            rows = [row.model_dump(mode="json") for row in curriculum]
            columns: list[str | int] = list(rows[0])
            table = wandb.Table(columns=columns, data=[list(row.values()) for row in rows])
            payload[f"curriculum/round-{number}"] = table
        self._run.log(payload, step=number)
