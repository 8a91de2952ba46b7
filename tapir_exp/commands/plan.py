"""`tapir plan`: show the calls, tokens, cost, memory and disk of a run, without a call to any model."""

import json
import sys
from collections.abc import Sequence

from tapir_exp.commands.command_line import CLASSIFY_GROUPS, compose_jobs, format_choices, wants_help
from tapir_exp.config.compose import PRIMARY

EVALUATE = "evaluate"
"""Name of the primary configuration of `tapir evaluate`."""
HELP = """\
tapir plan: show what `tapir run` with the same arguments would still call, cost and need in memory and on disk. It
calls no model.

  tapir plan                             the lab
  tapir plan experiment=llama2_7b_paper seeds=file seeds.path=alpaca_data.json
  tapir plan --config-name lab_ablation  a whole sweep; what its jobs share is counted once
  tapir plan evaluate evals=mt_bench judge=gpt_4 evals.run=outputs/latest     what `tapir evaluate` would cost
  --json                                 the same as JSON, at full precision

Finished stages and cached calls are taken into account. USD is `unknown` if the price of a model is not known.

Groups and their choices (tapir_exp/config documents every key):
"""


def main(arguments: Sequence[str]) -> None:
    """Print the plan of a run, a sweep or an evaluation."""
    if wants_help(arguments):
        sys.stdout.write(HELP + format_choices(exclude=CLASSIFY_GROUPS))
        return
    rest = [argument for argument in arguments if argument != "--json"]
    evaluating = rest[:1] == [EVALUATE]
    rest = rest[1:] if evaluating else rest
    jobs = compose_jobs(rest, EVALUATE if evaluating else PRIMARY)
    evaluating = evaluating or _names_evaluate(rest)

    from tapir_exp.commands.plan_job import SeedReader, merge_jobs, plan_evaluation, plan_job
    from tapir_exp.commands.plan_table import describe_disk, needed_bytes, plan_data, plan_lines
    from tapir_exp.core.console import Terminal
    from tapir_exp.pipeline.disk_sizes import checkpoint_bytes
    from tapir_exp.pipeline.hardware import cpu_hours, describe_cpu_hours, uses_cpu
    from tapir_exp.pipeline.preflight import free_bytes, local_checks, suite_checks
    from tapir_exp.student.training.memory import describe_memory

    read = SeedReader()
    planned = merge_jobs(plan_evaluation(config) if evaluating else plan_job(config, read) for config in jobs)
    # Jobs of a sweep mostly share the student, and thus the memory of a fit.
    memory = [] if evaluating else [describe_memory(job.student, job.sft, job.trainer) for job in jobs]
    hours = sum(stage.remaining.gpu_hours or 0.0 for stage in planned)
    on_cpu = cpu_hours(hours) if hours and all(uses_cpu(job.trainer) for job in jobs) else None
    # What would stop the run later is known now; the endpoints are asked by `tapir doctor` and by the run.
    checks = [
        check for job in jobs for check in (suite_checks(job, job.evals.suites) if evaluating else local_checks(job))
    ]
    warnings = [f"{check.subject}: {check.problem}" for check in dict.fromkeys(checks) if check.problem]
    checkpoint, (_, free) = max(map(checkpoint_bytes, jobs)), free_bytes(jobs[0])
    if "--json" in arguments:
        disk = {"needed_bytes": needed_bytes(planned, checkpoint), "free_bytes": free}
        texts = {"memory": list(dict.fromkeys(memory)), "cpu_hours": on_cpu, "warnings": warnings}
        sys.stdout.write(json.dumps({"jobs": len(jobs), **plan_data(planned), "disk": disk, **texts}) + "\n")
        return
    console = Terminal()
    disk_text = [] if evaluating else [describe_disk(planned, free, checkpoint)]
    hours_text = [] if on_cpu is None else [describe_cpu_hours(on_cpu)]
    texts_below = [*dict.fromkeys(memory), *hours_text, *disk_text, *(f"warning: {text}" for text in warnings)]
    for text in [*plan_lines(planned), *texts_below]:
        console.print(text, soft_wrap=True, highlight=False)


def _names_evaluate(arguments: Sequence[str]) -> bool:
    """Return whether a command line chooses the configuration of an evaluation by Hydra's flag."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=False)  # no argument has no pair
    return any(
        f"{flag}={name}" in {f"--config-name={EVALUATE}", f"-cn={EVALUATE}"} or flag == f"--config-name={EVALUATE}"
        for flag, name in pairs
    )
