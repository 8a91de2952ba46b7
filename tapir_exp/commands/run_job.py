"""One run, from its configuration to its report."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

from tapir_exp.commands.student_names import student_name
from tapir_exp.config import Config
from tapir_exp.config.lab_parts import LAB_STUDENT
from tapir_exp.core import events
from tapir_exp.core.console import console, print_table, print_warning
from tapir_exp.core.events import Event, Kind, Outcome, reading_events
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.store import write_text_atomic
from tapir_exp.distillation.curriculum.sampling import alpha_for_round
from tapir_exp.distillation.curriculum.task_mix import Shares
from tapir_exp.distillation.judge.self_preference import shared_family
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.spend_report import write_spend_report
from tapir_exp.pipeline.evaluation import write_evaluation
from tapir_exp.pipeline.opening import open_workspace
from tapir_exp.pipeline.preflight import check_before_work
from tapir_exp.pipeline.workspace import Workspace
from tapir_exp.report.live_page import live_page
from tapir_exp.report.metrics import Computed, Metrics, run_metrics
from tapir_exp.report.run_page import write_report
from tapir_exp.report.run_view import METRICS
from tapir_exp.report.templates import REPORT
from tapir_exp.tapir import distill

TABLE_COLUMNS = {
    "α": "curriculum/alpha",
    "rows": "mix/rows",
    "new": "mix/new_share",
    "tokens": "train/tokens",
    "loss": "train/final_loss",
    "gap": "gap/mean",
    "hard": "gap/hard_share",
    "acc.": "benchmark/accuracy",
    "s.e.": "benchmark/accuracy_se",
    "win rate": "held_out/win_rate",
    "ppl.": "held_out/perplexity",
    "AlpacaEval %": "alpaca_eval/win_rate",
    "MT-Bench": "mt_bench/average",
    "IFEval %": "ifeval/prompt_level_strict_acc",
}
"""Columns of the table that a run prints at its end, each with its metric. A column without any value is dropped."""

HIGH_LEARNING_RATE = 1e-3
"""Peak rate from which a run warns of a pretrained student; ours."""
FIGURES = {
    "benchmark/accuracy": "accuracy",
    "alpaca_eval/win_rate": "AlpacaEval %",
    "mt_bench/average": "MT-Bench",
    "ifeval/prompt_level_strict_acc": "IFEval %",
    "held_out/win_rate": "win rate",
    "train/final_loss": "loss",
}
"""Metrics of the last student that can be the main result of a run, the best one first, with their names."""


def run(config: Config, run_dir: Path, resolved: str, sweep_dir: Path | None = None) -> Outcome:
    """Carry out a run: distil, then write manifest, metrics and report. Stages in the store are reused.

    Metrics and the page are also written after every round, so that a run that fails has reported its finished rounds.

    Args:
        config: The checked configuration.
        run_dir: The directory of the run; it is created if needed.
        resolved: The configuration as YAML, with every interpolation resolved.
        sweep_dir: The sweep that this run is a job of, if any. Its jobs share one budget.

    Returns:
        The main result of the run.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text_atomic(run_dir / "config.yaml", resolved)
    _link_latest(run_dir, Path(config.outputs))
    # Jobs of a sweep share the budget of the sweep.
    scope = SpendScope(str(run_dir)) if sweep_dir is None else SpendScope(str(sweep_dir), run_dir.name)
    title = f"{config.name}: {config.arm}, seed {config.seed}"
    with (
        open_workspace(config, scope) as ws,
        live_page(run_dir, title, config.curriculum.rounds),
    ):
        console.rule(title)
        ws.run_name = student_name(run_dir, config.name, config.arm, config.seed)
        ws.before_work = lambda: check_before_work(config, ws.ledger)
        _warn_about_self_preference(config)
        _warn_about_learning_rate(config)
        try:
            computed: Computed = {}
            with reading_events(lambda event: _finish_round(event, ws, run_dir, computed)):
                target = distill(ws)
        finally:  # a run that fails has spent, too
            write_spend_report(ws.ledger, run_dir)
        manifest = _manifest(ws, run_dir, target)
        manifest.write(run_dir)
        metrics = run_metrics(manifest, manifest.open(run_dir), computed)
        write_text_atomic(run_dir / METRICS, _to_lines(metrics))
        report = write_report(run_dir)
    _print_rounds(metrics)
    console.print(f"report: {report}", soft_wrap=True)
    if sweep_dir is None:
        _print_next(run_dir, Path(config.outputs))
    return _outcome(metrics[-1])


def show_finished(run_dir: Path, outputs: Path) -> None:
    """Print the results of a run that was finished before, as at its end, and point `outputs/latest` at it."""
    _link_latest(run_dir, outputs)
    lines = (run_dir / METRICS).read_text(encoding="utf-8").splitlines()
    _print_rounds([json.loads(line) for line in lines])
    console.print(f"report: {run_dir / REPORT}", soft_wrap=True)
    _print_next(run_dir, outputs)


