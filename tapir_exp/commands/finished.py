"""Jobs and runs that are finished already: they are skipped, and nothing heavy is imported for them."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from tapir_exp.config import Config
from tapir_exp.core.errors import StoreError
from tapir_exp.core.evaluation_manifest import EVALUATION, EVALUATIONS, SUITE_STAGE
from tapir_exp.core.events import EVENTS, Outcome, State, outcome_of, read_events
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.store import Store, digest_files, recipe_key

NO_RESULT = ("outputs", "spend", "logger", "sweep", "allow_lab_parts", "check_first_rows")
"""Sections of the configuration that change no result."""
CONFIG = "config.yaml"
RESULTS = ("metrics.jsonl", "report.html")
MOST_INPUTS = 10_000
"""Files of an input directory that are compared."""

EVALUATE, RUN = "evaluate", "run"
"""Commands whose jobs are skipped; the first one is also the name of its primary configuration."""


def command_of(config_name: str | None) -> str:
    """Return the command whose jobs have this primary configuration; sweeps of runs have names of their own."""
    return EVALUATE if config_name == EVALUATE else RUN


def job_key(config: Config, verb: str) -> str:
    """Return the key of a job: equal keys mean that the job would give what is there already.

    It covers the configuration, the code and prompts of this package, and size and time of files that the
    configuration names.

    Args:
        config: The configuration of the job.
        verb: The command, such as run or evaluate.
    """
    settings = {name: section for name, section in asdict(config).items() if name not in NO_RESULT}
    return recipe_key(verb, {"settings": settings, "code": _code(), "inputs": sorted(_inputs(settings))})


def finished_outcome(run_dir: Path, key: str) -> Outcome | None:
    """Return the outcome of a finished run with this key; None if it has to be run, or is damaged or incomplete."""
    outcome = outcome_of(read_events(run_dir / EVENTS))
    if outcome.state is not State.FINISHED or outcome.key != key:
        return None
    try:
        manifest = Manifest.load(run_dir)
    except StoreError:
        return None
    store = Store((run_dir / manifest.store).resolve())
    complete = all(store.has(entry.stage, entry.key) for entry in manifest.artifacts)
    evaluated = {entry.round for entry in manifest.artifacts if entry.stage.endswith(SUITE_STAGE)}
    results = [*RESULTS, *(f"{EVALUATIONS}/S_{number}/{EVALUATION}" for number in evaluated)]
    return outcome if complete and all((run_dir / name).is_file() for name in results) else None


def unchanged_outcome(run_dir: Path, key: str, resolved: str) -> Outcome | None:
    """Return the outcome of a finished run that would change nothing if it were repeated; None if it has to be run.

    A user who repeats a single run may need a change that a sweep ignores. So the whole configuration has to be the
    same, trackers and budget included, and the files of all artifacts are checked.

    Args:
        run_dir: The directory of the run.
        key: Key of the run, see `job_key`.
        resolved: The configuration as YAML, with every interpolation resolved.
    """
    outcome = finished_outcome(run_dir, key)
    try:
        if outcome is None or (run_dir / CONFIG).read_text(encoding="utf-8") != resolved:
            return None
        Manifest.load(run_dir).open(run_dir)
    except (OSError, ValueError, StoreError):
        return None
    return outcome


@cache
def _code() -> dict[str, str]:
    """Return the digests of the files of this package."""
    package = Path(__file__).parents[1]
    return {name: digest for name, digest in digest_files(package).items() if not name.endswith((".pyc", ".partial"))}


def _inputs(node: Any) -> Iterator[tuple[str, int, int]]:
    """Yield path, size and time of each file that a text of the settings names, or that is below such a directory."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list | tuple):
        for item in node:
            yield from _inputs(item)
    # A path has a separator or a suffix; a word such as `lab` may be a directory by accident.
    elif isinstance(node, str) and ("/" in node or "." in node) and "\n" not in node and len(node) < 4096:
        path = Path(node).expanduser()
        try:
            files = [path] if path.is_file() else sorted(path.rglob("*"))[:MOST_INPUTS] if path.is_dir() else []
            yield from ((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        except (OSError, ValueError):
            return
