"""Register the schema, the resolvers of `conf` and the directory of sweeps with Hydra."""

from functools import cache

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from tapir_exp.commands.naming import run_name, sweep_name
from tapir_exp.config import register_schema
from tapir_exp.config.hydra_versions import register_resolver
from tapir_exp.config.paths import data_dir
from tapir_exp.core.file_names import file_name


class SweepsSearchPath(SearchPathPlugin):
    """Let `--config-name` find the sweep files from any directory."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the directory of sweeps after `conf`."""
        search_path.append("tapir-sweeps", f"file://{data_dir('sweeps')}")


@cache
def register() -> None:
    """Register all that the YAML files of `conf` and `sweeps` refer to, once per process."""
    register_schema()
    register_resolver("tapir.run_name", run_name)
    register_resolver("tapir.file_name", file_name)
    register_resolver("tapir.sized", _scale_to_budget)
    # Hydra passes its resolver cache on to the jobs, so that all of them get the directory of the sweep.
    register_resolver("tapir.sweep_name", sweep_name, use_cache=True)
    Plugins.instance().register(SweepsSearchPath)


def _scale_to_budget(amount: int, minutes: float, budget: float) -> int:
    """Scale an amount that takes `minutes` to a budget in minutes; at least 1."""
    return max(1, round(amount * budget / minutes))
