"""Launchers of sweeps on Ray, on SLURM, and in processes of this machine.

Hydra reads every module of this namespace at each start and accepts plugins from here only, so that nothing heavy is
imported. `tapir_exp.commands.sweeps.remote_jobs` has the work.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class RayConf:
    """Settings of `launcher=ray`."""

    _target_: str = "hydra_plugins.tapir_launchers.RayLauncher"
    init: dict[str, Any] = field(default_factory=dict)
    """Arguments of `ray.init`, such as `address`; without one, Ray is started on this machine."""
    job: dict[str, Any] = field(default_factory=dict)
    """Resources of one job, as of `ray.remote`, such as `num_cpus` and `num_gpus`."""


@dataclass
class SubmititConf:
    """Settings of `launcher=slurm` and `launcher=submitit_local`."""

    _target_: str = "hydra_plugins.tapir_launchers.SubmititLauncher"
    cluster: str = "slurm"
    """`slurm`, or `local` for processes of this machine."""
    jobs_at_once: int = 256
    """Jobs of the sweep that may run at the same time."""
    max_requeues: int = 10
    """How often a job that reached its time limit is queued again; it resumes from its last checkpoint."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Parameters of submitit's executor, such as `timeout_min`, `nodes`, `gpus_per_node` and `slurm_partition`."""


class _TapirLauncher(Launcher):
    """Keep what Hydra gives to a launcher; each subclass starts the jobs in its own way."""

    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives to a launcher."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config


class RayLauncher(_TapirLauncher):
    """Run each job as a task of Ray, on this machine or on a cluster."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return their results."""
        from tapir_exp.commands.sweeps.ray_jobs import run_on_ray
        from tapir_exp.commands.sweeps.remote_jobs import remote_jobs, run_unfinished

        jobs = remote_jobs(self, job_overrides, initial_job_idx)
        return run_unfinished(jobs, lambda others: run_on_ray(others, **self.settings))


class SubmititLauncher(_TapirLauncher):
    """Run each job with submitit, on SLURM or in a process of this machine."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return their results."""
        from tapir_exp.commands.sweeps.remote_jobs import remote_jobs, run_unfinished
        from tapir_exp.commands.sweeps.submitit_jobs import run_on_submitit

        on_slurm = self.settings["cluster"] == "slurm"
        jobs = remote_jobs(self, job_overrides, initial_job_idx, outlive_sweep=on_slurm)
        return run_unfinished(jobs, lambda others: run_on_submitit(others, **self.settings))


_STORE = ConfigStore.instance()
_STORE.store(group="hydra/launcher", name="tapir_ray", node=RayConf, provider="tapir_exp")
_STORE.store(group="hydra/launcher", name="tapir_submitit", node=SubmititConf, provider="tapir_exp")
