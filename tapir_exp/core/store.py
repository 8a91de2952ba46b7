"""Artifacts, and the one rule for what is already done: a product is there when its sidecar is.

A product's key is the hash of its recipe (configuration, prompt texts, seed, keys of its inputs), so two runs
that need the same product compute it once. It is made in a directory of its own and renamed into place whole.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
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
"""How fast a fit was, step by step; beside the student, and no part of it."""
ROWS = "rows.jsonl"
DROPPED = "dropped.jsonl"
"""Beside the rows of a stage that picks and chooses: what it left out, and why."""

Row = TypeVar("Row", bound=Record)


@dataclass(frozen=True)
class Artifact:
    """A finished product of a stage.

    files: SHA-256 of every file, by its path below `path`.
    figures: what the stage reported: counts, tokens, cost.
    seconds: wall time of its making, when it was made.
    reused: whether it was there already when this process asked for it.
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
        """What others call it: stage/key."""
        return f"{self.stage}/{self.key}"

    @property
    def relative_path(self) -> str:
        """Path from the directory of any other artifact of the store, finished or partial."""
        return f"../../{self.name}"

    def rows(self, row_type: type[Row]) -> list[Row]:
        """The artifact's rows. Raises StoreError where one does not fit `row_type`."""
        return read_rows(self.path / ROWS, row_type)


class Store:
    """The directory of artifacts that runs and sweep jobs share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def produce(self, stage: str, recipe: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> Artifact:
        """The product of `recipe`, made by `make` only if nobody has made it.

        `make` gets a directory to write into, which survives a killed process, and returns its figures.
        Another process that wants the same product waits for the first.
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
        """The finished product of `recipe`, or None."""
        key = recipe_key(stage, recipe)
        return self.open(stage, key) if self.has(stage, key) else None

    def open(self, stage: str, key: str, *, reused: bool = True) -> Artifact:
        """The finished artifact. Raises StoreError where it is not there."""
        path = self.root / stage / key
        if not (path / SIDECAR).is_file():
            raise StoreError(f"No artifact {stage}/{key} in {self.root}; run the experiment again to make it.")
        sidecar = json.loads((path / SIDECAR).read_text())
        return Artifact(stage, key, path, sidecar["files"], sidecar["figures"], sidecar["seconds"], reused)

    def has(self, stage: str, key: str) -> bool:
        """Whether an artifact is finished."""
        return (self.root / stage / key / SIDECAR).is_file()

    def _make(
        self, stage: str, key: str, recipe: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> Artifact:
        workshop = self.root / "partial" / f"{stage}-{key}"
        workshop.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        figures = make(workshop)
        sidecar = {
            "stage": stage,
            "key": key,
            "recipe": recipe,
            "files": digest_files(workshop),
            "figures": figures,
            "seconds": round(time.monotonic() - started, 3),
        }
        write_text_atomic(workshop / SIDECAR, json.dumps(sidecar, indent=1, default=_plain))
        place = self.root / stage / key
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)  # a directory without a sidecar is debris
        workshop.rename(place)
        return self.open(stage, key, reused=False)


def recipe_key(stage: str, recipe: Mapping[str, Any]) -> str:
    """Return the content address of an artifact: 20 hex digits over format, stage and recipe."""
    text = json.dumps([FORMAT, stage, recipe], sort_keys=True, separators=(",", ":"), default=_plain)
    return sha256(text.encode()).hexdigest()[:20]


def _plain(value: object) -> object:
    """Write an enum by its value, so that renaming its class changes no key; everything else as text."""
    return value.value if isinstance(value, Enum) else str(value)


def digest_files(root: Path) -> dict[str, str]:
    """SHA-256 of every file below `root`, but for those that hold measured seconds."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name not in (SIDECAR, TIMINGS))
    return {str(p.relative_to(root)): sha256_file(p) for p in files}


def sha256_file(path: Path) -> str:
    with path.open("rb") as content:  # a piece at a time: the rows of a large pool need not fit in memory
        return file_digest(content, "sha256").hexdigest()


def write_text_atomic(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    passing = path.with_name(path.name + ".partial")
    passing.write_text(text, encoding="utf-8")
    passing.replace(path)


def write_rows(path: Path, rows: Iterable[Record]) -> int:
    """Write one JSON object a line, each as it comes; the file is there whole or not at all. Returns how many."""
    passing, count = path.with_name(path.name + ".partial"), 0
    with passing.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(f"{row.model_dump_json()}\n")
            count += 1
    passing.replace(path)
    return count


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """Read what `write_rows` wrote. Raises StoreError naming the file and line that do not fit."""
    rows = []
    with path.open(encoding="utf-8", newline="\n") as lines:  # str.splitlines would split at U+2028 inside a row
        for number, line in enumerate(lines, 1):
            try:
                rows.append(row_type.model_validate_json(line))
            except ValidationError as error:
                raise StoreError(f"{path}, line {number}: not a {row_type.__name__}: {error}") from error
    return rows
