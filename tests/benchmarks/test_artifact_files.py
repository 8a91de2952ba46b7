"""Two stores are the same if they have the same artifacts with the same files."""

import json
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

from tapir_exp.core.store import SIDECAR


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Load the script, which is no module of the package."""
    return load_script("benchmarks/artifact_files.py")


def write_artifact(outputs: Path, name: str, **files: str) -> None:
    """Write the record of an artifact with the digests of its files."""
    directory = outputs / "store" / name
    directory.mkdir(parents=True)
    (directory / SIDECAR).write_text(json.dumps({"files": files}))


def test_artifacts_that_differ_are_named(script: ModuleType, tmp_path: Path) -> None:
    for outputs, weights in ((tmp_path / "one", "a" * 64), (tmp_path / "two", "b" * 64)):
        write_artifact(outputs, "seeds/1", rows="c" * 64)
        write_artifact(outputs, "student/2", weights=weights)
    write_artifact(tmp_path / "two", "plan/3")
    one, two = (script.artifact_files(tmp_path / name) for name in ("one", "two"))
    assert one["student/2"] == {"weights": "a" * 64}
    assert script.differing_artifacts(one, one) == []
    assert script.differing_artifacts(one, two) == script.differing_artifacts(two, one) == ["plan/3", "student/2"]
