"""TAPIR: task-aware curriculum planning for instruction refinement, as an experiment framework."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Lineage", "Run", "__version__", "compose", "open_run", "run"]

if TYPE_CHECKING:
    from tapir_exp.api import Lineage, Run, compose, open_run, run


def __getattr__(name: str) -> Any:
    """Import the Python interface when it is used, so that the command line stays fast."""
    if name in __all__:
        from tapir_exp import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
