"""`tapir plan`: show the calls, tokens, cost, time, memory and disk of a run, without a call to any model."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tapir_exp.commands.command_line import CLASSIFY_GROUPS, compose_jobs, count_parser, format_choices, wants_help
from tapir_exp.config import Config
from tapir_exp.config.compose import PRIMARY
from tapir_exp.core.errors import ConfigError

if TYPE_CHECKING:
    from tapir_exp.commands.plan_job import PlannedStage
    from tapir_exp.pipeline.probe_rows import Probe

EVALUATE = "evaluate"
"""Name of the primary configuration of `tapir evaluate`."""
MOST_ROWS = 50
"""Most rows of a probe, which pays for every call of each."""
HELP = f"""\
tapir plan: show what `tapir run` with the same arguments would still call, cost and need in time, in memory and on
disk: an expected value, and a bound (≤). It calls no model.

  tapir plan                             the lab
  tapir plan experiment=llama2_7b_paper seeds=file seeds.path=alpaca_data.json
  tapir plan --config-name lab_ablation  a whole sweep; what its jobs share is counted once
  tapir plan evaluate evals=mt_bench judge=gpt_4 evals.run=outputs/latest     what `tapir evaluate` would cost
  --probe N    takes N rows (20, say; at most {MOST_ROWS}) through the real path first, and corrects the plan by their
               lengths, times, repetitions and accepted new pairs; both plans are shown. It pays for about ten calls a
               row under the limits of `spend`; the run finds the labels and the responses in its cache
  --json       the same as JSON, at full precision

Finished stages show what they have paid, and cached calls are subtracted. The bound counts each request twice, with
replies of the full length, and each paid in every attempt. USD is `unknown` if the price of a model is not known.

Groups and their choices (tapir_exp/config documents every key):
"""


def main(arguments: Sequence[str]) -> None:
    """Print the plan of a run, a sweep or an evaluation."""
    if wants_help(arguments):
        sys.stdout.write(HELP + format_choices(exclude=CLASSIFY_GROUPS))
        return
    parser = argparse.ArgumentParser(prog="tapir plan", add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--probe", type=count_parser(1, MOST_ROWS))
    options, rest = parser.parse_known_args(arguments)
    evaluating = rest[:1] == [EVALUATE]
    rest = rest[1:] if evaluating else rest
    jobs = compose_jobs(rest, EVALUATE if evaluating else PRIMARY)
    evaluating = evaluating or _names_evaluate(rest)
    if options.probe is not None and (evaluating or len(jobs) != 1):
        kind = "an evaluation" if evaluating else f"a sweep of {len(jobs)} jobs"
        raise ConfigError([f"--probe {options.probe}: expected one run, got {kind}"])

    from tapir_exp.commands.plan_table import describe_probe, plan_data, plan_lines
    from tapir_exp.core.console import Terminal

    probe, assumed = None, _plan(jobs, evaluating)
    if options.probe is not None:
        from tapir_exp.commands.preview import make_probe

        probe = make_probe(jobs[0], options.probe)
        corrected = _plan(jobs, evaluating, probe)
    planned = assumed if probe is None else corrected
    below = _describe(jobs, planned, evaluating, probe)
    if options.json:
        before = {} if probe is None else {"probe": probe.data(), "assumed": plan_data(assumed)}
        sys.stdout.write(json.dumps({"jobs": len(jobs), **plan_data(planned), **below, **before}) + "\n")
        return
    lines = plan_lines(planned)
    if probe is not None:
        lines = [*plan_lines(assumed), "", *probe.lines(), "", "Corrected by the probe", *lines]
        lines += describe_probe(assumed, planned)
    console = Terminal()
    for text in [*lines, *_texts(below)]:
        console.print(text, soft_wrap=True, highlight=False, markup=False)


def _plan(jobs: Sequence[Config], evaluating: bool, probe: "Probe | None" = None) -> "list[PlannedStage]":
    """Return the stages of all jobs; those that they share are listed once."""
    from tapir_exp.commands.plan_job import SeedReader, merge_jobs, plan_job

    if evaluating:
        from tapir_exp.commands.plan_evaluation import plan_evaluation

        return merge_jobs(map(plan_evaluation, jobs))
    read, assumed = SeedReader(), None if probe is None else probe.assumptions
    return merge_jobs(plan_job(config, read, assumed) for config in jobs)


def _describe(
    jobs: Sequence[Config], planned: "Sequence[PlannedStage]", evaluating: bool, probe: "Probe | None"
) -> dict[str, Any]:
    """Return the lines below a plan's table: memory, disk, hours on the CPU, limits, and what would stop the run."""
    from tapir_exp.commands.plan_table import cost_of, describe_bound, describe_disk, needed_bytes
    from tapir_exp.pipeline.disk_sizes import checkpoint_bytes
    from tapir_exp.pipeline.hardware import describe_cpu_hours, num_cores, uses_cpu
    from tapir_exp.pipeline.local_checks import free_bytes, local_checks, suite_checks
    from tapir_exp.pipeline.request_sizes import Assumptions
    from tapir_exp.pipeline.wall_time import describe_assumptions
    from tapir_exp.student.training.memory import describe_memory

    # Jobs of a sweep mostly share the student, and thus the memory of a fit.
    memory = [] if evaluating else [describe_memory(job.student, job.sft, job.trainer) for job in jobs]
    hours = {
        role: (cost_of([row for row in planned if row.estimate.role == role]).expected.core_hours or 0.0) / num_cores()
        for role in ("fit", "student")
    }
    on_cpu = hours if any(hours.values()) and all(uses_cpu(job.trainer) for job in jobs) else None
    # What would stop the run later is known now; the endpoints are checked by `tapir doctor` and by the run.
    checks = [
        check for job in jobs for check in (suite_checks(job, job.evals.suites) if evaluating else local_checks(job))
    ]
    checkpoint, (_, free) = max(map(checkpoint_bytes, jobs)), free_bytes(jobs[0])
    assumed = Assumptions() if probe is None else probe.assumptions
    return {
        "memory": list(dict.fromkeys(memory)),
        "cpu_hours": on_cpu,
        "assumptions": list(dict.fromkeys(line for job in jobs for line in describe_assumptions(job, assumed))),
        "bound": describe_bound(jobs[0], planned),
        "warnings": [f"{check.subject}: {check.problem}" for check in dict.fromkeys(checks) if check.problem],
        "disk": {
            "needed_bytes": needed_bytes(planned, checkpoint),
            "free_bytes": free,
            "text": None if evaluating else describe_disk(planned, free, checkpoint),
        },
        "cpu_text": None if on_cpu is None else describe_cpu_hours(on_cpu),
    }


def _texts(below: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines below the table."""
    yield from below["memory"]
    yield from (text for text in (below["cpu_text"], below["disk"]["text"]) if text)
    yield from below["assumptions"]
    yield from below["bound"]
    yield from (f"warning: {text}" for text in below["warnings"])


def _names_evaluate(arguments: Sequence[str]) -> bool:
    """Return whether a command line chooses the configuration of an evaluation by Hydra's flag."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=False)  # no argument has no pair
    return any(
        f"{flag}={name}" in {f"--config-name={EVALUATE}", f"-cn={EVALUATE}"} or flag == f"--config-name={EVALUATE}"
        for flag, name in pairs
    )
