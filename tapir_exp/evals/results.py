"""Write the result of an evaluation."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from tapir_exp.core.store import SIDECAR, Artifact, write_text_atomic

METRICS = "metrics.json"


def write_results(directory: Path, done: Mapping[str, Artifact]) -> Path:
    """Write every suite's files and `metrics.json` into the evaluation's directory, from the artifacts alone."""
    for suite, artifact in done.items():
        shutil.rmtree(directory / suite, ignore_errors=True)  # files of a student that was evaluated here before
        shutil.copytree(artifact.path, directory / suite, ignore=shutil.ignore_patterns(SIDECAR))
    figures = {suite: dict(artifact.figures) for suite, artifact in done.items()}
    write_text_atomic(directory / METRICS, json.dumps(figures, indent=1) + "\n")
    return directory / METRICS
