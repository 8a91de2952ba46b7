"""One run, from its configuration to its report."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from tapir_exp.config import Config
from tapir_exp.core.console import console, print_table
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import Quota
from tapir_exp.core.store import write_text_atomic
from tapir_exp.distillation.curriculum.sampling import alpha_for_round
from tapir_exp.distillation.curriculum.task_mix import Shares
from tapir_exp.distillation.judge.self_preference import shared_family
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.spend_report import write_spend_report
from tapir_exp.pipeline.opening import open_workspace
from tapir_exp.pipeline.workspace import Workspace
from tapir_exp.report.metrics import Artifacts, Metrics, run_metrics
from tapir_exp.report.run_page import write_report
from tapir_exp.report.tracking import Tracker
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
}
"""Columns of the table that a run prints at its end, each with its metric."""


def run(config: Config, run_dir: Path, resolved: str, sweep_dir: Path | None = None) -> None:
    """Carry out a run: distil, then write manifest, metrics and report. Stages in the store are reused.

    Args:
        config: The checked configuration.
        run_dir: The directory of the run; it is created if needed.
        resolved: The configuration as YAML, with every interpolation resolved.
        sweep_dir: The sweep that this run is a job of, if any. Its jobs share one budget.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text_atomic(run_dir / "config.yaml", resolved)
    # Jobs of a sweep share the budget of the sweep.
    scope = SpendScope(str(run_dir)) if sweep_dir is None else SpendScope(str(sweep_dir), run_dir.name)
    with (
        Tracker(config.logger, run_dir, group=run_dir.parent.name, settings=yaml.safe_load(resolved)) as tracker,
        open_workspace(config, scope) as ws,
    ):
        console.rule(f"{config.name}: {config.arm}, seed {config.seed}")
        _warn_about_self_preference(config)
        try:
            target = distill(ws)
        finally:  # a run that fails has spent, too
            write_spend_report(ws.ledger, run_dir)
        manifest = _manifest(ws, run_dir, target)
        manifest.write(run_dir)
        artifacts = manifest.open(run_dir)
        metrics = run_metrics(manifest, artifacts)
        write_text_atomic(run_dir / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in metrics))
        _track(tracker, metrics, artifacts)
        report = write_report(run_dir)
    _print_rounds(metrics)
    _link_latest(run_dir, Path(config.outputs))
    console.print(f"report: {report}")


def _warn_about_self_preference(config: Config) -> None:
    family = shared_family(config.teacher.llm.model, config.judge.llm.model)
    if config.curriculum.rounds and family is not None:
        console.print(f"warning: {family}; judges favour their own family.", markup=False, soft_wrap=True)


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


def _track(tracker: Tracker, metrics: list[Metrics], artifacts: Artifacts) -> None:
    for number, row in enumerate(metrics):
        plan = artifacts.get(f"plan-{number}")  # S_0 has none
        tracker.log_round(number, row, plan.rows(Quota) if plan else [])


def _print_rounds(metrics: list[Metrics]) -> None:
    rows = [
        [f"S_{row['round']}", *(_format_figure(row.get(name)) for name in TABLE_COLUMNS.values())] for row in metrics
    ]
    print_table(
        "Results by round (gap and hard share: of the rows that the student was scored on)",
        ["", *TABLE_COLUMNS],
        rows,
    )


def _format_figure(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _link_latest(run_dir: Path, outputs: Path) -> None:
    """Point `outputs/latest` at the run. The link is replaced atomically, since jobs of a sweep may race."""
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
