"""An error of the disk is one sentence with the remedy, whichever library met it."""

import errno
import os
from pathlib import Path

import pytest

from tapir_exp.commands import main as command
from tapir_exp.core.disk import (
    REMEDIES,
    DiskError,
    explain_disk_error,
    find_disk_error,
    links_leading_out,
    set_aside,
    sync_file,
)
from tapir_exp.core.errors import StoreError

FULL = "no space or no inodes are left"
NATIVE = {
    "Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: 'No space left on device' })": FULL,
    "IOError: [Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device": FULL,
    "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0": f"probably {FULL}",
    "PytorchStreamWriter failed writing file data/0: file write failed": f"probably {FULL}",
    "I/O error: Disk quota exceeded (os error 122)": "the disk quota is used up",
    "I/O error: Read-only file system (os error 30)": "the file system is read-only",
    "I/O error: File too large (os error 27)": "the file exceeds the largest size allowed",
}


@pytest.mark.parametrize("number", REMEDIES, ids=errno.errorcode.__getitem__)
def test_error_number_is_explained_with_its_file(number: int) -> None:
    explained = explain_disk_error(OSError(number, os.strerror(number), "outputs/store/rows.jsonl"))
    assert isinstance(explained, DiskError)
    assert str(explained).startswith(f"outputs/store/rows.jsonl: {REMEDIES[number]}")
    assert "repeat the same command" in str(explained)


@pytest.mark.parametrize(("text", "reason"), NATIVE.items())
def test_text_of_a_native_library_is_explained(text: str, reason: str) -> None:
    assert reason in str(explain_disk_error(RuntimeError(text)))


def test_cause_of_an_error_is_explained() -> None:
    error = RuntimeError("cannot save")
    error.__cause__ = ValueError("writing failed")
    error.__cause__.__context__ = OSError(errno.EDQUOT, "", "file")
    assert "quota" in str(explain_disk_error(error))


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.ENOENT, "", "f"), KeyError(28), StoreError("No space left in the table")]
)
def test_other_errors_are_not_explained(error: Exception) -> None:
    error.__context__ = error.__context__ or None
    assert explain_disk_error(error) is None


def test_command_prints_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Failing:
        @staticmethod
        def main(arguments: list[str]) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "outputs/x")

    said: list[str] = []
    monkeypatch.setattr(command, "import_module", lambda name: Failing)
    monkeypatch.setattr("tapir_exp.core.console.console.print", lambda text, **_: said.append(text))
    with pytest.raises(SystemExit) as stopped:
        command.main(["cache"])
    assert stopped.value.code == 1
    assert len(said) == 1
    assert said[0].startswith(f"tapir cache: outputs/x: {FULL}")


def test_set_aside_never_replaces_a_file(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "a").write_text(text)
        set_aside(tmp_path / "a")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.damaged": "first",
        "a.damaged-2": "second",
    }


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.EIO, True), (errno.ENOSPC, True)])
def test_sync_ignores_only_file_systems_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raises: bool
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, "")

    monkeypatch.setattr(os, "fsync", fail)
    if raises:
        with pytest.raises(OSError, match=str(number)):
            sync_file(tmp_path)
    else:
        sync_file(tmp_path)


def test_links_that_lead_out_are_found(tmp_path: Path) -> None:
    inside = tmp_path / "run"
    for folder in ("below", "wandb"):
        (inside / folder).mkdir(parents=True)
    assert links_leading_out(tmp_path / "missing") == []
    for name, target in {"a": "below", "below/b": "../a", "wandb/log": "/tmp/log"}.items():
        (inside / name).symlink_to(target)
    assert links_leading_out(inside) == []
    for name, target in {"below/c": "../../other", "d": "/nowhere", "e": str(tmp_path)}.items():
        (inside / name).symlink_to(target)
    found = sorted(line.partition(" is a link to ")[0] for line in links_leading_out(inside))
    assert found == [str(inside / name) for name in ("below/c", "d", "e")]


def test_find_disk_error_writes_a_block_and_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_disk_error(tmp_path) is None
    assert list(tmp_path.iterdir()) == []

    def fill(path: Path, content: bytes) -> None:
        path.touch()  # a full disk has room for a name
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    assert str(find_disk_error(tmp_path)).startswith(FULL)
    assert list(tmp_path.iterdir()) == []
