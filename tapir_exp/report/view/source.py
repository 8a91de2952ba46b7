"""Find the runs below a directory and the artifacts that they have so far, finished or not."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from tapir_exp.core.errors import StoreError
from tapir_exp.core.events import EVENTS, Event, Kind, State, outcome_of, read_events
from tapir_exp.core.manifest import MANIFEST, Manifest
from tapir_exp.core.records import Record
from tapir_exp.core.store import DROPPED, ROWS, SIDECAR, read_rows
from tapir_exp.core.yaml_files import read_yaml
from tapir_exp.report.run_view import CONFIG
from tapir_exp.report.sweep.jobs import find_job_dirs, is_job_dir

DEFAULT_DELTA = 2.0
"""Threshold of the hard set, if neither manifest nor configuration has one."""
ARTIFACT = re.compile(r"^(?P<stage>\w+?)(?:-(?P<round>\d+))?$")

Row = TypeVar("Row", bound=Record)


@dataclass(frozen=True)
class RunSource:
    """A run as far as it has come.

    Attributes:
        name: Path below the directory that is shown; the run's own name if it is that directory.
        path: The run directory.
        title: Name of the experiment.
        arm: Variant of the method.
        seed: Training seed; None if unknown.
        state: State of the run.
        delta: Threshold of the hard set, in judge points.
        alphas: Weight of the hard set in each round that has begun.
        config: The resolved configuration; empty if there is none.
        artifacts: Directories of the finished artifacts by name, oldest first.
        problems: What is missing or unreadable.
    """

    name: str
    path: Path
    title: str
    arm: str
    seed: int | None
    state: State
    delta: float
    alphas: tuple[float, ...]
    config: Mapping[str, Any]
    artifacts: Mapping[str, Path]
    problems: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Return a digest of everything that the database holds of the run."""
        parts = [self.name, str(self.path), self.title, self.arm, str(self.seed), self.state, str(self.delta)]
        parts += [f"{name}={path}" for name, path in self.artifacts.items()]
        return sha256("\n".join(parts).encode(errors="replace")).hexdigest()

    @property
    def rounds(self) -> int:
        """Return the number of the last round that has an artifact."""
        numbers = (round_of(name) for name in self.artifacts)
        return max((number for number in numbers if number is not None), default=0)

    def rows(self, name: str, record: type[Row]) -> list[Row]:
        """Return the rows of an artifact; none, and a problem, if it is missing from the manifest or unreadable."""
        return self._read(name, ROWS, record)

    def dropped(self, name: str, record: type[Row]) -> list[Row]:
        """Return the rows that a stage dropped; see `rows`."""
        return self._read(name, DROPPED, record)

    def _read(self, name: str, file: str, record: type[Row]) -> list[Row]:
        path = self.artifacts[name] / file if name in self.artifacts else None
        if path is None or not path.is_file():
            return []
        try:
            return read_rows(path, record)
        except (StoreError, OSError, UnicodeError) as error:
            # A page about a damaged run must still open: the other artifacts are worth reading.
            self.problems.append(f"{name}: {str(error).splitlines()[0]}")
            return []


def find_runs(directory: Path) -> list[RunSource]:
    """Return the run in a directory, or every job of the sweep in it.

    Raises:
        StoreError: If there is none.
    """
    if not directory.is_dir():
        raise StoreError(f"{directory} is not a directory; give that of a run or a sweep, such as outputs/latest.")
    directory = directory.resolve()
    if is_job_dir(directory) or (directory / EVENTS).is_file():
        return [open_source(directory, directory.name)]
    jobs = find_job_dirs(directory)
    if not jobs:
        raise StoreError(
            f"{directory} has no run: expected the directory of a run or a sweep, such as outputs/latest or "
            "outputs/sweeps/NAME."
        )
    return [open_source(path, path.relative_to(directory).as_posix()) for path in jobs]


