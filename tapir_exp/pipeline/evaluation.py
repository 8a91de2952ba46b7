"""Evaluate the students of a run on its suites, as stages of the run, and write the files of the suites."""

import os
from collections.abc import Mapping
from pathlib import Path

from tapir_exp.config import Config, Suite
from tapir_exp.core.evaluation_manifest import EVALUATIONS, JUDGED, Evaluation
from tapir_exp.core.store import Artifact
from tapir_exp.evals.results import write_results
from tapir_exp.pipeline.benchmarks import SUITES, lab_suite_of_benchmark
from tapir_exp.pipeline.subject import EvaluatedModel
from tapir_exp.pipeline.suite_sizes import asked_judge, evaluated_rounds, suites_of_run
from tapir_exp.pipeline.workspace import Workspace, stage_name

STAGES: Mapping[Suite, str] = {
    Suite.lab: "lab-suite",
    Suite.alpaca_eval: "alpaca-suite",
    Suite.mt_bench: "mt-suite",
    Suite.ifeval: "ifeval-suite",
}
"""Stage with the figures of each suite."""


def run_suites(ws: Workspace, number: int, student: Artifact, benchmark: Artifact | None) -> None:
    """Run the suites on a student, if its round is one of those that the run evaluates.

    Args:
        ws: The workspace of the run.
        number: Round of the student.
        student: The student, as it is judged.
        benchmark: Its results on the problems of the lab; None if the run has no such benchmark.
    """
    if number not in evaluated_rounds(ws.config):
        return
    name = f"{ws.run_name}-S{number}" if ws.config.evals.every_round else ws.run_name
    subject = EvaluatedModel(name, ws.config.student, student.path, {"student": student.key}, round=number)
    for suite in suites_of_run(ws.config):
        if suite is Suite.lab and benchmark is not None:
            lab_suite_of_benchmark(ws, subject, benchmark)
        else:
            SUITES[suite](ws, subject)


def write_evaluation(ws: Workspace, run_dir: Path, number: int) -> Path | None:
    """Write the manifest and the files of the evaluation of a round, and return its directory; None if there is none.

    Args:
        ws: The workspace of the run, which has run the suites.
        run_dir: The directory of the run.
        number: The round.
    """
    config = ws.config
    if number not in evaluated_rounds(config):
        return None
    suites = {suite.value: stage_name(STAGES[suite], number) for suite in suites_of_run(config)}
    entries = {entry.name: entry for entry in ws.entries}
    directory = run_dir / EVALUATIONS / f"S_{number}"
    directory.mkdir(parents=True, exist_ok=True)
    write_results(
        directory, {suite: ws.store.open(entries[name].stage, entries[name].key) for suite, name in suites.items()}
    )
    judges = judges_of(config)
    Evaluation(
        student=f"{ws.run_name}-S{number}" if config.evals.every_round else ws.run_name,
        model=config.student.model,
        experiment=config.name,
        arm=config.arm,
        seed=config.seed,
        run=os.path.relpath(run_dir, directory),
        judge=next(iter(judges.values()), None),
        store=os.path.relpath(ws.store.root, directory),
        suites=suites,
        artifacts=tuple(entries[name] for name in suites.values()),
        judges=judges,
        round=number,
        last=number == config.curriculum.rounds,
    ).write(directory)
    return directory


def judges_of(config: Config) -> dict[str, str]:
    """Return the model of the judge of each suite that has one."""
    return {suite.value: asked_judge(config, suite).llm.model for suite in config.evals.suites if suite.value in JUDGED}
