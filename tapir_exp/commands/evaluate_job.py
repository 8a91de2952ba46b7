"""One evaluation, or those of all students of a sweep, from the configuration to the figures."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tapir_exp.commands.command_line import JSON_VARIABLE
from tapir_exp.commands.student_names import student_name
from tapir_exp.config import Config
from tapir_exp.config.stored import read_stored_student
from tapir_exp.core.console import console, print_warning, write_line
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.core.evaluation_manifest import Evaluation, relative
from tapir_exp.core.manifest import MANIFEST, Manifest
from tapir_exp.core.store import Artifact, write_text_atomic
from tapir_exp.evals.alpaca_eval_files import load_outputs
from tapir_exp.evals.mt_bench_files import read_model_id
from tapir_exp.evals.results import write_results
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.spend_report import write_spend_report
from tapir_exp.pipeline.benchmarks import SUITES
from tapir_exp.pipeline.evaluation import judges_of
from tapir_exp.pipeline.local_checks import raise_problems, suite_checks
from tapir_exp.pipeline.opening import open_workspace
from tapir_exp.pipeline.subject import EvaluatedModel, any_student, last_student
from tapir_exp.pipeline.workspace import Workspace
from tapir_exp.report.paper_tables import write_paper_tables


def evaluate(config: Config, directory: Path, resolved: str, sweep_dir: Path | None = None) -> None:
    """Run the benchmarks of `evals.suites`, and write their files, the figures and the manifest into `directory`.

    Responses and judgments in the store are reused. If `evals.run` is a sweep, each of its finished jobs is evaluated
    into a separate directory, and the paper's tables are written.

    Args:
        config: The checked configuration.
        directory: The directory of the evaluation; it is created if needed.
        resolved: The configuration as YAML, with every interpolation resolved.
        sweep_dir: The sweep that this evaluation is a job of, if any. Its jobs share one budget.

    Raises:
        ConfigError: If there is no benchmark to run, or the judge cannot be called.
        TapirError: If a file of a suite is missing, or the evaluation of a job of a sweep fails.
    """
    if not config.evals.suites:
        raise ConfigError(["evals.suites = []: expected at least one suite, such as evals=alpaca_eval"])
    directory.mkdir(parents=True, exist_ok=True)
    write_text_atomic(directory / "config.yaml", resolved)
    scope = SpendScope(str(directory)) if sweep_dir is None else SpendScope(str(sweep_dir), directory.name)
    jobs = sweep_jobs(config)
    with open_workspace(config, scope) as ws:
        raise_problems(suite_checks(config, config.evals.suites))
        try:
            figures = _evaluate_jobs(ws, jobs, directory) if jobs else _evaluate(ws, find_subject(config), directory)
        finally:  # an evaluation that fails has spent, too
            write_spend_report(ws.ledger, directory)
    if jobs:
        console.print(f"page: {write_paper_tables(directory)}", soft_wrap=True)
    console.print(f"evaluation: {directory}", soft_wrap=True)
    if os.environ.get(JSON_VARIABLE):
        write_line(json.dumps({"evaluation": str(directory), "figures": figures}))
    if missing := [job.name for job in jobs if job.name not in figures]:
        raise TapirError(
            f"{len(missing)} of {len(jobs)} evaluations failed: {', '.join(missing)}. Repeat the command to run them; "
            "the others are kept."
        )


def sweep_jobs(config: Config) -> list[Path]:
    """Return the finished jobs of the sweep that `evals.run` names; none if it is a run or null.

    Raises:
        ConfigError: If all of them would get one name.
    """
    if config.evals.run is None or (Path(config.evals.run) / MANIFEST).is_file():
        return []
    if config.evals.name is not None:
        expected = f"null, because the jobs of {config.evals.run} have names of their own"
        raise ConfigError([f"evals.name = {config.evals.name}: expected {expected}"])
    return sorted(path.parent for path in Path(config.evals.run).resolve().glob(f"*/{MANIFEST}"))


def find_subject(config: Config, run: Path | None = None) -> EvaluatedModel:
    """Return the student that the configuration names.

    Args:
        config: The configuration.
        run: A run instead of `evals.run`.

    Raises:
        ConfigError: If it names none.
        StoreError: If its run is not finished.
    """
    if run is None and config.evals.run is None:
        return any_student(config.evals.name or _name_in_files(config), config.student)
    # Prompts and chat template are part of a student, so they come from its run. Permissions do not.
    run = Path(run or str(config.evals.run)).resolve()
    manifest = Manifest.load(run)
    name = config.evals.name or student_name(run, manifest.name, manifest.arm, manifest.seed)
    return last_student(run, name, read_stored_student(run, config.student))


def _evaluate_jobs(ws: Workspace, jobs: list[Path], directory: Path) -> dict[str, object]:
    """Evaluate each job of a sweep; one that fails does not stop the others."""
    figures: dict[str, object] = {}
    for job in jobs:
        try:
            figures[job.name] = _evaluate(ws, find_subject(ws.config, job), directory / job.name)
        except TapirError as error:
            print_warning(f"{job.name}: {error}")
    return figures


def _evaluate(ws: Workspace, subject: EvaluatedModel, directory: Path) -> dict[str, object]:
    """Evaluate one student into a directory, and return the figures by suite."""
    directory.mkdir(parents=True, exist_ok=True)
    ws.entries.clear()
    console.rule(f"evaluation of {subject.name}")
    results = {suite.value: SUITES[suite](ws, subject) for suite in ws.config.evals.suites}
    _manifest(ws, subject, directory, results).write(directory)
    write_results(directory, results)
    return {suite: dict(artifact.figures) for suite, artifact in results.items()}


def _manifest(ws: Workspace, subject: EvaluatedModel, directory: Path, results: Mapping[str, Artifact]) -> Evaluation:
    run, judges = subject.manifest, judges_of(ws.config)
    return Evaluation(
        student=subject.name,
        model=subject.student.model if subject.source else None,
        experiment=run.name if run else None,
        arm=run.arm if run else None,
        seed=run.seed if run else None,
        run=relative(subject.run, directory),
        judge=next(iter(judges.values()), None),
        store=os.path.relpath(ws.store.root, directory),
        suites={suite: artifact.stage for suite, artifact in results.items()},
        artifacts=tuple(ws.entries),
        judges=judges,
    )


def _name_in_files(config: Config) -> str | None:
    """Return the model name in a given file of outputs or answers, if there is such a file."""
    if path := config.evals.alpaca_eval.outputs:
        return load_outputs(Path(path))[0].generator
    path = config.evals.mt_bench.answers
    return None if path is None else read_model_id(Path(path))
