"""`tapir plan`: show the calls, tokens, cost and memory of a run, without a call to any model."""

import sys
from collections.abc import Sequence

from tapir_exp.commands.command_line import CLASSIFY_GROUPS, compose_jobs, format_choices, wants_help

HELP = """\
tapir plan: show what `tapir run` with the same arguments would still call, cost and need in memory. It calls no model.

  tapir plan                             the lab
  tapir plan experiment=llama2_7b_paper seeds=file seeds.path=alpaca_data.json
  tapir plan --config-name lab_ablation  a whole sweep; what its jobs share is counted once

Finished stages and cached calls are taken into account. USD is `unknown` if the price of a model is not known.

Groups and their choices (tapir_exp/config documents every key):
"""


def main(arguments: Sequence[str]) -> None:
    """Print the plan of a run or a sweep."""
    if wants_help(arguments):
        sys.stdout.write(HELP + format_choices(exclude=CLASSIFY_GROUPS))
        return
    jobs = compose_jobs(arguments)

    from tapir_exp.commands.plan_job import SeedReader, build_table, merge_jobs, plan_job
    from tapir_exp.core.console import Terminal
    from tapir_exp.pipeline.preflight import local_checks
    from tapir_exp.student.training.memory import describe_memory

    read = SeedReader()
    console = Terminal()
    console.print(build_table(merge_jobs(plan_job(config, read) for config in jobs)))
    # Jobs of a sweep mostly share the student, and thus the memory of a fit.
    for text in dict.fromkeys(describe_memory(job.student, job.sft, job.trainer) for job in jobs):
        console.print(text, soft_wrap=True, highlight=False)
    # What would stop the run later is known now; the endpoints are asked by `tapir doctor` and by the run.
    for check in dict.fromkeys(check for job in jobs for check in local_checks(job) if check.problem):
        console.print(f"warning: {check.subject}: {check.problem}", soft_wrap=True)
