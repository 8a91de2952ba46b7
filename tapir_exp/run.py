"""One run, from its configuration to its report."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tapir_exp.bench import Bench
from tapir_exp.config import Config, LLMConfig
from tapir_exp.console import console, say_table
from tapir_exp.judge.kinship import kinship
from tapir_exp.lab import provider
from tapir_exp.lab.oracle import lab_digest
from tapir_exp.labellers.labeller import open_labeller
from tapir_exp.llm.books import Books
from tapir_exp.llm.client import Client
from tapir_exp.llm.hosting import Servers, identity_of
from tapir_exp.llm.ledger import Account
from tapir_exp.llm.providers import LAB
from tapir_exp.llm.spending import tell_spending
from tapir_exp.local.weights import find_weights
from tapir_exp.manifest import Manifest
from tapir_exp.metrics import Artifacts, Metrics, run_metrics
from tapir_exp.records import Quota
from tapir_exp.report.page import write_report
from tapir_exp.rounds import distil
from tapir_exp.schedule import alpha_of
from tapir_exp.store import Store, write_whole
from tapir_exp.tasks import Shares
from tapir_exp.tracking import Tracker


def run(config: Config, run_dir: Path, resolved: str, sweep_dir: Path | None = None) -> None:
    """Carry out a run: distil, then write its manifest, metrics and report into `run_dir`.

    resolved: the configuration as YAML, every interpolation resolved. sweep_dir: of the sweep that this is a job of,
    which then shares the budget. What is in the store is not made again.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    write_whole(run_dir / "config.yaml", resolved)
    account = Account(str(run_dir)) if sweep_dir is None else Account(str(sweep_dir), run_dir.name)
    with (
        Tracker(config.logger, run_dir, group=run_dir.parent.name, settings=yaml.safe_load(resolved)) as tracker,
        open_bench(config, account) as bench,
    ):
        console.rule(f"{config.name}: {config.arm}, seed {config.seed}")
        _warn_of_kinship(config)
        try:
            target = distil(bench)
        finally:  # what was spent is told of a run that fails, too
            tell_spending(bench.ledger, run_dir)
        manifest = _manifest(bench, run_dir, target)
        manifest.write(run_dir)
        artifacts = manifest.open(run_dir)
        metrics = run_metrics(manifest, artifacts)
        write_whole(run_dir / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in metrics))
        _track(tracker, metrics, artifacts)
        report = write_report(run_dir)
    _say_rounds(metrics)
    _link_latest(run_dir, Path(config.outputs))
    console.print(f"report: {report}")


@contextmanager
def open_bench(config: Config, account: Account, *, calling: bool = True) -> Iterator[Bench]:
    """The workbench of a run: the shared store, and the models that the configuration names.

    account: to whom the spend is written down. calling: whether models will be asked, so that all it takes must be
    there. Raises ConfigError where no call of a chat model can succeed, a budget
    in USD cannot be kept, or a trained labeller is not there.
    """
    store = Store(Path(config.outputs) / "store")
    books = Books(store.root, account, config.spend)
    servers = Servers(store.root / "servers")

    def open_checked(llm: LLMConfig, role: str) -> Client:
        chat = open_chat(llm, role, books, servers)
        if calling and config.curriculum.rounds:
            chat.check(priced=config.spend.max_usd is not None)
        return chat

    try:
        teacher = open_checked(config.teacher.llm, "teacher")
        judge = open_checked(config.judge.llm, "judge")
        labeller = open_labeller(config.classifier, lambda: open_checked(config.classifier.llm, "labeller"))
        yield Bench(config, store, teacher, judge, labeller, books.ledger)
    finally:
        servers.close()
        books.close()


def open_chat(llm: LLMConfig, role: str, books: Books, servers: Servers) -> Client:
    """A chat model for a role; the oracles of the lab are made known to litellm first.

    servers: those of the job, of which the model's may be one. Raises ConfigError where weights are missing, or others.
    """
    if llm.server.command:
        found = None if llm.server.weights is None else find_weights(llm.server.weights)
        server = servers.open(llm.server, found.path if found else None, role)
        version = identity_of(llm.server, found.sha256 if found else None)
        return Client(llm, role, books, version=version, server=server)
    if not llm.model.startswith(LAB):
        return Client(llm, role, books)
    return Client(llm, role, books, prepare=provider.register, version=lab_digest())


def _warn_of_kinship(config: Config) -> None:
    kin = kinship(config.teacher.llm.model, config.judge.llm.model)
    if config.curriculum.rounds and kin is not None:
        console.print(f"warning: {kin}; judges favour their own family.", markup=False, soft_wrap=True)


def _manifest(bench: Bench, run_dir: Path, target: Shares | None) -> Manifest:
    config = bench.config
    curriculum = config.curriculum
    return Manifest(
        name=config.name,
        arm=config.arm,
        seed=config.seed,
        store=os.path.relpath(bench.store.root, run_dir),
        delta=curriculum.delta,
        alphas=tuple(
            alpha_of(number, curriculum.alpha, curriculum.delta_alpha) for number in range(1, curriculum.rounds + 1)
        ),
        target=None if target is None else dict(target),
        artifacts=tuple(bench.entries),
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
        "tokens": "fit/tokens",
        "loss": "fit/final_loss",
        "gap": "gap/mean",
        "hard": "gap/hard_share",
        "exact": "benchmark/accuracy",
        "s.e.": "benchmark/accuracy_se",
    }
    rows = [[f"S_{row['round']}", *(_shown(row.get(name)) for name in columns.values())] for row in metrics]
    say_table("Round by round; gap and hard share are of that student on what it was scored on", ["", *columns], rows)


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
