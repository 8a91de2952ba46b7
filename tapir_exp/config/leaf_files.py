"""Mistakes of a YAML file of the configuration, all at once; Hydra stops at the first."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tapir_exp.config.problems import Problem, format_value
from tapir_exp.config.schema import Schema

GLOBAL_PACKAGE = "# @package _global_"
NO_SETTINGS = ("defaults", "hydra")
"""Keys of a file that are Hydra's."""


def check_leaf(content: Mapping[Any, Any], package: str, schema: Schema) -> Iterator[Problem]:
    """Yield every mistake of a file: unknown keys, values of wrong types, and a missing package line.

    Args:
        content: The plain content of the file.
        package: Where its keys belong: a section, or '' for the whole configuration.
        schema: The schema of the command.
    """
    settings = {name: value for name, value in content.items() if name not in NO_SETTINGS}
    if package and not content and not schema.is_section(package):
        yield Problem(package, " sets nothing", f'"{GLOBAL_PACKAGE}" and keys such as seed: 3')
        return
    if package and settings and not schema.is_section(package):
        expected = f'"{GLOBAL_PACKAGE}" as the first line of the file: its keys belong to several sections'
        yield Problem(package, f" sets {', '.join(map(str, settings))}", expected)
        return
    typed = OmegaConf.structured(schema.keys[""].hint)
    for key, value in _flatten(settings, f"{package}." if package else "", schema):
        if key not in schema.keys:
            if not schema.is_mapping(key.rpartition(".")[0]):
                yield Problem(key, "", f"a key of the schema{schema.suggest(key)}")
            continue
        # Interpolations and missing values have no type yet.
        if isinstance(value, str) and ("${" in value or value == "???"):
            continue
        schema.set_sections_above(key, typed)
        try:
            OmegaConf.update(typed, key, value, merge=False)
        except OmegaConfBaseException:
            yield Problem(key, format_value(key, value), schema.expects(key))


def _flatten(section: Mapping[Any, Any], prefix: str, schema: Schema) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and schema.is_section(key):
            yield from _flatten(value, f"{key}.", schema)
        else:
            yield key, value
