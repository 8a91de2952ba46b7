"""Content-addressed artifacts, and the one rule of resuming: an artifact is finished if its sidecar exists.

The key of an artifact is the hash of its recipe: configuration, prompt texts, seed and keys of its inputs. Two runs
that need the same artifact make it once. An artifact is written to a directory of its own and renamed when complete.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from pydantic import ValidationError

from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Record

FORMAT = 2
"""Version of the records and files in the store, part of every key; artifacts of another format are made again."""
SIDECAR = "artifact.json"
TIMINGS = "timings.jsonl"
"""Seconds of each training step; next to the student, and not part of the artifact."""
ROWS = "rows.jsonl"
DROPPED = "dropped.jsonl"
"""Rows that a stage dropped, with reasons; next to the rows it kept."""

Row = TypeVar("Row", bound=Record)


@dataclass(frozen=True)
class Artifact:
    """Finished output of a stage.

    Attributes:
        stage: Name of the stage; its directory in the store.
        key: Content address, see `recipe_key`.
        path: Directory of the files.
        files: SHA-256 of every file, by its path below `path`.
        figures: Figures of the stage: counts, tokens, cost.
        seconds: Wall time of the stage when the artifact was made.
        reused: Whether the artifact existed before this process asked for it.
    """

    stage: str
    key: str
    path: Path
    files: Mapping[str, str]
    figures: Mapping[str, Any]
    seconds: float
    reused: bool

    @property
    def name(self) -> str:
        """Name in manifests and messages: stage/key."""
        return f"{self.stage}/{self.key}"

    @property
    def relative_path(self) -> str:
        """Path from the directory of any other artifact of the store, finished or partial."""
        return f"../../{self.name}"

    def rows(self, row_type: type[Row]) -> list[Row]:
        """Read the rows. Raises StoreError if one is not a valid `row_type`."""
        return read_rows(self.path / ROWS, row_type)


class Store:
    """Directory of artifacts that runs and sweep jobs share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def produce(self, stage: str, recipe: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> Artifact:
        """Return the artifact of a recipe; make it if it does not exist.

        Args:
            stage: Name of the stage.
            recipe: Everything that determines the files.
            make: Writes the files into the given directory and returns the figures. The directory survives a killed
                process, so that work can be resumed.

        Other processes that need the same artifact wait until it is finished.
        """
        key = recipe_key(stage, recipe)
        if self.has(stage, key):
            return self.open(stage, key)
        lock = self.root / "locks" / f"{stage}-{key}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if self.has(stage, key):
                return self.open(stage, key)
            return self._make(stage, key, recipe, make)

    def find(self, stage: str, recipe: Mapping[str, Any]) -> Artifact | None:
        """Return the finished artifact of a recipe, or None."""
        key = recipe_key(stage, recipe)
        return self.open(stage, key) if self.has(stage, key) else None

    def open(self, stage: str, key: str, *, reused: bool = True) -> Artifact:
        """Open a finished artifact. Raises StoreError if it does not exist."""
        path = self.root / stage / key
        if not (path / SIDECAR).is_file():
            raise StoreError(
                f"The artifact {stage}/{key} is not in {self.root}. Repeat the command of its run to make it."
            )
        sidecar = json.loads((path / SIDECAR).read_text())
        return Artifact(stage, key, path, sidecar["files"], sidecar["figures"], sidecar["seconds"], reused)

    def has(self, stage: str, key: str) -> bool:
        """Return whether an artifact is finished."""
        return (self.root / stage / key / SIDECAR).is_file()

    def _make(
        self, stage: str, key: str, recipe: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> Artifact:
        partial = self.root / "partial" / f"{stage}-{key}"
        partial.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        figures = make(partial)
        sidecar = {
            "stage": stage,
            "key": key,
            "recipe": recipe,
            "files": digest_files(partial),
            "figures": figures,
            "seconds": round(time.monotonic() - started, 3),
        }
        write_text_atomic(partial / SIDECAR, json.dumps(sidecar, indent=1, default=_plain))
        final = self.root / stage / key
        final.parent.mkdir(parents=True, exist_ok=True)
        # A directory without a sidecar is left over from an interrupted deletion.
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        return self.open(stage, key, reused=False)


def recipe_key(stage: str, recipe: Mapping[str, Any]) -> str:
    """Return the content address of an artifact: 20 hex digits over format, stage and recipe."""
    text = json.dumps([FORMAT, stage, recipe], sort_keys=True, separators=(",", ":"), default=_plain)
    return sha256(text.encode()).hexdigest()[:20]


def _plain(value: object) -> object:
    """Write an enum by its value, so that renaming its class changes no key; everything else as text."""
    return value.value if isinstance(value, Enum) else str(value)


def digest_files(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below `root`, except files with measured times."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name not in (SIDECAR, TIMINGS))
    return {str(p.relative_to(root)): sha256_file(p) for p in files}


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits; the file is read in chunks, so it need not fit in memory."""
    with path.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at the end, so that readers see a whole file or none.

    If the block raises, `path` stays as it was and the temporary file is kept for inspection.
    """
    tmp = path.with_name(path.name + ".partial")
    yield tmp
    tmp.replace(path)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_rows(path: Path, rows: Iterable[Record]) -> int:
    """Write rows as JSON lines, one at a time, and return their number; the file appears whole or not at all."""
    count = 0
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(f"{row.model_dump_json()}\n")
            count += 1
    return count


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """Read rows that `write_rows` wrote. Raises StoreError, which names the file and line that are invalid."""
    rows = []
    # str.splitlines would also split at U+2028, which JSON strings may hold.
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(row_type.model_validate_json(line))
            except ValidationError as error:
                raise StoreError(f"{path}, line {number}: not a valid {row_type.__name__}: {error}") from error
    return rows
