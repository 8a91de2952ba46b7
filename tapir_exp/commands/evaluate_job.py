"""One evaluation, from its configuration to its figures."""

import os
from collections.abc import Mapping
from pathlib import Path

from tapir_exp.config import Config
from tapir_exp.config.stored import read_stored_student
from tapir_exp.core.console import console
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.evaluation_manifest import JUDGED, Evaluation, relative
from tapir_exp.core.store import Artifact, write_text_atomic
from tapir_exp.evals.alpaca_eval_files import load_outputs
from tapir_exp.evals.mt_bench_files import read_model_id
from tapir_exp.evals.results import write_results
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.spend_report import write_spend_report
from tapir_exp.pipeline.benchmarks import SUITES
from tapir_exp.pipeline.opening import open_workspace
from tapir_exp.pipeline.subject import EvaluatedModel, any_student, last_student
from tapir_exp.pipeline.workspace import Workspace


def evaluate(config: Config, directory: Path, resolved: str, sweep_dir: Path | None = None) -> None:
    """Run the benchmarks of `evals.suites`, and write their files, the figures and the manifest into `directory`.

    Responses and judgments in the store are reused.

    Args:
        config: The checked configuration.
        directory: The directory of the evaluation; it is created if needed.
        resolved: The configuration as YAML, with every interpolation resolved.
        sweep_dir: The sweep that this evaluation is a job of, if any. Its jobs share one budget.

    Raises:
        ConfigError: If there is no benchmark to run, or the judge cannot be called.
    """
    if not config.evals.suites:
        raise ConfigError(["evals.suites = []: expected at least one suite, such as evals=alpaca_eval"])
    directory.mkdir(parents=True, exist_ok=True)
    write_text_atomic(directory / "config.yaml", resolved)
    subject = find_subject(config)
    scope = SpendScope(str(directory)) if sweep_dir is None else SpendScope(str(sweep_dir), directory.name)
    with open_workspace(config, scope) as ws:
        # `open_workspace` checks the judge of rounds only, and an evaluation has none.
        if _needs_judge(config):
            assert isinstance(ws.judge, Client)
            ws.judge.check(priced=config.spend.max_usd is not None)
        console.rule(f"evaluation of {subject.name}")
        try:
            results = {suite.value: SUITES[suite](ws, subject) for suite in config.evals.suites}
        finally:  # an evaluation that fails has spent, too
            write_spend_report(ws.ledger, directory)
        _manifest(ws, subject, directory, results).write(directory)
    write_results(directory, results)
    console.print(f"evaluation: {directory}", soft_wrap=True)


def find_subject(config: Config) -> EvaluatedModel:
    """Return the student that the configuration names.

    Raises:
        ConfigError: If it names none.
        StoreError: If its run is not finished.
    """
    if config.evals.run is None:
        return any_student(config.evals.name or _name_in_files(config), config.student)
    # Prompts and chat template are part of a student, so its run decides on them. It permits nothing, however.
    run = Path(config.evals.run).resolve()
    return last_student(run, config.evals.name, read_stored_student(run, config.student))


def _needs_judge(config: Config) -> bool:
    return config.evals.ask_judge and any(suite.value in JUDGED for suite in config.evals.suites)


def _manifest(ws: Workspace, subject: EvaluatedModel, directory: Path, results: Mapping[str, Artifact]) -> Evaluation:
    run = subject.manifest
    return Evaluation(
        student=subject.name,
        model=subject.student.model if subject.source else None,
        experiment=run.name if run else None,
        arm=run.arm if run else None,
        seed=run.seed if run else None,
        run=relative(subject.run, directory),
        judge=ws.config.judge.llm.model if any(suite.value in JUDGED for suite in ws.config.evals.suites) else None,
        store=os.path.relpath(ws.store.root, directory),
        suites={suite: artifact.stage for suite, artifact in results.items()},
        artifacts=tuple(ws.entries),
    )


def _name_in_files(config: Config) -> str | None:
    """Return the model name in a given file of outputs or answers, if there is such a file."""
    if path := config.evals.alpaca_eval.outputs:
        return load_outputs(Path(path))[0].generator
    path = config.evals.mt_bench.answers
    return None if path is None else read_model_id(Path(path))
