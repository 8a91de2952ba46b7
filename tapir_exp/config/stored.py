"""Read the student of a stored run. A run may come from another person, so its configuration permits nothing."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tapir_exp.config.problems import describe
from tapir_exp.config.ranges import check_ranges
from tapir_exp.config.student import EngineKind, StudentConfig
from tapir_exp.core.errors import StoreError
from tapir_exp.core.yaml_files import find_interpolations, read_yaml

STORED_CONFIG = "config.yaml"
"""File in a run directory that holds its configuration, with every interpolation resolved."""


def read_stored_config(run: Path) -> dict[str, Any]:
    """Read the configuration of a run as plain data. Raises StoreError if it is missing or damaged."""
    path = run / STORED_CONFIG
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise StoreError(f"{path} holds no settings; repeat the command of its run to write it again.")
    return content


def read_stored_student(run: Path, own: StudentConfig) -> StudentConfig:
    """Read the student of a run, as far as it determines prompts, lengths and weights.

    Settings that run code of others or start a program come from the user's own configuration instead. These are
    pickles, remote code, the program of vLLM and its arguments, and vLLM as the engine.

    Args:
        run: The run directory.
        own: The student of the user's own configuration.

    Raises:
        StoreError: If the stored settings are not those of a student.
    """
    section = read_stored_config(run).get("student")
    path = run / STORED_CONFIG
    if not isinstance(section, Mapping):
        raise StoreError(f"{path} has no section `student`; expected the configuration of a run.")
    if keys := list(find_interpolations(section, "student")):
        raise StoreError(f"{path}: {keys[0]} is an interpolation; expected a plain value, as a run writes it.")
    try:
        stored = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(StudentConfig), dict(section)))
    except OmegaConfBaseException as error:
        raise StoreError(f"{path}: student: {str(error).splitlines()[0]}.") from error
    assert isinstance(stored, StudentConfig)
    values = {f"student.{name}": value for name, value in _flatten(asdict(stored))}
    if problems := [describe(problem, str(path)) for problem in check_ranges(values)]:
        raise StoreError("\n".join(problems))
    return replace(
        stored,
        engine=own.engine if stored.engine is EngineKind.vllm else stored.engine,
        vllm=own.vllm,
        allow_pickle=own.allow_pickle,
        trust_remote_code=own.trust_remote_code,
    )


def _flatten(section: Mapping[str, Any]) -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for name, value in section.items():
        inner = _flatten(value) if isinstance(value, Mapping) else [("", value)]
        leaves += [(f"{name}.{key}" if key else name, leaf) for key, leaf in inner]
    return leaves
