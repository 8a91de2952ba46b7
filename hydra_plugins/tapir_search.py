"""Search of the best settings with Optuna, as a sweeper of Hydra. `tapir_exp.commands.sweeps.search` has the work."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SearchConf:
    """Settings of `search=optuna`."""

    _target_: str = "hydra_plugins.tapir_search.SearchSweeper"
    params: dict[str, str] | None = None
    """Values of each setting in Hydra's syntax, such as `curriculum.alpha: interval(0.1,0.9)`."""
    trials: int = 20
    """Number of trials in all; a search that is started again continues towards it."""
    trials_at_once: int = 1
    """Trials that are chosen, and handed to the launcher, together."""
    random_trials: int = 10
    """Trials with random values before the sampler uses the results."""
    seed: int = 0
    """Seed of the sampler."""
    prune: bool = True
    """Whether a trial ends after a round in which it is worse than the median of the trials before it."""
    prune_after: int = 5
    """Trials that must be complete before one is pruned."""


class SearchSweeper(Sweeper):
    """Choose the settings of each job by the results of the jobs before it."""

    def __init__(self, **settings: Any) -> None:
        self.params = settings.pop("params") or {}
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives to a sweeper, and create the launcher."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search."""
        from tapir_exp.commands.sweeps.search import Settings, run_search

        assert self.launcher is not None
        assert self.config is not None
        lines = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        return run_search(self.launcher, lines, self.config, Settings(**self.settings))


ConfigStore.instance().store(group="hydra/sweeper", name="tapir_search", node=SearchConf, provider="tapir_exp")
