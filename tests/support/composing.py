"""Compose the configuration as the command line does."""

from functools import cache

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from tapir_exp.commands.registration import register
from tapir_exp.config import Config, parse
from tapir_exp.config.compose import Composer
from tapir_exp.config.hydra_versions import initialize_options
from tapir_exp.config.paths import data_dir

register()


def compose_raw(*overrides: str, config_name: str = "config", hydra: bool = False) -> DictConfig:
    """Compose a primary config or a sweep; `hydra` keeps Hydra's own section."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(data_dir("conf")), **initialize_options()):
        return compose(config_name, list(overrides), return_hydra_config=hydra)


def compose_config(*overrides: str, config_name: str = "config") -> Config:
    """Compose and parse a configuration; parts of the lab may stand beside real ones, as tests choose few groups."""
    return parse(_composer(config_name).compose(["allow_lab_parts=true", *overrides]))


@cache
def _composer(config_name: str) -> Composer:
    """Return one composer for all tests: it reads the files of a choice of groups once."""
    return Composer(ConfigLoaderImpl(create_config_search_path(str(data_dir("conf")))), config_name, [])
