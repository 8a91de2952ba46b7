"""One evaluation, from its configuration to its figures: the command `tapir-evaluate`."""

import os
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tapir_exp.config import Config, parse
from tapir_exp.core.console import console
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.evaluation_manifest import JUDGED, Evaluation, relative
from tapir_exp.core.store import Artifact, write_text_atomic
from tapir_exp.evals.alpaca_eval import load_outputs
from tapir_exp.evals.mt_bench import model_of
from tapir_exp.evals.results import write_results
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.spend_report import write_spend_report
from tapir_exp.pipeline.benchmarks import SUITES
from tapir_exp.pipeline.opening import open_workspace
from tapir_exp.pipeline.subject import EvaluatedModel, any_student, last_student
from tapir_exp.pipeline.workspace import Workspace


def evaluate(config: Config, directory: Path, resolved: str, sweep_dir: Path | None = None) -> None:
    """Carry out the suites, and write their files, the figures and the manifest into `directory`.

    resolved: the configuration as YAML. sweep_dir: of the sweep that this is a job of, which then shares the budget.
    What is in the store is neither answered nor judged again.
    """
    if not config.evals.suites:
        raise ConfigError(["evals.suites = []: expected at least one suite, such as evals=alpaca_eval"])
    directory.mkdir(parents=True, exist_ok=True)
    write_text_atomic(directory / "config.yaml", resolved)
    subject = find_subject(config)
    account = SpendScope(str(directory)) if sweep_dir is None else SpendScope(str(sweep_dir), directory.name)
    with open_workspace(config, account) as ws:
        _check_judge(ws)
        console.rule(f"evaluation of {subject.name}")
        try:
            done = {suite.value: SUITES[suite](ws, subject) for suite in config.evals.suites}
        finally:
            write_spend_report(ws.ledger, directory)
        _manifest(ws, subject, directory, done).write(directory)
    write_results(directory, done)
    console.print(f"evaluation: {directory}", soft_wrap=True)


def _check_judge(ws: Workspace) -> None:
    """Raises ConfigError where a suite needs the judge, and no call of it can succeed."""
    if _is_judged(ws.config):
        assert isinstance(ws.judge, Client)
        ws.judge.check(priced=ws.config.spend.max_usd is not None)


def _is_judged(config: Config) -> bool:
    """Whether any of the suites asks the judge."""
    return any(suite.value in JUDGED for suite in config.evals.suites)


def _manifest(ws: Workspace, subject: EvaluatedModel, directory: Path, done: Mapping[str, Artifact]) -> Evaluation:
    run = subject.manifest
    return Evaluation(
        student=subject.name,
        model=subject.student.model if subject.source else None,
        experiment=run.name if run else None,
        arm=run.arm if run else None,
        seed=run.seed if run else None,
        run=relative(subject.run, directory),
        judge=ws.config.judge.llm.model if _is_judged(ws.config) else None,
        store=os.path.relpath(ws.store.root, directory),
        suites={suite: artifact.stage for suite, artifact in done.items()},
        artifacts=tuple(ws.entries),
    )


def find_subject(config: Config) -> EvaluatedModel:
    """The student that the configuration names. Raises StoreError where its run is not finished."""
    if config.evals.run is None:
        return any_student(config.evals.name or _given_name(config), config.student)
    run = Path(config.evals.run).resolve()
    cfg = OmegaConf.load(run / "config.yaml")
    assert isinstance(cfg, DictConfig)
    return last_student(run, config.evals.name, parse(cfg).student)


def _given_name(config: Config) -> str | None:
    """The name in a file of answers, where there is one."""
    if path := config.evals.alpaca_eval.outputs:
        return load_outputs(Path(path))[0].generator
    path = config.evals.mt_bench.answers
    return None if path is None else model_of(Path(path))
