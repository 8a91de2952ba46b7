"""Read the file of an offline run of W&B: a LevelDB log of protocol buffers."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32 * 1024, 7


@dataclass
class LoggedRun:
    """Content of the file of an offline run.

    Attributes:
        run: The protocol buffer of the run: id, project, group, name, job type, tags.
        config: Settings by name.
        history: Logged rows; a nested key is joined by dots.
        axes: Axis of each metric that has one.
        artifacts: Protocol buffers of the artifacts.
        exit_code: None if the run was killed.
    """

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None


def finished_runs(run_dir: Path) -> list[LoggedRun]:
    """Read the W&B runs of a run directory, oldest first.

    Another process writes their files, so wait for the end of the last one.
    """
    paths = sorted(run_dir.glob("wandb/offline-run-*/*.wandb"))
    deadline = time.monotonic() + 30
    while True:
        logged = [read(path) for path in paths]
        if logged[-1].exit_code is not None or time.monotonic() > deadline:
            return logged
        time.sleep(0.1)


def read(path: Path) -> LoggedRun:
    """Read a file, also of a run that is not finished."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    logged = LoggedRun()
    for message in _messages(path.read_bytes()):
        record = Record()
        record.ParseFromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            logged.run = record.run
            logged.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            items = record.history.item
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
            logged.history.append(row)
        elif kind == "metric" and record.metric.step_metric:
            logged.axes[record.metric.name] = record.metric.step_metric
        elif kind == "artifact":
            logged.artifacts.append(record.artifact)
        elif kind == "exit":
            logged.exit_code = record.exit.exit_code
    return logged


def _fragments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and payload of each fragment of a LevelDB log, after the header of the file."""
    offset = HEADER
    while offset + HEADER <= len(content):
        if BLOCK - offset % BLOCK < HEADER:  # no room for a header: the block ends with padding
            offset += BLOCK - offset % BLOCK
            continue
        length, kind = int.from_bytes(content[offset + 4 : offset + 6], "little"), content[offset + 6]
        yield kind, content[offset + HEADER : offset + HEADER + length]
        offset += HEADER + length


def _messages(content: bytes) -> Iterator[bytes]:
    """Join the fragments of each record of the log (1 whole, 2 first, 3 middle, 4 last)."""
    record = b""
    for kind, payload in _fragments(content):
        record = payload if kind in (1, 2) else record + payload
        if kind in (1, 4):
            yield record
