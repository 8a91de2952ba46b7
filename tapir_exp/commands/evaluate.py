"""`tapir evaluate`: evaluate a student on benchmarks."""

import os
import sys
from collections.abc import Sequence

from tapir_exp.commands.command_line import CLASSIFY_GROUPS, JSON_VARIABLE, format_choices, wants_help

HELP = """\
tapir evaluate: evaluate a student on AlpacaEval 2.0, MT-Bench, IFEval and the lab's held-out problems.

  tapir evaluate evals.run=outputs/latest                the last student of a run, on the lab's problems
  tapir evaluate evals=alpaca_eval judge=gpt_4_1106_preview evals.run=outputs/runs/llama2_7b_paper
  tapir evaluate evals=paper evals.run=outputs/sweeps/mfd_threshold     every job of a sweep, and the paper's tables
  tapir evaluate evals=mt_bench judge=gpt_4 student=qwen1_5_1_8b student.model=DIR_OR_HUB_ID
  tapir evaluate evals=alpaca_eval judge=gpt_4_1106_preview evals.alpaca_eval.outputs=model_outputs.json

  --json                                 also write the figures to stdout, one line of JSON for each evaluation

The same command resumes an interrupted evaluation. Results are written to outputs/evaluations/, with the files of the
official tools. `tapir report --paper outputs/evaluations` compares them with the published figures.

Groups and their choices (tapir_exp/config documents every key):
"""


def main(arguments: Sequence[str]) -> None:
    """Evaluate the student that a command line names."""
    if wants_help(arguments):
        sys.stdout.write(HELP + format_choices(exclude=CLASSIFY_GROUPS))
        return
    if "--json" in arguments:
        # Jobs of a sweep may run in other processes.
        os.environ[JSON_VARIABLE] = "1"
    from tapir_exp.commands.finished import EVALUATE
    from tapir_exp.commands.hydra_app import start

    start(EVALUATE, [argument for argument in arguments if argument != "--json"])