def open_source(path: Path, name: str) -> RunSource:
    """Read what a run directory contains about its run; the rows are read later."""
    events = read_events(path / EVENTS)
    config, problems = _config(path)
    manifest = _manifest(path, problems)
    state = outcome_of(events).state
    if manifest is not None and state is State.WAITING:  # runs of earlier versions have no events
        state = State.FINISHED
    found = _from_manifest(path, manifest) if manifest else _from_events(path, events, config)
    artifacts = dict(_present(found, problems))
    curriculum = config.get("curriculum")
    settings = curriculum if isinstance(curriculum, Mapping) else {}
    return RunSource(
        name=name,
        path=path,
        title=manifest.name if manifest else str(config.get("name", name)),
        arm=manifest.arm if manifest else str(config.get("arm", "")),
        seed=manifest.seed if manifest else _number(config.get("seed"), int),
        state=state,
        delta=manifest.delta if manifest else _number(settings.get("delta"), float) or DEFAULT_DELTA,
        alphas=manifest.alphas if manifest else _alphas(events),
        config=config,
        artifacts=artifacts,
        problems=problems,
    )


def stage_of(name: str) -> str:
    """Return the stage of an artifact's name, which may end with the round."""
    match = ARTIFACT.match(name)
    return match["stage"] if match else name


def round_of(name: str) -> int | None:
    """Return the round in an artifact's name; None if it has none."""
    match = ARTIFACT.match(name)
    return int(match["round"]) if match and match["round"] else None


def _config(path: Path) -> tuple[Mapping[str, Any], list[str]]:
    file = path / CONFIG
    if not file.is_file():
        return {}, []
    try:
        config = read_yaml(file)
    except Exception as error:  # the file may come from anywhere, and is only a source of captions here
        return {}, [f"{CONFIG}: {str(error).splitlines()[0]}"]
    return (config, []) if isinstance(config, Mapping) else ({}, [f"{CONFIG} holds no settings"])


def _manifest(path: Path, problems: list[str]) -> Manifest | None:
    if not (path / MANIFEST).is_file():
        return None
    try:
        return Manifest.load(path)
    except StoreError as error:
        problems.append(str(error))
        return None


def _from_manifest(path: Path, manifest: Manifest) -> list[tuple[str, Path]]:
    store = (path / manifest.store).resolve()
    return [(entry.name, store / entry.stage / entry.key) for entry in manifest.artifacts]


def _from_events(path: Path, events: Sequence[Event], config: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """Return the artifacts that the events of a run name: the manifest is written at the end."""
    kinds = (Kind.STAGE_FINISHED, Kind.STAGE_REUSED)
    keys = {
        event["stage"]: event["key"]
        for event in events
        if event["event"] in kinds and _is_plain(event.get("stage")) and _is_plain(event.get("key"))
    }
    store = _find_store(path, config, next(iter(keys.items()), None))
    return [(name, store / stage_of(name) / key) for name, key in keys.items()] if store else []


def _find_store(path: Path, config: Mapping[str, Any], artifact: tuple[str, str] | None) -> Path | None:
    """Return the store that has an artifact: above the run directory, or in the outputs that the run was given."""
    if artifact is None:
        return None
    name, key = artifact
    candidates = [parent / "store" for parent in path.parents]
    candidates.append(Path(str(config.get("outputs", "outputs"))).absolute() / "store")
    return next((store for store in candidates if (store / stage_of(name) / key / SIDECAR).is_file()), None)


def _is_plain(value: object) -> bool:
    """Return whether a value is one component of a path, so that an untrusted file names nothing outside its store."""
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]*", value) is not None


def _present(found: Sequence[tuple[str, Path]], problems: list[str]) -> Iterator[tuple[str, Path]]:
    for name, path in found:
        if (path / SIDECAR).is_file():
            yield name, path
        else:
            problems.append(f"{name}: {path.parent.name}/{path.name} is not in the store")


def _alphas(events: Sequence[Event]) -> tuple[float, ...]:
    """Return the weights of the hard set from the metrics of the finished rounds."""
    metrics = [event.get("metrics") or {} for event in events if event["event"] == Kind.ROUND_FINISHED]
    return tuple(float(m["curriculum/alpha"]) for m in metrics if m.get("curriculum/alpha") is not None)


def _number(value: Any, kind: type[Any]) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        return None


def sidecar_figures(path: Path) -> Mapping[str, Any]:
    """Return the figures of an artifact; none if its sidecar cannot be read."""
    try:
        figures = json.loads((path / SIDECAR).read_text(encoding="utf-8")).get("figures")
    except (OSError, ValueError, AttributeError):
        return {}
    return figures if isinstance(figures, Mapping) else {}
