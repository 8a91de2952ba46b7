"""Jobs of a sweep as tasks of Ray."""

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn

from tapir_exp.commands.sweeps.remote_jobs import RemoteJob, fetch, in_order
from tapir_exp.core.errors import TapirError

QUIET = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
"""The table and the lines of the jobs come from their events, which also a cluster's shared disk has."""
POLL_S, GRACE_S = 1.0, 10.0


def run_on_ray(jobs: Sequence[RemoteJob], init: Mapping[str, Any], job: Mapping[str, Any]) -> list[JobReturn]:
    """Run the jobs as tasks of Ray, as many at once as its resources allow, and return their results.

    Args:
        jobs: The jobs.
        init: Arguments of `ray.init`.
        job: Resources of one job.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if not ray.is_initialized():
        # Ray replaces the handler with one that ends the process at once, without the table of the sweep.
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**{**QUIET, **init})
        except Exception as error:
            where = f"join the cluster at {init['address']}" if init.get("address") else "be started on this machine"
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            hint = "Check `ray status`, or take launcher=two_processes."
            raise TapirError(f"Ray cannot {where}: {reason} {hint}") from error
        finally:
            signal.signal(signal.SIGTERM, before)
    # A job that was killed runs again with the next command, after its reason has been read.
    task = ray.remote(RemoteJob.__call__).options(max_retries=0, **job)
    waiting = {task.remote(each): each for each in jobs}
    results: dict[int, JobReturn] = {}
    try:
        while waiting:
            ended, _ = ray.wait(list(waiting), timeout=POLL_S)
            for reference in ended:
                each = waiting.pop(reference)
                results[each.number] = fetch(each, lambda: ray.get(reference), _explain)  # noqa: B023  # called at once
    finally:
        for reference in waiting:
            ray.cancel(reference)  # raises KeyboardInterrupt in the job
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=GRACE_S)
            ray.shutdown()
    return in_order(results, jobs)


def _explain(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"Ray ended the job without a result: {text[-1] if text else type(error).__name__}"
