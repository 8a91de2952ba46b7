"""Jobs of a sweep that other processes or machines carry out: how they travel, and what becomes of lost ones."""

import copy
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from tapir_exp.commands.finished import command_of, finished_outcome, job_key
from tapir_exp.config import parse
from tapir_exp.core.console import console
from tapir_exp.core.events import EVENTS, EventStream, Kind, State, outcome_of, read_events
from tapir_exp.core.processes import ProcessRef, end_with_parent, mark_worker
from tapir_exp.report.sweep.plan_file import SweepPlan

REMOTE = ("hydra_plugins.tapir_launchers.RayLauncher", "hydra_plugins.tapir_launchers.SubmititLauncher")
"""Launchers whose jobs write to no terminal, so that their progress is read from their events."""


@dataclass(frozen=True)
class Sweeping:
    """What Hydra gives to a launcher, without the launcher itself."""

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig


@dataclass(frozen=True)
class RemoteJob:
    """One job, which can be pickled and called in another process.

    Attributes:
        overrides: Its overrides.
        number: Its number in the sweep.
        sweeping: What Hydra gave to the launcher.
        state: Hydra's global state.
        parent: The process that has started the sweep; None if jobs go on after its end, as on SLURM.
        cwd: Its working directory, which all machines share.
    """

    overrides: tuple[str, ...]
    number: int
    sweeping: Sweeping
    state: Any
    parent: ProcessRef | None
    cwd: str

    def __call__(self) -> JobReturn:
        """Carry out the job in this process; it ends with the sweep if both are on one machine."""
        mark_worker()
        end_with_parent(self.parent if self.parent and self.parent.is_here else None)
        os.chdir(self.cwd)
        setup_globals()
        Singleton.set_state(self.state)
        return self.carry_out()

    def carry_out(self, *, configure_logging: bool = True) -> JobReturn:
        """Carry out the job in this process, which has Hydra's global state."""
        config = self._config()
        HydraConfig.instance().set_config(config)
        context, function = self.sweeping.hydra_context, self.sweeping.task_function
        return run_job(function, config, "hydra.sweep.dir", "hydra.sweep.subdir", context, configure_logging)

    def is_finished(self) -> bool:
        """Return whether the job is finished already, so that no process has to be started for it."""
        if not any(self._sweep_dir.glob(f"*/{EVENTS}")):
            return False  # a new sweep, whose jobs need not be composed here
        config = self._config()
        directory = self._directory_of(config)
        if outcome_of(read_events(directory / EVENTS)).state is not State.FINISHED:
            return False
        HydraConfig.instance().set_config(config)
        settings = copy.deepcopy(config)
        with open_dict(settings):
            del settings["hydra"]
        key = job_key(parse(settings), command_of(config.hydra.job.config_name))
        return finished_outcome(directory, key) is not None

    def checkpoint(self) -> Any:
        """Queue the job again if its time is up: it resumes from its last checkpoint. Called by submitit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def lost(self, reason: str) -> JobReturn:
        """Record that a job ended without a result, as after a lack of memory, and return its empty result.

        Args:
            reason: What the launcher reports about its end.
        """
        stream = self.directory / EVENTS
        if outcome_of(read_events(stream)).state in (State.RUNNING, State.WAITING):
            with suppress(OSError):  # a full disk
                stream.parent.mkdir(parents=True, exist_ok=True)
                EventStream(stream).record(Kind.RUN_FAILED, reason=reason)
        console.print(f"failed: {self.label}: {reason}", soft_wrap=True)
        return JobReturn(overrides=self.overrides, _return_value=None, status=JobStatus.COMPLETED)

    @property
    def label(self) -> str:
        """Return its name in tables."""
        return SweepPlan.load(self._sweep_dir).label(self.overrides)

    @property
    def directory(self) -> Path:
        """Return the directory of the job."""
        return self._directory_of(self._config())

    @property
    def _sweep_dir(self) -> Path:
        return Path(str(self.sweeping.config.hydra.sweep.dir))

    def _directory_of(self, config: DictConfig) -> Path:
        return Path(config.hydra.sweep.dir) / str(OmegaConf.select(config, "hydra.sweep.subdir"))

    def _config(self) -> DictConfig:
        loader = self.sweeping.hydra_context.config_loader
        config = loader.load_sweep_config(self.sweeping.config, list(self.overrides))
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{self.number}"
            config.hydra.job.num = self.number
        return config


def remote_jobs(
    launcher: Any, overrides: Sequence[Sequence[str]], first: int, *, outlive_sweep: bool = False
) -> list[RemoteJob]:
    """Return the jobs of a launch.

    Args:
        launcher: One of `hydra_plugins.tapir_launchers`.
        overrides: Overrides of each job.
        first: Number of the first one.
        outlive_sweep: Whether the jobs go on after the end of this process, also if they run on its machine.
    """
    setup_globals()
    parent = None if outlive_sweep else ProcessRef.current()
    state, cwd = Singleton.get_state(), str(Path.cwd())
    sweeping = Sweeping(launcher.hydra_context, launcher.task_function, launcher.config)
    return [
        RemoteJob(tuple(lines), first + number, sweeping, state, parent, cwd) for number, lines in enumerate(overrides)
    ]


def run_unfinished(
    jobs: Sequence[RemoteJob], run: Callable[[Sequence[RemoteJob]], Sequence[JobReturn]]
) -> list[JobReturn]:
    """Run the jobs that are not finished, and return the results of all; those of finished ones are read here.

    Args:
        jobs: The jobs.
        run: Starts the launcher, which takes seconds, and returns the results of some jobs in their order.
    """
    results = {job.number: job.carry_out(configure_logging=False) for job in jobs if job.is_finished()}
    others = [job for job in jobs if job.number not in results]
    if others:
        results |= {job.number: result for job, result in zip(others, run(others), strict=True)}
    return in_order(results, jobs)


def in_order(results: dict[int, JobReturn], jobs: Sequence[RemoteJob]) -> list[JobReturn]:
    """Return the results in the order of the jobs."""
    return [results[job.number] for job in jobs]


def fetch(job: RemoteJob, result: Callable[[], Any], explain: Callable[[Exception], str]) -> JobReturn:
    """Return the result of a job that has ended; one without a result is lost.

    Args:
        job: The job.
        result: Returns its result, or raises the error of the launcher.
        explain: Returns the reason of such an error.
    """
    try:
        found = result()
    except Exception as error:
        return job.lost(explain(error))
    assert isinstance(found, JobReturn)
    return found
