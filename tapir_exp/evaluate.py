"""One evaluation, from its configuration to its figures: the command `tapir-evaluate`."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tapir_exp.config import Config, parse
from tapir_exp.console import console
from tapir_exp.evaluation import Evaluation, relative
from tapir_exp.run import open_bench
from tapir_exp.store import SIDECAR, Artifact, write_whole
from tapir_exp.subject import Subject, any_student, last_student
from tapir_exp.suites import JUDGED, SUITES

METRICS = "metrics.json"


def evaluate(config: Config, directory: Path, resolved: str) -> None:
    """Carry out the suites, and write their files, the figures and the manifest into `directory`.

    resolved: the configuration as YAML. What is in the store is neither answered nor judged again.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / "config.yaml", resolved)
    subject = find_subject(config)
    judged = any(suite in JUDGED for suite in config.evals.suites)
    bench = open_bench(config)
    if judged:
        bench.judge.check()
    console.rule(f"evaluation of {subject.name}")
    done = {suite.value: SUITES[suite](bench, subject) for suite in config.evals.suites}
    Evaluation(
        student=subject.name,
        model=subject.student.model if subject.source else None,
        **_origin(subject, directory),
        judge=config.judge.llm.model if judged else None,
        store=os.path.relpath(bench.store.root, directory),
        suites={suite: artifact.stage for suite, artifact in done.items()},
        artifacts=tuple(bench.entries),
    ).write(directory)
    write_results(directory, done)
    console.print(f"evaluation: {directory}")


def find_subject(config: Config) -> Subject:
    """The student that the configuration names. Raises StoreError where its run is not finished."""
    if config.evals.run is None:
        return any_student(config.evals.name, config.student)
    run = Path(config.evals.run).resolve()
    cfg = OmegaConf.load(run / "config.yaml")
    assert isinstance(cfg, DictConfig)
    return last_student(run, config.evals.name, parse(cfg).student)


def write_results(directory: Path, done: dict[str, Artifact]) -> None:
    """Write the figures and every suite's files, from the artifacts alone."""
    for suite, artifact in done.items():
        shutil.copytree(
            artifact.path, directory / suite, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SIDECAR)
        )
    figures = {suite: dict(artifact.figures) for suite, artifact in done.items()}
    write_whole(directory / METRICS, json.dumps(figures, indent=1) + "\n")


def _origin(subject: Subject, directory: Path) -> dict[str, Any]:
    manifest = subject.manifest
    known = {} if manifest is None else {"experiment": manifest.name, "arm": manifest.arm, "seed": manifest.seed}
    return {"experiment": None, "arm": None, "seed": None, **known, "run": relative(subject.run, directory)}
