"""One evaluation, from its configuration to its figures: the command `tapir-evaluate`."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tapir_exp.config import Config, parse
from tapir_exp.console import console
from tapir_exp.errors import ConfigError
from tapir_exp.evals.alpaca_eval import load_outputs
from tapir_exp.evals.mt_bench import model_of
from tapir_exp.evaluation import Evaluation, relative, write_results
from tapir_exp.run import open_bench
from tapir_exp.store import write_whole
from tapir_exp.subject import Subject, any_student, last_student
from tapir_exp.suites import JUDGED, SUITES


def evaluate(config: Config, directory: Path, resolved: str) -> None:
    """Carry out the suites, and write their files, the figures and the manifest into `directory`.

    resolved: the configuration as YAML. What is in the store is neither answered nor judged again.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / "config.yaml", resolved)
    if not config.evals.suites:
        raise ConfigError(["evals.suites = []: expected at least one suite, such as evals=alpaca_eval"])
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


def _origin(subject: Subject, directory: Path) -> dict[str, Any]:
    manifest = subject.manifest
    known = {} if manifest is None else {"experiment": manifest.name, "arm": manifest.arm, "seed": manifest.seed}
    return {"experiment": None, "arm": None, "seed": None, **known, "run": relative(subject.run, directory)}
