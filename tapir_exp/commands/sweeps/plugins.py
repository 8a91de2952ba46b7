"""Packages that launchers and sweepers need, checked before a sweep starts."""

from importlib.util import find_spec

from omegaconf import DictConfig

PACKAGES = {
    "hydra_plugins.tapir_launchers.RayLauncher": ("launcher = ray", "ray", "ray"),
    "hydra_plugins.tapir_launchers.SubmititLauncher": ("launcher", "submitit", "slurm"),
    "hydra_plugins.tapir_search.SearchSweeper": ("search = optuna", "optuna", "search"),
}
"""Setting, package and extra of each plugin."""


def missing_packages(config: DictConfig) -> list[str]:
    """Return one line for each package that the launcher or the sweeper needs and that is not installed."""
    targets = [str(section.get("_target_")) for section in (config.hydra.launcher, config.hydra.sweeper)]
    return [
        f"{setting}: expected the package {package}; install it with pip install 'tapir-exp[{extra}]'"
        for setting, package, extra in (PACKAGES[target] for target in targets if target in PACKAGES)
        if find_spec(package) is None
    ]
