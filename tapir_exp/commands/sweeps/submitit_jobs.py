"""Jobs of a sweep on SLURM, or in processes of this machine, by submitit."""

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn

from tapir_exp.commands.sweeps.local_job import InterruptibleJob, interrupts_blocked, python_command
from tapir_exp.commands.sweeps.remote_jobs import RemoteJob, fetch, in_order
from tapir_exp.core.console import console
from tapir_exp.core.processes import ProcessRef
from tapir_exp.core.store import write_text_atomic

LOCAL = "local"
"""Cluster of submitit whose jobs are processes of this machine."""
FOLDER, SUBMITTED = ".submitit", "jobs.json"
POLL_S, STOP_S = 0.5, 5.0
STEP = ("--overlap", "--nodes=1", "--ntasks=1")
"""The pipeline runs once, on the first node, and a fit on all nodes of the allocation starts its own step beside it."""
WAITING = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "READY", "CONFIGURING", "COMPLETING")


def run_on_submitit(
    jobs: Sequence[RemoteJob], cluster: str, jobs_at_once: int, max_requeues: int, parameters: Mapping[str, Any]
) -> list[JobReturn]:
    """Submit the jobs, wait for them, and return their results; cancel them if the sweep is interrupted.

    A SLURM job that an earlier start of the sweep has submitted is not submitted again while it is in the queue.

    Args:
        jobs: The jobs.
        cluster: `slurm` or `local`.
        jobs_at_once: Number of jobs that may run at once.
        max_requeues: How often a job that reached its time limit is queued again.
        parameters: Parameters of submitit's executor.
    """
    import submitit

    folder = Path(str(jobs[0].sweeping.config.hydra.sweep.dir)).resolve() / FOLDER
    options: dict[str, Any] = {f"{cluster}_max_num_timeout": max_requeues}
    if cluster == LOCAL:
        options["local_python"] = python_command(ProcessRef.current())
    executor = submitit.AutoExecutor(folder / "%j", cluster=cluster, **options)
    executor.update_parameters(**_parameters(cluster, parameters))
    submitted = _Submitted(folder, cluster)
    to_submit = list(jobs)
    running: dict[int, tuple[RemoteJob, Any]] = {}
    results: dict[int, JobReturn] = {}
    try:
        while to_submit or running:
            while to_submit and len(running) < jobs_at_once:
                job = to_submit.pop(0)
                running[job.number] = (job, submitted.find(job) or submitted.add(job, _submit(executor, job, cluster)))
            time.sleep(POLL_S)
            for number in [number for number, (_, handle) in running.items() if handle.done()]:
                job, handle = running.pop(number)
                results[number] = fetch(job, handle.result, lambda error: _explain(error, handle))  # noqa: B023
    finally:
        _cancel([handle for _, handle in running.values()], cluster)
    return in_order(results, jobs)


class _Submitted:
    """SLURM jobs of a sweep by their overrides, for a sweep that is started again while they run."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self._file, self._cluster = folder / SUBMITTED, cluster
        self._ids: dict[str, str] = {}
        with suppress(OSError, ValueError):
            self._ids = json.loads(self._file.read_text(encoding="utf-8"))

    def find(self, job: RemoteJob) -> Any | None:
        """Return the job of an earlier start if it is still in the queue."""
        job_id = self._ids.get(self._key(job))
        if job_id is None or self._cluster != "slurm":
            return None
        from submitit import SlurmJob

        handle: Any = SlurmJob(folder=self._file.parent / "%j", job_id=job_id)
        if handle.watcher.get_state(job_id, mode="force") not in WAITING:
            return None
        console.print(f"continues: SLURM job {job_id}: {job.label}", soft_wrap=True)
        return handle

    def add(self, job: RemoteJob, handle: Any) -> Any:
        """Record a submitted job, and return it."""
        self._ids[self._key(job)] = handle.job_id
        write_text_atomic(self._file, json.dumps(self._ids, indent=1) + "\n")
        console.print(f"submitted: {self._cluster} job {handle.job_id}: {job.label}", soft_wrap=True)
        return handle

    @staticmethod
    def _key(job: RemoteJob) -> str:
        return json.dumps(job.overrides)


def _parameters(cluster: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of submitit's executor."""
    parameters = {name: value for name, value in given.items() if value is not None}
    if cluster != "slurm":
        return parameters
    # Nodes and tasks bypass submitit: it would wait for a result of each task, and the pipeline is one.
    past = dict(parameters.pop("slurm_additional_parameters", {}))
    for name, option in (("nodes", "nodes"), ("tasks_per_node", "ntasks_per_node")):
        if name in parameters:
            past[option] = parameters.pop(name)
    return {"slurm_srun_args": list(STEP), **parameters, "slurm_additional_parameters": past}


def _submit(executor: Any, job: RemoteJob, cluster: str) -> Any:
    """Return submitit's handle of a job that has been submitted."""
    if cluster != LOCAL:
        return executor.submit(job)
    with interrupts_blocked():
        return executor.submit(InterruptibleJob(job))


def _cancel(handles: Sequence[Any], cluster: str) -> None:
    """Cancel the jobs, and wait until those of this machine have stopped in order."""
    deadline = time.monotonic() + STOP_S
    for handle in handles:
        if cluster == LOCAL:
            with suppress(ProcessLookupError):
                os.kill(int(handle.job_id), signal.SIGTERM)  # which the job gets from submitit's process
        else:
            handle.cancel()
    while cluster == LOCAL and time.monotonic() < deadline and not all(handle.done() for handle in handles):
        time.sleep(POLL_S)
    if handles:
        console.print(f"cancelled: jobs {', '.join(handle.job_id for handle in handles)}", soft_wrap=True)


def _explain(error: Exception, handle: Any) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return f"job {handle.job_id} ended as {handle.state} without a result: {text} Its log: {handle.paths.stderr}"
