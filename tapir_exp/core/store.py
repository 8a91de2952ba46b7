"""Content-addressed artifacts, and the one rule of resuming: an artifact is finished if its sidecar exists.

The key of an artifact is the hash of its recipe: configuration, prompt texts, seed and keys of its inputs. Two runs
that need the same artifact make it once. An artifact is written to a directory of its own, synced to the disk and
renamed when complete. Its files are checked when it is opened; a run puts a damaged artifact aside and makes it again.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from pydantic import ValidationError

from tapir_exp.core.console import console
from tapir_exp.core.disk import links_leading_out, set_aside, sync_file, sync_tree
from tapir_exp.core.errors import StoreError
from tapir_exp.core.integrity import (
    SIDECAR,
    TIMINGS,
    Sidecar,
    SidecarError,
    digest_files,
    find_damage,
    read_sidecar,
    remember,
    sha256_file,
)
from tapir_exp.core.records import Record
from tapir_exp.core.stored_rows import UNFINISHED, StoredRows

__all__ = [
    "DROPPED",
    "FORMAT",
    "ROWS",
    "SIDECAR",
    "TIMINGS",
    "Artifact",
    "DamagedArtifact",
    "Store",
    "atomic_path",
    "check_if_artifact",
    "digest_files",
    "read_rows",
    "recipe_key",
    "sha256_file",
    "write_rows",
    "write_text_atomic",
]

FORMAT = 2
"""Version of the records and files in the store, part of every key; artifacts of another format are made again."""
ROWS = "rows.jsonl"
DROPPED = "dropped.jsonl"
"""Rows that a stage dropped, with reasons; next to the rows it kept."""

Row = TypeVar("Row", bound=Record)


class DamagedArtifact(StoreError):
    """An artifact whose files are not those that were made."""


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
        reused: Whether the artifact existed before this process requested it.
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

    def stored_rows(self, row_type: type[Row]) -> StoredRows[Row]:
        """Return the rows without reading them into memory; see `StoredRows`."""
        return StoredRows(self.path / ROWS, row_type)


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
                process, so that work can be resumed; a file `UNFINISHED` in it is not part of the artifact.

        Other processes that need the same artifact wait until it is finished.
        """
        key = recipe_key(stage, recipe)
        if (finished := self._intact(stage, key)) is not None:
            return finished
        with self._lock(stage, key):
            try:
                if self.has(stage, key):
                    return self.open(stage, key)
            except DamagedArtifact as damage:
                aside = set_aside(self.root / stage / key)
                console.print(f"{damage}\nIt is kept as {aside} and made again now.", markup=False, soft_wrap=True)
            return self._make(stage, key, recipe, make)

    def find(self, stage: str, recipe: Mapping[str, Any]) -> Artifact | None:
        """Return the finished artifact of a recipe; None if `produce` would make it."""
        return self._intact(stage, recipe_key(stage, recipe))

    def open(self, stage: str, key: str, *, reused: bool = True, every_byte: bool = False) -> Artifact:
        """Open a finished artifact, after a check of its files.

        Args:
            stage: Its stage.
            key: Its content address.
            reused: Whether it existed before this process requested it.
            every_byte: Whether to read even files that have not been touched since their last check.

        Raises:
            StoreError: If the artifact does not exist.
            DamagedArtifact: If its files are not those that were made.
        """
        path = self.root / stage / key
        if not (path / SIDECAR).is_file():
            raise StoreError(
                f"The artifact {stage}/{key} is not in {self.root}. Repeat the command of its run to make it."
            )
        sidecar = _read_checked(path, None if every_byte else self._memory(stage, key))
        return Artifact(stage, key, path, sidecar.files, sidecar.figures, sidecar.seconds, reused)

    def set_aside(self, stage: str, key: str) -> Path:
        """Rename a damaged artifact, so that its run makes it again, and return the new path."""
        with self._lock(stage, key):
            return set_aside(self.root / stage / key)

    def has(self, stage: str, key: str) -> bool:
        """Return whether an artifact is finished."""
        return (self.root / stage / key / SIDECAR).is_file()

    def _intact(self, stage: str, key: str) -> Artifact | None:
        """Open an artifact; None if it is missing or damaged."""
        try:
            return self.open(stage, key) if self.has(stage, key) else None
        except DamagedArtifact:
            return None

    def _lock(self, stage: str, key: str) -> FileLock:
        lock = self.root / "locks" / f"{stage}-{key}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(lock)

    def _memory(self, stage: str, key: str) -> Path:
        return self.root / "checked" / f"{stage}-{key}.json"

    def _make(
        self, stage: str, key: str, recipe: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> Artifact:
        partial = self.root / "partial" / f"{stage}-{key}"
        partial.mkdir(parents=True, exist_ok=True)
        if problems := links_leading_out(partial):
            raise StoreError(problems[0])
        started = time.monotonic()
        figures = make(partial)
        # A process that was killed while it wrote the sidecar leaves this file; it is not part of the artifact.
        _unfinished(partial / SIDECAR).unlink(missing_ok=True)
        files = {name: digest for name, digest in digest_files(partial).items() if name != UNFINISHED}
        sidecar = {
            "stage": stage,
            "key": key,
            "recipe": recipe,
            "files": files,
            "figures": figures,
            "seconds": round(time.monotonic() - started, 3),
        }
        write_text_atomic(partial / SIDECAR, json.dumps(sidecar, indent=1, default=_plain))
        # The rename finishes the artifact, so everything below it has to be on the disk first.
        sync_tree(partial)
        # Removed at the very end: until here, a killed process loses nothing.
        (partial / UNFINISHED).unlink(missing_ok=True)
        final = self.root / stage / key
        final.parent.mkdir(parents=True, exist_ok=True)
        # A directory without a sidecar is left over from an interrupted deletion.
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        sync_file(final.parent)
        remember(final, self._memory(stage, key))  # its digests were computed a moment ago
        return self.open(stage, key, reused=False)


def check_if_artifact(path: Path) -> None:
    """Check the files of a directory that may be an artifact of a store, or a copy of one.

    Raises:
        DamagedArtifact: If it has a sidecar, and its files are not those that were made.
    """
    if (path / SIDECAR).is_file():
        _read_checked(path.resolve(), None)


def _read_checked(path: Path, memory: Path | None) -> Sidecar:
    """Read the sidecar of an artifact and check the files; see `find_damage`."""
    try:
        sidecar = read_sidecar(path)
        damage = find_damage(path, sidecar.files, memory)
    except SidecarError as error:
        damage = str(error)
    if damage is not None:
        raise DamagedArtifact(
            f"The artifact {path.parent.name}/{path.name} in {path.parents[1]} is damaged: {damage}. Repeat the "
            "command of its run to make it again, or restore it from a backup; `tapir doctor` lists all damage."
        )
    return sidecar


def recipe_key(stage: str, recipe: Mapping[str, Any]) -> str:
    """Return the content address of an artifact: 20 hex digits over format, stage and recipe."""
    text = json.dumps([FORMAT, stage, recipe], sort_keys=True, separators=(",", ":"), default=_plain)
    return sha256(text.encode()).hexdigest()[:20]


def _plain(value: object) -> object:
    """Write an enum by its value, so that renaming its class changes no key; everything else as text."""
    return value.value if isinstance(value, Enum) else str(value)


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at the end, so that readers find a whole file or none.

    If the block raises, `path` stays as it was and the temporary file is kept for inspection.

    Args:
        path: The file.
        durable: Whether to sync the file before it is renamed, so that a power failure leaves no empty file.
    """
    tmp = _unfinished(path)
    if tmp.is_symlink():
        tmp.unlink()  # it would be followed
    yield tmp
    if durable:
        sync_file(tmp)
    tmp.replace(path)
    if durable:
        sync_file(path.parent)


def _unfinished(path: Path) -> Path:
    """Return the path at which `atomic_path` writes a file."""
    return path.with_name(path.name + ".partial")


def write_text_atomic(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file as UTF-8, whole or not at all; see `atomic_path`."""
    with atomic_path(path, durable=durable) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_rows(path: Path, rows: Iterable[Record]) -> int:
    """Write rows as JSON lines, one at a time, and return their number; the file appears whole or not at all.

    The store syncs a whole artifact at once.
    """
    count = 0
    with atomic_path(path, durable=False) as tmp, tmp.open("w", encoding="utf-8") as lines:
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