def _print_next(run_dir: Path, outputs: Path) -> None:
    """Print how to look into a finished run, and how to use its student."""
    latest = outputs / "latest"
    run = shlex.quote(str(latest if latest.resolve() == run_dir.resolve() else run_dir))
    commands = {
        "browse": f"tapir view {run}",
        "chat": f"tapir chat {run}",
        "export": f"tapir export {run} my-student",
    }
    for name, command in commands.items():
        console.print(f"{name}: {command}", soft_wrap=True)


def _finish_round(event: Event, ws: Workspace, run_dir: Path, computed: Computed) -> None:
    """Write and record the metrics and the evaluation of a round as soon as its last stage is finished."""
    if event["event"] != Kind.STUDENT_FINISHED:
        return
    number = int(event["round"])
    write_evaluation(ws, run_dir, number)
    manifest = _manifest(ws, run_dir, None)
    manifest = manifest.model_copy(update={"alphas": manifest.alphas[:number]})
    artifacts = {entry.name: ws.store.open(entry.stage, entry.key) for entry in manifest.artifacts}
    metrics = run_metrics(manifest, artifacts, computed)
    path, text = run_dir / METRICS, _to_lines(metrics)
    # A finished run that is repeated keeps its later rounds, also if it is killed now.
    if not (path.is_file() and path.read_text(encoding="utf-8").startswith(text)):
        write_text_atomic(path, text)
    done, last = _outcome(metrics[-1]), number == ws.config.curriculum.rounds
    events.record(
        Kind.ROUND_FINISHED, round=number, last=last, figure=done.figure, value=done.value, metrics=metrics[-1]
    )


def _to_lines(metrics: list[Metrics]) -> str:
    return "".join(json.dumps(row) + "\n" for row in metrics)


def _outcome(metrics: Metrics) -> Outcome:
    """Return the first of `FIGURES` that a run has for its last student."""
    name = next((name for name in FIGURES if metrics.get(name) is not None), None)
    return Outcome() if name is None else Outcome(figure=FIGURES[name], value=float(metrics[name]))


def _warn_about_self_preference(config: Config) -> None:
    if not config.curriculum.rounds:
        return
    for judge in config.judge.models:
        family = shared_family(config.teacher.llm.model, judge.model)
        if family is None:
            continue
        console.print(f"warning: {family}; judges favour their own family.", markup=False, soft_wrap=True)


def _warn_about_learning_rate(config: Config) -> None:
    """Warn if a pretrained student is fitted at a rate that suits models with random weights only."""
    rate = config.sft.learning_rate
    if config.student.model != LAB_STUDENT and rate >= HIGH_LEARNING_RATE:
        print_warning(
            f"warning: sft.learning_rate = {rate:g} is high for a pretrained student. Usual are 2e-5 (sft=full) and "
            "2e-4 (sft=lora); the lab's 2e-3 is for random weights."
        )


def _manifest(ws: Workspace, run_dir: Path, target: Shares | None) -> Manifest:
    config = ws.config
    curriculum = config.curriculum
    return Manifest(
        name=config.name,
        arm=config.arm,
        seed=config.seed,
        store=os.path.relpath(ws.store.root, run_dir),
        delta=curriculum.delta,
        alphas=tuple(
            alpha_for_round(number, curriculum.alpha, curriculum.delta_alpha)
            for number in range(1, curriculum.rounds + 1)
        ),
        target=None if target is None else dict(target),
        artifacts=tuple(ws.entries),
    )


def _print_rounds(metrics: list[Metrics]) -> None:
    columns = {
        title: name for title, name in TABLE_COLUMNS.items() if any(row.get(name) is not None for row in metrics)
    }
    rows = [[f"S_{row['round']}", *(_format_figure(row.get(name)) for name in columns.values())] for row in metrics]
    print_table("Results by round (gap, hard: of the scored rows)", ["", *columns], rows)


def _format_figure(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _link_latest(run_dir: Path, outputs: Path) -> None:
    """Point `outputs/latest` at the run. The link is replaced atomically, since jobs of a sweep may race."""
    outputs.mkdir(parents=True, exist_ok=True)
    latest = outputs / "latest"
    if latest.is_dir() and not latest.is_symlink():
        console.print(
            f"warning: {latest} is a directory, so no link to this run was made; rename the directory to get the link.",
            markup=False,
            soft_wrap=True,
        )
        return
    tmp = outputs / f".latest-{os.getpid()}"
    tmp.unlink(missing_ok=True)
    tmp.symlink_to(os.path.relpath(run_dir, outputs))
    tmp.replace(latest)
