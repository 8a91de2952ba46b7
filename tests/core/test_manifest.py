"""A manifest names every artifact of a run, and opens them again wherever the outputs have gone."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import MANIFEST, Manifest, entry_of
from tapir_exp.core.records import Response
from tapir_exp.core.store import ROWS, Artifact, Store, write_rows
from tapir_exp.core.task_types import TaskType


def made(outputs: Path, text: str) -> Artifact:
    def make(directory: Path) -> dict[str, int]:
        return {"rows": write_rows(directory / ROWS, [Response(id="a", text=text)])}

    return Store(outputs / "store").produce("answers", {"text": text}, make)


def written(outputs: Path) -> tuple[Manifest, Path]:
    """A manifest of two artifacts, in the directory of its run."""
    run_dir = outputs / "runs" / "one"
    run_dir.mkdir(parents=True)
    manifest = Manifest(
        name="lab",
        arm="tapir",
        seed=3,
        store="../../store",
        delta=2.0,
        alphas=(0.3, 0.5),
        target={TaskType.MATH: 0.25, TaskType.LAW: 0.75},
        artifacts=tuple(entry_of(f"student_responses-{n}", n, made(outputs, f"round {n}")) for n in range(2)),
    )
    manifest.write(run_dir)
    return manifest, run_dir


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest, run_dir = written(tmp_path)
    assert Manifest.load(run_dir) == manifest
    assert [path.name for path in run_dir.iterdir()] == [MANIFEST]


def test_a_run_without_rounds_has_no_target(tmp_path: Path) -> None:
    manifest, run_dir = written(tmp_path)
    manifest.model_copy(update={"target": None, "alphas": ()}).write(run_dir)
    assert Manifest.load(run_dir).target is None


def test_its_artifacts_open_by_name(tmp_path: Path) -> None:
    manifest, run_dir = written(tmp_path)
    opened = manifest.open(run_dir)
    assert list(opened) == ["student_responses-0", "student_responses-1"]
    assert [opened[name].rows(Response)[0].text for name in opened] == ["round 0", "round 1"]


def test_outputs_may_be_moved_as_a_whole(tmp_path: Path) -> None:
    _, run_dir = written(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = tmp_path / "there" / run_dir.relative_to(tmp_path / "here")
    assert Manifest.load(moved).open(moved)["student_responses-1"].rows(Response)[0].text == "round 1"


def test_an_entry_names_stage_round_key_and_the_hash_of_every_file(tmp_path: Path) -> None:
    artifact = made(tmp_path, "x")
    entry = entry_of("student_responses-2", 2, artifact)
    assert (entry.name, entry.stage, entry.round, entry.key) == ("student_responses-2", "answers", 2, artifact.key)
    assert entry.files == artifact.files
    assert set(entry.files) == {ROWS}
    assert len(entry.files[ROWS]) == 64


def test_a_run_that_has_no_manifest_yet_is_said_to_be_unfinished(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no manifest\.json: the run has not finished"):
        Manifest.load(tmp_path)


def test_an_artifact_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    manifest, run_dir = written(tmp_path)
    gone = manifest.artifacts[1]
    (tmp_path / "store" / "answers" / gone.key / "artifact.json").unlink()
    with pytest.raises(StoreError, match=f"No artifact answers/{gone.key}"):
        manifest.open(run_dir)


def test_a_field_that_is_not_known_is_refused(tmp_path: Path) -> None:
    _, run_dir = written(tmp_path)
    content = json.loads((run_dir / MANIFEST).read_text()) | {"deltaa": 1.0}
    (run_dir / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ValidationError, match="deltaa"):
        Manifest.load(run_dir)
