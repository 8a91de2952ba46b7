"""What the next versions of Hydra and OmegaConf rename, deprecate or require, in one place."""

from collections.abc import Callable
from typing import Any

import hydra
import omegaconf
from omegaconf import OmegaConf

TARGETS = ("tapir_exp.*", "hydra_plugins.*", "hydra.*")
"""Packages from which a configuration may name what is executed: our callback, launchers and sweepers."""


def is_at_least(version: str, *numbers: int) -> bool:
    """Return whether a version, such as 1.4.0rc3, is at least that of the numbers, such as 1 and 4."""
    return tuple(int(part) for part in version.split(".")[: len(numbers)]) >= numbers


def initialize_options() -> dict[str, Any]:
    """Return the options of `hydra.initialize_config_dir`; from 1.4 on, the defaults are those of the version."""
    return {} if is_at_least(hydra.__version__, 1, 4) else {"version_base": "1.3"}


def main_options() -> dict[str, Any]:
    """Return the options of `hydra.main`; from 1.4 on, it executes only what these name as trusted."""
    return {"execution_whitelist": TARGETS} if is_at_least(hydra.__version__, 1, 4) else {"version_base": "1.3"}


def register_resolver(name: str, resolver: Callable[..., Any], *, use_cache: bool = False) -> None:
    """Register a resolver of interpolations, or replace the one of that name."""
    # OmegaConf 2.3 has an old function under the new name.
    new: Any = OmegaConf.register_resolver
    register = new if is_at_least(omegaconf.__version__, 2, 4) else OmegaConf.register_new_resolver
    register(name, resolver, replace=True, use_cache=use_cache)
