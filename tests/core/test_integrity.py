"""Damage to an artifact is noticed when it is opened, and a run makes the artifact again."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tapir_exp.commands.export import find_source
from tapir_exp.config import StudentConfig
from tapir_exp.core import integrity
from tapir_exp.core.integrity import SIDECAR
from tapir_exp.core.store import Artifact, DamagedArtifact, Store, write_text_atomic
from tapir_exp.pipeline.subject import any_student

WEIGHTS = "model.safetensors"
Damage = Callable[[Path], object]


def make(directory: Path) -> dict[str, int]:
    (directory / WEIGHTS).write_bytes(bytes(1000))
    (directory / "below").mkdir()
    (directory / "below" / "config.json").write_text("{}")
    return {"rows": 1}


def made(root: Path) -> Artifact:
    return Store(root).produce("student", {"seed": 0}, make)


def flip_byte(directory: Path) -> None:
    content = bytearray((directory / WEIGHTS).read_bytes())
    content[500] ^= 1
    (directory / WEIGHTS).write_bytes(content)


def change_sidecar(directory: Path) -> None:
    content = json.loads((directory / SIDECAR).read_text())
    (directory / SIDECAR).write_text(json.dumps({**content, "files": {WEIGHTS: 3}}))


def name_file_outside(directory: Path) -> None:
    content = json.loads((directory / SIDECAR).read_text())
    outside = directory.parents[2] / "outside.txt"
    outside.write_text("not of this store")
    files = {**content["files"], "../../../outside.txt": integrity.sha256_file(outside)}
    (directory / SIDECAR).write_text(json.dumps({**content, "files": files}))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "flipped byte": (flip_byte, "model.safetensors differs from its recorded SHA-256"),
    "cut file": (lambda d: (d / WEIGHTS).write_bytes(bytes(999)), "model.safetensors differs"),
    "missing file": (lambda d: (d / "below" / "config.json").unlink(), "below/config.json is missing"),
    "added code": (lambda d: (d / "modeling_x.py").write_text("boom"), r"modeling_x\.py was added"),
    "cut sidecar": (lambda d: os.truncate(d / SIDECAR, 40), "artifact.json is not a whole sidecar"),
    "empty sidecar": (lambda d: os.truncate(d / SIDECAR, 0), "artifact.json is not a whole sidecar"),
    "binary sidecar": (lambda d: (d / SIDECAR).write_bytes(b"\xff\xfe\x00"), "artifact.json is not a whole sidecar"),
    "deep sidecar": (lambda d: (d / SIDECAR).write_text("[" * 100_000), "artifact.json is not a whole sidecar"),
    "path in the sidecar": (name_file_outside, r"\.\./\.\./\.\./outside\.txt is missing"),
    "foreign sidecar": (change_sidecar, "a SHA-256 that is not text"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_and_a_run_mends_it(
    tmp_path: Path, damage: Damage, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = made(tmp_path)
    damage(artifact.path)
    with pytest.raises(DamagedArtifact, match=rf"student/{artifact.key} .* is damaged: .*{reason}"):
        Store(tmp_path).open("student", artifact.key)
    assert Store(tmp_path).find("student", {"seed": 0}) is None
    again = made(tmp_path)
    assert (again.reused, again.files) == (False, artifact.files)
    assert made(tmp_path).reused
    assert (artifact.path.parent / f"{artifact.key}.damaged").is_dir()


def test_damage_of_the_same_artifact_is_kept_twice(tmp_path: Path) -> None:
    for _ in range(2):
        flip_byte(made(tmp_path).path)
    artifact = made(tmp_path)
    kept = sorted(path.name for path in artifact.path.parent.iterdir())
    assert kept == [artifact.key, f"{artifact.key}.damaged", f"{artifact.key}.damaged-2"]


@pytest.mark.parametrize("name", [".DS_Store", "timings.jsonl"])
def test_hidden_files_and_timings_are_no_damage(tmp_path: Path, name: str) -> None:
    artifact = made(tmp_path)
    (artifact.path / name).write_text("x")
    assert Store(tmp_path).open("student", artifact.key).files == artifact.files


@pytest.mark.parametrize(("remembered_bytes", "files_read"), [(10**9, 2), (1, 0)])
def test_large_artifact_is_read_again_only_when_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered_bytes: int, files_read: int
) -> None:
    monkeypatch.setattr(integrity, "REMEMBERED_BYTES", remembered_bytes)
    artifact, read = made(tmp_path), []
    digest = integrity.sha256_file
    monkeypatch.setattr(integrity, "sha256_file", lambda path: read.append(path) or digest(path))
    Store(tmp_path).open("student", artifact.key)
    assert not read
    integrity._checked.clear()  # another process
    Store(tmp_path).open("student", artifact.key)
    assert len(read) == files_read
    flip_byte(artifact.path)
    with pytest.raises(DamagedArtifact):
        Store(tmp_path).open("student", artifact.key)


def test_every_byte_finds_rot_that_touches_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = made(tmp_path)
    before = integrity._stamps(artifact.path)
    flip_byte(artifact.path)
    monkeypatch.setattr(integrity, "_stamps", lambda directory: before)
    assert Store(tmp_path).open("student", artifact.key).key == artifact.key
    with pytest.raises(DamagedArtifact):
        Store(tmp_path).open("student", artifact.key, every_byte=True)


def test_artifact_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_sync(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def record_rename(path: Path, target: Path) -> Path:
        order.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "rename", record_rename)
    made(tmp_path)
    renamed = order.index("rename")
    assert {WEIGHTS, "config.json", SIDECAR} <= set(order[:renamed])
    assert order[renamed + 1 :] == ["student"]


def test_text_is_synced_before_it_replaces_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name))
    write_text_atomic(tmp_path / "a.json", "{}")
    assert synced == ["a.json.partial", tmp_path.name]


OPENERS: dict[str, Callable[[Path], object]] = {
    "export": lambda path: find_source(path, None, allow_pickle=False, trust_remote_code=False),
    "evaluate": lambda path: any_student("x", StudentConfig(model=str(path))),
}


@pytest.mark.parametrize("open_student", OPENERS.values(), ids=OPENERS)
def test_damaged_student_is_neither_exported_nor_evaluated(
    tmp_path: Path, open_student: Callable[[Path], object]
) -> None:
    def make_student(directory: Path) -> dict[str, int]:
        (directory / "config.json").write_text("{}")
        return make(directory)

    student = Store(tmp_path).produce("student", {}, make_student).path
    any_student("x", StudentConfig(model=str(student)))
    flip_byte(student)
    with pytest.raises(DamagedArtifact, match=r"model\.safetensors differs"):
        open_student(student)
