"""Write the results of an evaluation."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from tapir_exp.core.store import SIDECAR, Artifact, write_text_atomic

METRICS = "metrics.json"


def write_results(directory: Path, artifacts: Mapping[str, Artifact]) -> Path:
    """Write the files of each suite and `metrics.json`.

    Args:
        directory: The directory of the evaluation.
        artifacts: The artifact of each suite, by name of the suite.

    Returns:
        The path of `metrics.json`.
    """
    for suite, artifact in artifacts.items():
        # The directory may hold the files of another student that was evaluated earlier.
        shutil.rmtree(directory / suite, ignore_errors=True)
        shutil.copytree(artifact.path, directory / suite, ignore=shutil.ignore_patterns(SIDECAR))
    figures = {suite: dict(artifact.figures) for suite, artifact in artifacts.items()}
    write_text_atomic(directory / METRICS, json.dumps(figures, indent=1) + "\n")
    return directory / METRICS
