"""Manifests name every artifact of a run and open them, also after the outputs directory was moved."""

import json
from pathlib import Path

import pytest

from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import MANIFEST, Manifest, entry_of
from tapir_exp.core.records import Response
from tapir_exp.core.store import ROWS, Artifact, Store, write_rows
from tapir_exp.core.task_types import TaskType


def made(outputs: Path, text: str) -> Artifact:
    def make(directory: Path) -> dict[str, int]:
        return {"rows": write_rows(directory / ROWS, [Response(id="a", text=text)])}

    return Store(outputs / "store").produce("student_responses", {"text": text}, make)


def written(outputs: Path) -> tuple[Manifest, Path]:
    """Write a manifest of two artifacts into the directory of a run."""
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


def test_manifest_round_trips(tmp_path: Path) -> None:
    manifest, run_dir = written(tmp_path)
    assert Manifest.load(run_dir) == manifest
    assert [path.name for path in run_dir.iterdir()] == [MANIFEST]


def test_manifest_without_rounds_has_no_target(tmp_path: Path) -> None:
    manifest, run_dir = written(tmp_path)
    manifest.model_copy(update={"target": None, "alphas": ()}).write(run_dir)
    assert Manifest.load(run_dir).target is None


def test_open_returns_artifacts_by_name(tmp_path: Path) -> None:
    manifest, run_dir = written(tmp_path)
    opened = manifest.open(run_dir)
    assert list(opened) == ["student_responses-0", "student_responses-1"]
    assert [opened[name].rows(Response)[0].text for name in opened] == ["round 0", "round 1"]


@pytest.mark.parametrize("judged", [False, True])
def test_open_last_student_prefers_the_judged_one(tmp_path: Path, judged: bool) -> None:
    manifest, run_dir = written(tmp_path)
    names = [f"student-{n}" for n in range(3)] + ["judged_student-1"] + ["judged_student-2"] * judged
    entries = tuple(entry_of(name, 0, made(tmp_path, name)) for name in names)
    student = manifest.model_copy(update={"artifacts": entries}).open_last_student(run_dir)
    assert student.rows(Response)[0].text == ("judged_student-2" if judged else "student-2")


def test_open_works_after_outputs_are_moved(tmp_path: Path) -> None:
    _, run_dir = written(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = tmp_path / "there" / run_dir.relative_to(tmp_path / "here")
    assert Manifest.load(moved).open(moved)["student_responses-1"].rows(Response)[0].text == "round 1"


def test_entry_holds_stage_round_key_and_file_hashes(tmp_path: Path) -> None:
    artifact = made(tmp_path, "x")
    entry = entry_of("student_responses-2", 2, artifact)
    assert (entry.name, entry.stage, entry.round, entry.key) == (
        "student_responses-2",
        "student_responses",
        2,
        artifact.key,
    )
    assert entry.files == artifact.files
    assert set(entry.files) == {ROWS}
    assert len(entry.files[ROWS]) == 64


def test_load_without_manifest_says_that_the_run_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no manifest\.json: the run has not finished"):
        Manifest.load(tmp_path)


def test_open_names_a_missing_artifact(tmp_path: Path) -> None:
    manifest, run_dir = written(tmp_path)
    gone = manifest.artifacts[1]
    (tmp_path / "store" / "student_responses" / gone.key / "artifact.json").unlink()
    with pytest.raises(StoreError, match=f"artifact student_responses/{gone.key} is not in"):
        manifest.open(run_dir)


def test_load_rejects_an_unknown_field(tmp_path: Path) -> None:
    _, run_dir = written(tmp_path)
    content = json.loads((run_dir / MANIFEST).read_text()) | {"deltaa": 1.0}
    (run_dir / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(StoreError, match="deltaa"):
        Manifest.load(run_dir)


def test_load_of_an_earlier_format_says_how_to_continue(tmp_path: Path) -> None:
    _, run_dir = written(tmp_path)
    content = json.loads((run_dir / MANIFEST).read_text())
    del content["format"]
    (run_dir / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"has format 1, but this version reads format 2\. Run the experiment again"):
        Manifest.load(run_dir)
