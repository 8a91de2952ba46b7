"""The job of `tapir judge-check`: ask or replay the judges, measure them, and write the pages."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tapir_exp.commands.command_line import compose_jobs
from tapir_exp.config import Config, JudgeConfig
from tapir_exp.core.console import console, print_table, print_warning
from tapir_exp.core.file_names import file_name
from tapir_exp.core.store import write_rows, write_text_atomic
from tapir_exp.distillation.judge.check import (
    JudgeCheck,
    check_verdicts,
    common_failures,
    count_calls,
    judge_pairs,
    members_of,
    replay,
)
from tapir_exp.evals.labelled_pairs import LabelledPair, read_pairs
from tapir_exp.evals.statistics import Interval
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.ledger import Spend, SpendScope
from tapir_exp.llm.serving.pool import ServerPool
from tapir_exp.llm.spend_report import write_spend_report
from tapir_exp.pipeline.opening import open_judge
from tapir_exp.report.judge_check_page import write_judge_check

FIGURES = "judge_check.json"
STAGE = "judge_check"
"""Stage that the calls are recorded for."""


@dataclass(frozen=True)
class CheckJob:
    """A command line of `tapir judge-check`.

    Attributes:
        pairs: File of labelled pairs; None if every judge is replayed from files that hold their own.
        limit: Most pairs to use.
        replies: Names of replayed judges with their files.
        delta: Threshold of the hard set, in points.
        output_dir: Directory of the results.
        overrides: Overrides of the configuration; several values of a key stand for several judges.
    """

    pairs: Path | None
    limit: int | None
    replies: tuple[tuple[str, Path], ...]
    delta: float
    output_dir: Path
    overrides: tuple[str, ...]


def run_job(job: CheckJob) -> list[JudgeCheck]:
    """Check every judge of a command line, print the figures, and write the results.

    Raises:
        ConfigError: If the configuration is wrong, or a judge cannot be called.
        EvaluationError: If pairs or replies cannot be read.
    """
    pairs = [] if job.pairs is None else read_pairs(job.pairs, job.limit)
    configs = compose_jobs(["-m", "allow_lab_parts=true", *job.overrides]) if job.overrides else []
    job.output_dir.mkdir(parents=True, exist_ok=True)
    checks = [replay(name, path, pairs, job.delta) for name, path in job.replies]
    for config, name in zip(configs, _names([config.judge for config in configs]), strict=True):
        checks.extend(_ask(config, name, pairs, job))
    data = "the pairs of the replies" if job.pairs is None else job.pairs.name
    write_text_atomic(job.output_dir / FIGURES, json.dumps(_figures(checks, data), indent=1) + "\n")
    page = write_judge_check(job.output_dir, checks, data)
    _print(checks, data)
    console.print(f"report: {page}", soft_wrap=True)
    return checks


def _ask(config: Config, name: str, pairs: Sequence[LabelledPair], job: CheckJob) -> list[JudgeCheck]:
    """Ask a judge about the pairs; its completions go through the cache, the limits and the budget of the runs.

    The judges of a panel follow the panel, each by its replies in it.
    """
    store = Path(config.outputs) / "store"
    call_store, servers = CallStore(store, SpendScope(str(job.output_dir)), config.spend), ServerPool(store / "servers")
    try:
        chat = open_judge(config.judge, call_store, servers)
        chat.check(priced=config.spend.max_usd is not None)
        with call_store.ledger.record_stage(STAGE) as recorded:
            verdicts, seconds = judge_pairs(pairs, chat, config.judge, f"judge-check: {name}")
    finally:  # a check that fails has spent, too
        write_spend_report(call_store.ledger, job.output_dir)
        servers.close()
        call_store.close()
    write_rows(job.output_dir / f"verdicts-{file_name(name.replace(', ', '-'))}.jsonl", verdicts)
    for reason, count in common_failures(verdicts):
        print_warning(f"{name}: {count} replies without scores: {reason}")
    check = check_verdicts(name, pairs, verdicts, job.delta)
    spend = recorded.get("judge", Spend())
    calls = count_calls(pairs, config.judge)
    return [
        replace(check, calls=calls, spend=spend, seconds=seconds),
        *members_of(name, pairs, verdicts, job.delta),
    ]


def _names(judges: Sequence[JudgeConfig]) -> list[str]:
    """Return a name for each judge: its model, its protocol, and settings that distinguish it from the others."""
    names = [", ".join(_parts_of_name(judge)) for judge in judges]
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]


def _parts_of_name(judge: JudgeConfig) -> Iterator[str]:
    yield judge.llm.model.rpartition("/")[2] if len(judge.models) == 1 else f"panel of {len(judge.models)}"
    yield judge.protocol.value
    if judge.metrics:
        yield "with metrics"
    if judge.reference:
        yield "with reference"
    if judge.own_reference:
        yield "with own reference"
    if judge.samples > 1:
        yield f"{judge.samples} samples"
    if not judge.swap_positions and not judge.protocol.alone:
        yield "one order"


def _figures(checks: Sequence[JudgeCheck], data: str) -> Mapping[str, object]:
    return {
        "data": data,
        "judges": {
            check.name: {
                **asdict(check.agreement),
                "noise": None
                if check.noise is None
                else {**asdict(check.noise), "reliability": check.noise.reliability},
                "calls": check.calls,
                "spend": None if check.spend is None else check.spend.model_dump(),
                "seconds": check.seconds,
            }
            for check in checks
        },
    }


def _print(checks: Sequence[JudgeCheck], data: str) -> None:
    columns = ["", "right, %", "tie", "wrong", "unscored", "both orders alike", "gap > δ right", "κ"]
    rows = [
        [
            check.name,
            _percent(check.agreement.right),
            _percent(check.agreement.ties, bounds=False),
            _percent(check.agreement.wrong, bounds=False),
            _percent(check.agreement.unscored, bounds=False),
            _percent(check.agreement.consistent),
            _percent(check.agreement.above_delta),
            "–" if check.agreement.kappa is None else f"{check.agreement.kappa.mean:.2f}",
        ]
        for check in checks
    ]
    print_table(f"Judges on {data}, {checks[0].agreement.rows} pairs", columns, rows)


def _percent(interval: Interval | None, *, bounds: bool = True) -> str:
    if interval is None:
        return "–"
    if not bounds or interval.low is None or interval.high is None:
        return f"{100 * interval.mean:.0f}"
    return f"{100 * interval.mean:.0f} ({100 * interval.low:.0f}–{100 * interval.high:.0f})"
