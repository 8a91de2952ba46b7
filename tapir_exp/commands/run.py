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


def run(config: Config, run_dir: Path, resolved: str, sweep_dir: Path | None = None) -> None:
    """Carry out a run: distil, then write its manifest, metrics and report into `run_dir`.

    resolved: the configuration as YAML, every interpolation resolved. sweep_dir: of the sweep that this is a job of,
    which then shares the budget. What is in the store is not made again.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text_atomic(run_dir / "config.yaml", resolved)
    account = SpendScope(str(run_dir)) if sweep_dir is None else SpendScope(str(sweep_dir), run_dir.name)
    with (
        Tracker(config.logger, run_dir, group=run_dir.parent.name, settings=yaml.safe_load(resolved)) as tracker,
        open_workspace(config, account) as ws,
    ):
        console.rule(f"{config.name}: {config.arm}, seed {config.seed}")
        _warn_of_kinship(config)
        try:
            target = distill(ws)
        finally:  # what was spent is told of a run that fails, too
            write_spend_report(ws.ledger, run_dir)
        manifest = _manifest(ws, run_dir, target)
        manifest.write(run_dir)
        artifacts = manifest.open(run_dir)
        metrics = run_metrics(manifest, artifacts)
        write_text_atomic(run_dir / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in metrics))
        _track(tracker, metrics, artifacts)
        report = write_report(run_dir)
    _say_rounds(metrics)
    _link_latest(run_dir, Path(config.outputs))
    console.print(f"report: {report}")


def _warn_of_kinship(config: Config) -> None:
    kin = shared_family(config.teacher.llm.model, config.judge.llm.model)
    if config.curriculum.rounds and kin is not None:
        console.print(f"warning: {kin}; judges favour their own family.", markup=False, soft_wrap=True)


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
        plan = artifacts.get(f"plan-{number}")
        tracker.log_round(number, row, plan.rows(Quota) if plan else [])


def _say_rounds(metrics: list[Metrics]) -> None:
    columns = {
        "α": "curriculum/alpha",
        "rows": "mix/rows",
        "new": "mix/new_share",
        "tokens": "train/tokens",
        "loss": "train/final_loss",
        "gap": "gap/mean",
        "hard": "gap/hard_share",
        "exact": "benchmark/accuracy",
        "s.e.": "benchmark/accuracy_se",
    }
    rows = [[f"S_{row['round']}", *(_shown(row.get(name)) for name in columns.values())] for row in metrics]
    print_table("Round by round; gap and hard share are of that student on what it was scored on", ["", *columns], rows)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _link_latest(run_dir: Path, outputs: Path) -> None:
    """Point `outputs/latest` at the run; a job of a sweep may race others, so the link is replaced whole."""
    passing = outputs / f".latest-{os.getpid()}"
    passing.unlink(missing_ok=True)
    passing.symlink_to(os.path.relpath(run_dir, outputs))
    passing.replace(outputs / "latest")
