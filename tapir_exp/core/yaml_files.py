"""Read YAML of any origin as plain data, bounded in size, without tags, aliases or interpolations."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tapir_exp.core.errors import StoreError

MAX_BYTES = 2**21
"""Largest file that is read; the configuration of a run has about 10 kB."""
INTERPOLATION = "${"
"""Start of an interpolation of OmegaConf, which could read an environment variable."""


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Safe loader that also rejects aliases: a few of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*), which no file of a run has")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """Read a YAML file of a run as plain data; nothing in it is resolved or executed.

    Raises:
        StoreError: If the file is missing, larger than `MAX_BYTES`, or not plain YAML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES} bytes")
        return yaml.load(content, Loader=_PlainLoader)  # a subclass of the safe loader
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        # The position that PyYAML appends has several lines.
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"{path} cannot be read: {reason}. Repeat the command of its run.") from error


def find_interpolations(node: object, key: str = "") -> Iterator[str]:
    """Yield the dotted key of each text that holds an interpolation; a resolved configuration has none."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from find_interpolations(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from find_interpolations(value, f"{key}.{index}")
    elif isinstance(node, str) and INTERPOLATION in node:
        yield key
