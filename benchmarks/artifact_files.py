"""Digests of the files of all artifacts in a store, by which two runs are compared."""

import json
from pathlib import Path

from tapir_exp.core.store import SIDECAR


def artifact_files(outputs: Path) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of the files of each artifact, by stage and key.

    Args:
        outputs: Outputs of a run or a sweep, which contain its store.

    Returns:
        For each artifact, such as `student/0ad85f3b9545333aeb0d`, the digest of each of its files by name.
    """
    sidecars = sorted(outputs.glob(f"store/*/*/{SIDECAR}"))
    return {"/".join(path.parts[-3:-1]): json.loads(path.read_text())["files"] for path in sidecars}


def differing_artifacts(first: dict[str, dict[str, str]], second: dict[str, dict[str, str]]) -> list[str]:
    """Return the stages and keys of artifacts that only one store has, or whose files differ."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
