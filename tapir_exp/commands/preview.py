"""`tapir preview`: take a few rows through the real path of a run, and show every prompt, reply, cost and time."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tapir_exp.commands.command_line import CLASSIFY_GROUPS, format_choices, read_job, rows_parser, wants_help
from tapir_exp.config import Config, LLMConfig

if TYPE_CHECKING:
    from rich.console import Console

    from tapir_exp.pipeline.preview import Call, Preview, Step
    from tapir_exp.pipeline.probe_rows import Probe
    from tapir_exp.pipeline.workspace import Workspace

DEFAULT_ROWS = 5
MOST_ROWS = 50
"""Most rows of a preview, which pays for every call of each."""
SHOWN = 1200
"""Characters of a prompt or a reply that are shown."""
SHORT = 80
"""Characters of a text that is shown twice, as the reply and as what was read from it."""
HELP = f"""\
tapir preview: take a few rows through the real path of a run before it is paid for, and show every prompt, the raw
reply, what was read from it, cost and time: task type, response of the teacher, answer of the student before any fit,
the judge's replies in both orders, an expansion, a refinement. It warns of what looks wrong.

  tapir preview experiment=own_data seeds.path=mine.json teacher=gpt_4o student=qwen1_5_0_5b

  --rows N                               number of rows; default: {DEFAULT_ROWS}
  --full                                 show long texts to their end

The completions stay in the cache: a run asks for none of the labels and responses again. The other arguments are those
of `tapir run`, for one job.

