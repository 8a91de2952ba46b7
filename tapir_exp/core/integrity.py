"""Check the files of an artifact against the SHA-256 that its sidecar records.

A changed byte in a student's weights changes every figure that follows from it, without an error. So files are checked
when an artifact is opened. Files that were checked before and have the same size, times and inode are not read again;
`tapir doctor` reads them all, because a failing disk changes bytes without changing a time.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

SIDECAR = "artifact.json"
TIMINGS = "timings.jsonl"
"""Seconds of each training step; next to the student, and not part of the artifact."""
REMEMBERED_BYTES = 4_000_000
"""Size from which a check is recorded on disk; reading less takes some ten milliseconds."""

Stamps = dict[str, list[int]]
"""Size, modification time, change time and inode of each file, by its path; no program can set the change time."""

_checked: dict[Path, Stamps] = {}
"""Artifacts that this process has checked."""


class SidecarError(Exception):
    """A sidecar that cannot be read: cut off by a full disk, or edited."""


@dataclass(frozen=True)
class Sidecar:
    """Content of a sidecar; see `core.store.Artifact`."""

    files: Mapping[str, str]
    figures: Mapping[str, Any]
    seconds: float


def read_sidecar(directory: Path) -> Sidecar:
    """Read the sidecar of an artifact. Raises SidecarError if it is not a whole sidecar."""
    try:
        content = json.loads((directory / SIDECAR).read_text(encoding="utf-8"))
        sidecar = Sidecar(dict(content["files"]), dict(content["figures"]), float(content["seconds"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SidecarError(f"{SIDECAR} is not a whole sidecar ({type(error).__name__}: {error})") from None
    if not all(isinstance(digest, str) for digest in sidecar.files.values()):
        raise SidecarError(f"{SIDECAR} holds a SHA-256 that is not text")
    return sidecar


def find_damage(directory: Path, files: Mapping[str, str], memory: Path | None = None) -> str | None:
    """Return what is wrong with the files of an artifact; None if they are as they were made.

    Args:
        directory: Directory of the artifact.
        files: SHA-256 of every file, by its path below `directory`.
        memory: File with the last check of a large artifact; None reads every byte.
    """
    stamps = _stamps(directory)
    if memory is not None and (_checked.get(directory) == stamps or _recall(memory) == stamps):
        return None
    present = {name for name in stamps if name != SIDECAR}
    if missing := sorted(set(files) - present):
        return f"{missing[0]} is missing"
    # Transformers would read a chat template or code that was put next to the weights; file systems and editors add
    # hidden files, which nothing reads.
    added = sorted(name for name in present - set(files) if not Path(name).name.startswith("."))
    if added:
        return f"{added[0]} was added after the artifact was made"
    for name, digest in files.items():
        if sha256_file(directory / name) != digest:
            return f"{name} differs from its recorded SHA-256"
    if memory is not None:
        remember(directory, memory, stamps)
    return None


def remember(directory: Path, memory: Path, stamps: Stamps | None = None) -> None:
    """Record that the files of an artifact are as they were made."""
    stamps = _stamps(directory) if stamps is None else stamps
    _checked[directory] = stamps
    if sum(stamp[0] for stamp in stamps.values()) < REMEMBERED_BYTES:
        return
    # A store of others may be read-only; the files are then read again by the next process.
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        tmp = memory.with_name(memory.name + ".partial")
        tmp.write_text(json.dumps(stamps), encoding="utf-8")
        tmp.replace(memory)


def digest_files(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below `root`, except files with measured times."""
    return {name: sha256_file(path) for name, path in _artifact_files(root).items()}


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits; the file is read in chunks, so it need not fit in memory."""
    with path.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


def _artifact_files(root: Path) -> dict[str, Path]:
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path.name not in (SIDECAR, TIMINGS))
    return {str(path.relative_to(root)): path for path in paths}


def _stamps(directory: Path) -> Stamps:
    states = {name: path.stat() for name, path in _artifact_files(directory).items()}
    states[SIDECAR] = (directory / SIDECAR).stat()
    return {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in states.items()}


def _recall(memory: Path) -> object:
    try:
        return json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
