"""`tapir judge-check`: measure judges on pairs of answers with labels by people, before a run rests on them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tapir_exp.commands.command_line import format_choices

HELP = """\
tapir judge-check: measure judges on pairs of answers with labels by people.

  tapir judge-check --pairs FILE judge=gpt_4o            one judge
  tapir judge-check --pairs FILE --limit 100 judge=gpt_4o,gpt_4
                                                         several judges side by side, on the first 100 pairs
  tapir judge-check --pairs FILE judge=gpt_4o judge.protocol=pair_scores,single_score judge.reference=false,true
                                                         several protocols
  tapir judge-check --replies NAME=FILE [--replies NAME=FILE ...]
                                                         published evaluators from their raw replies, without a call

FILE is JSON or JSON lines of LLMBar, JudgeBench or MT-Bench's human votes, or rows of `instruction`, `response_1`,
`response_2`, `label` (1, 2 or 0 for a tie) and optionally `reference`. Replies are a result file of LLMBar, or the
verdicts-*.jsonl that a check has written (with the same --pairs).

  --pairs FILE      labelled pairs
  --limit N         use the first N pairs only
  --replies N=FILE  add a judge N by its raw replies
  --delta D         threshold of the hard set, in points (default 2)
  --output-dir DIR  results: judge_check.json, report.html, report.md, verdicts-*.jsonl (default outputs/judge_check)

Everything else is an override of the configuration, as for `tapir run`: completions are cached in `outputs`, and
`spend.max_usd` limits the check. The judges:
"""


def main(arguments: Sequence[str]) -> None:
    """Check judges on labelled pairs."""
    if {"-h", "--help"} & set(arguments) or not arguments:
        sys.stdout.write(HELP + format_choices(("judge",)))
        return
    parser = argparse.ArgumentParser(prog="tapir judge-check", add_help=False, allow_abbrev=False)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--limit", type=_positive)
    parser.add_argument("--replies", action="append", default=[], type=_named_file)
    parser.add_argument("--delta", type=float, default=2.0)
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/judge_check"))
    flags, overrides = parser.parse_known_args(list(arguments))
    if unknown := [word for word in overrides if word.startswith("-")]:
        parser.error(f"unknown flag {unknown[0]}; expected flags of `tapir judge-check --help`, or overrides key=value")
    if flags.pairs is None and (overrides or not flags.replies):
        parser.error("--pairs is missing: expected a file of labelled pairs, or only --replies with LLMBar's results")

    from tapir_exp.commands.judge_check_job import CheckJob, run_job

    run_job(CheckJob(flags.pairs, flags.limit, tuple(flags.replies), flags.delta, flags.output_dir, tuple(overrides)))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text}: expected NAME=FILE")
    return name, Path(path)
