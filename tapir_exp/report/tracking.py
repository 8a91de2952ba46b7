"""Weights & Biases: the figures of every round, and one table a round for its curriculum."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tapir_exp.config import LoggerConfig, WandbMode
from tapir_exp.core.records import Record


class Tracker:
    """One W&B run for one run of ours; nothing at all where the mode is `disabled`.

    A run that is left by an exception is marked as failed, and every run is finished: jobs of a sweep share a process.
    """

    def __init__(self, config: LoggerConfig, run_dir: Path, group: str, settings: Mapping[str, Any]) -> None:
        self._config = config
        self._run_dir = run_dir
        self._group = group
        self._settings = settings
        self._run: Any = None

    def __enter__(self) -> Self:
        if self._config.mode is not WandbMode.disabled:
            import wandb

            self._run = wandb.init(
                project=self._config.project,
                entity=self._config.entity,
                mode=self._config.mode.value,
                group=self._group,
                name=self._run_dir.name,
                dir=self._run_dir,
                config=dict(self._settings),
                reinit="create_new",
                settings=wandb.Settings(silent=True),
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)

    def log_round(self, number: int, metrics: Mapping[str, Any], curriculum: Sequence[Record]) -> None:
        """Log a round's figures, and its curriculum as a table of one row a quota."""
        if self._run is None:
            return
        import wandb

        logged = dict(metrics)
        if curriculum:
            rows = [row.model_dump(mode="json") for row in curriculum]
            columns: list[str | int] = list(rows[0])
            table = wandb.Table(columns=columns, data=[list(row.values()) for row in rows])
            logged[f"curriculum/round-{number}"] = table
        self._run.log(logged, step=number)
