"""The job of a command, as trackers name it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from tapir_exp.commands.finished import NO_RESULT
from tapir_exp.commands.recording import recorded_job
from tapir_exp.config import ClassifyConfig, Config, to_yaml
from tapir_exp.core.events import EVENTS, Event, EventStream, Kind, read_events
from tapir_exp.core.secrets import known_secrets, redact_secrets
from tapir_exp.core.store import recipe_key
from tapir_exp.report.trackers.access import chosen_trackers
from tapir_exp.report.trackers.base import ID_LENGTH, JobInfo
from tapir_exp.report.trackers.tracking import tracked

CLASSIFY = "classify"
JOB_TYPES = {"run": "train"}
"""Job types that are not the name of their verb."""


@contextmanager
def tracked_job(
    config: Config, run_dir: Path, verb: str, key: str, stream: EventStream, sweep: tuple[str, str] | None = None
) -> Iterator[None]:
    """Track the job that runs in the block; see `report.trackers.tracking.tracked`.

    Args:
        config: The configuration of the job.
        run_dir: Directory of the job.
        verb: The command.
        key: Key of the job (`commands.finished.job_key`), from which its id in the trackers is made.
        stream: Events of the job.
        sweep: Name of the sweep that the job is part of, and name of the job in it.
    """
    outputs = Path(config.outputs)
    job = JobInfo(
        id=job_id(config, verb, key, read_events(run_dir / EVENTS)),
        name=run_dir.name if sweep is None else sweep[1],
        group=None if sweep is None else sweep[0],
        job_type=JOB_TYPES.get(verb, verb),
        tags=tuple(dict.fromkeys([config.name, config.arm, f"seed {config.seed}", *config.logger.tags])),
        settings=without_secrets(yaml.safe_load(to_yaml(config))),
        run_dir=run_dir,
        store=outputs / "store",
        outputs=outputs,
    )
    with tracked(config.logger, job, stream):
        yield


@contextmanager
def tracked_classification(config: ClassifyConfig) -> Iterator[None]:
    """Track the job of `tapir classify` that runs in the block, and record its events in its output directory."""
    directory, outputs = Path(config.output_dir), Path(config.outputs)
    if not chosen_trackers(config.logger):
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    settings = without_secrets(yaml.safe_load(to_yaml(config)))
    key = recipe_key(CLASSIFY, {name: section for name, section in settings.items() if name not in NO_RESULT})
    tags = tuple(dict.fromkeys([config.job.value, config.classifier.kind.value, *config.logger.tags]))
    store = outputs / "store"
    job = JobInfo(key[:ID_LENGTH], directory.name, None, CLASSIFY, tags, settings, directory, store, outputs)
    stream = EventStream(directory / EVENTS)
    with recorded_job(stream), tracked(config.logger, job, stream):
        yield


def job_id(config: Config, verb: str, key: str, events: Sequence[Event]) -> str:
    """Return the id of a job in the trackers: one half from its settings, one from its key.

    An attempt with these settings that did not finish is continued under its id, also if the code has changed since.

    Args:
        config: The configuration of the job.
        verb: The command.
        key: Key of the job.
        events: Events of the job so far.
    """
    settings = {name: section for name, section in asdict(config).items() if name not in NO_RESULT}
    start = recipe_key(verb, settings)[: ID_LENGTH // 2]
    for event in reversed(events):
        if event["event"] == Kind.RUN_FINISHED:
            break
        if event["event"] == Kind.TRACKER_STARTED and str(event["id"]).startswith(start):
            return str(event["id"])
    return start + key[: ID_LENGTH // 2]


def without_secrets(node: Any, known: tuple[str, ...] | None = None) -> Any:
    """Return plain data with every secret in its texts replaced."""
    known = known_secrets() if known is None else known
    if isinstance(node, dict):
        return {name: without_secrets(value, known) for name, value in node.items()}
    if isinstance(node, list):
        return [without_secrets(value, known) for value in node]
    return redact_secrets(node, known) if isinstance(node, str) else node