Groups and their choices (tapir_exp/config documents every key):
"""


def main(arguments: Sequence[str]) -> None:
    """Print the preview of a run."""
    if wants_help(arguments):
        sys.stdout.write(HELP + format_choices(exclude=CLASSIFY_GROUPS))
        return
    parser = rows_parser("tapir preview", DEFAULT_ROWS, least=1, most=MOST_ROWS)
    parser.add_argument("--full", action="store_true")
    options, config = read_job(parser, arguments)

    from tapir_exp.core.console import Terminal

    print_preview(make_preview(config, options.rows), Terminal(), full=options.full)


def make_preview(config: Config, rows: int) -> "Preview":
    """Take rows through the steps of a run; endpoints and files are checked first.

    Raises:
        TapirError: If a check fails, or an endpoint refuses every call.
    """
    from tapir_exp.pipeline.preflight import check_before_work
    from tapir_exp.pipeline.preview import preview
    from tapir_exp.student.generate import generate_responses

    with open_singly(config) as ws:

        def check() -> None:
            check_before_work(config, ws.ledger)

        ws.before_work = check
        return preview(ws, rows, check, generate_responses)


def make_probe(config: Config, rows: int) -> "Probe":
    """Take rows through the steps of a run without its student, and measure them; see `make_preview`."""
    from tapir_exp.pipeline.preflight import check_before_work
    from tapir_exp.pipeline.probe_rows import probe_rows

    with open_singly(config) as ws:

        def check() -> None:
            check_before_work(config, ws.ledger)

        ws.before_work = check
        return probe_rows(ws, rows, check)


@contextmanager
def open_singly(config: Config) -> "Iterator[Workspace]":
    """Open the workspace of a run; its models are called one request at a time."""
    from tapir_exp.llm.ledger import SpendScope
    from tapir_exp.pipeline.opening import open_workspace

    def single(llm: LLMConfig) -> LLMConfig:
        return replace(llm, batch=False)  # a batch takes hours, and its completions have the same keys

    singly = replace(
        config,
        teacher=replace(config.teacher, llm=single(config.teacher.llm)),
        judge=replace(config.judge, llm=single(config.judge.llm)),
        classifier=replace(config.classifier, llm=single(config.classifier.llm)),
    )
    scope = SpendScope(str(Path(config.outputs) / "preview"))
    with open_workspace(singly, scope) as ws:
        yield ws


def print_preview(preview: "Preview", terminal: "Console", *, full: bool = False) -> None:
    """Print every row with its steps, then the sum of the calls and the warnings.

    Args:
        preview: The preview.
        terminal: Where to print.
        full: Whether to show long texts to their end.
    """
    from rich.text import Text

    limit = None if full else SHOWN
    for number, row in enumerate(preview.rows, 1):
        terminal.print(Text(f"row {number} of {len(preview.rows)}, {row.id}", "bold"))
        terminal.print(_indent(_clip(row.instruction, limit)), soft_wrap=True)
        for step in preview.steps[row.id]:
            _print_step(step, terminal, limit)
        terminal.print()
    terminal.print(_summarise(preview.calls()), soft_wrap=True)
    for warning in preview.warnings:
        terminal.print(Text(f"warning: {warning}", "bold yellow"), soft_wrap=True)
    if not preview.warnings:
        terminal.print("Nothing looks wrong.", soft_wrap=True)


def _print_step(step: "Step", terminal: "Console", limit: int | None) -> None:
    from rich.text import Text

    terminal.print(Text(f"  {step.name}", "bold"), soft_wrap=True)
    for call in step.calls:
        terminal.print(f"    prompt ({_describe(call)}):", soft_wrap=True)
        terminal.print(_indent(_clip(call.request.messages[-1].content, limit), 6), soft_wrap=True)
        terminal.print("    reply:", soft_wrap=True)
        reply = call.failure if call.completion is None else call.completion.text
        terminal.print(_indent(_clip(reply or "(empty)", limit), 6), soft_wrap=True)
    if step.parsed is None:
        terminal.print(Text(f"    nothing was read: {step.failure or 'no reply'}", "bold yellow"), soft_wrap=True)
        return
    # The reply above is the text already, unless something was read from it.
    whole = step.calls and step.calls[-1].completion is not None and step.calls[-1].completion.text.strip()
    text = "the whole reply" if step.parsed == whole and len(step.parsed) > SHORT else step.parsed
    if "\n" in text:
        terminal.print("    read:", soft_wrap=True)
        terminal.print(_indent(_clip(text, limit), 6), soft_wrap=True)
    else:
        terminal.print(f"    read: {_clip(text, limit)}", soft_wrap=True)


def _describe(call: "Call") -> str:
    """Describe tokens, cost and time of a call."""
    if call.cached:
        return "cached, costs nothing"
    if call.completion is None:
        return f"failed after {call.seconds:.1f} s"
    usage = call.completion.usage
    tokens = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"
    cut = ", cut" if call.completion.finish_reason == "length" else ""
    return f"{tokens}, {_format_usd(call.usd)}, {call.seconds:.1f} s{cut}"


def _summarise(calls: "Sequence[Call]") -> str:
    paid = [call for call in calls if not call.cached]
    prices = [call.usd for call in paid]
    known = [price for price in prices if price is not None]
    usd = sum(known) if len(known) == len(prices) else None
    text = f"{len(calls)} calls, {len(calls) - len(paid)} of them cached, {_format_usd(usd)}"
    if paid:
        seconds = [call.seconds for call in paid]
        text += f"; a call took {median(seconds):.1f} s (median), {max(seconds):.1f} s at most"
    return f"{text}. The completions are cached for the run."


def _format_usd(usd: float | None) -> str:
    if usd is None:
        return "price unknown"
    return f"{usd:.4f} USD" if usd else "0 USD"


def _clip(text: str, limit: int | None) -> str:
    """Return a text, or the beginning of a long one with the number of further characters."""
    if limit is None or len(text) <= limit:
        return text
    return f"{text[:limit]} … ({len(text) - limit:,} more characters; --full shows them)"


def _indent(text: str, spaces: int = 2) -> str:
    # Not splitlines, which also breaks a line at characters that a terminal shows escaped.
    return "\n".join(" " * spaces + line for line in text.removesuffix("\n").split("\n"))
