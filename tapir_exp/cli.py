"""The command `tapir`: it composes and checks the configuration, and hands each job to `tapir_exp.run`.

Nothing heavy is imported before a job starts, so that help and mistakes show at once.
"""

import os
import re
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from tapir_exp.config import parse, register_schema, to_yaml
from tapir_exp.console import console
from tapir_exp.errors import ConfigError, TapirError
from tapir_exp.explain import COMPOSITION_ERRORS, PRIMARY, Composer, collect

LONGEST_NAME = 120
"""Directory names beyond this many characters are cut and end in a digest."""


def data_dir(name: str) -> Path:
    """The directory `conf` or `sweeps`: in the package when installed from a wheel, beside it in the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


class SweepsPath(SearchPathPlugin):
    """Lets `--config-name` find the sweeps from anywhere."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the sweeps behind conf."""
        search_path.append("tapir-sweeps", f"file://{data_dir('sweeps')}")


class Stop(BaseException):
    """Carries an error past Hydra, which turns the exceptions of a callback into warnings."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Checks(Callback):
    """Refuses a wrong configuration before Hydra writes a file or starts a job; reports on a finished sweep."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the only job."""
        _refuse(_composer(config).problems(_all_overrides(config)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every job of the sweep, all mistakes in one error."""
        composer, jobs = _composer(config), _jobs(config)
        common = list(config.hydra.overrides.hydra)
        _refuse(collect(lambda job: composer.problems([*common, *job]), jobs))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the sweep's report."""
        from tapir_exp.report.sweep import write_sweep_report

        try:
            write_sweep_report(Path(config.hydra.sweep.dir))
        except Exception as error:
            raise Stop(error) from error


def run_job(cfg: DictConfig) -> None:
    """One job: the whole of Hydra ends here."""
    config = parse(cfg)
    from tapir_exp.run import run

    run(config, Path(HydraConfig.get().runtime.output_dir), to_yaml(config))


def main() -> None:
    """Run the command; exit code 0 when done, 2 for a wrong configuration, 1 for what else the user can mend."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    try:
        hydra.main(version_base="1.3", config_path=str(data_dir("conf")), config_name=PRIMARY)(run_job)()
    except Stop as stop:
        _leave(stop.error)
    except (TapirError, *COMPOSITION_ERRORS) as error:
        _leave(error)
    except KeyboardInterrupt:
        console.print("\nStopped. The same command resumes where this one was.", markup=False)
        sys.exit(130)


def _leave(error: Exception) -> None:
    """Print an error for a person and end with its exit code."""
    if isinstance(error, COMPOSITION_ERRORS):
        error = ConfigError(_explain_command(error))
    if not isinstance(error, TapirError):
        raise error
    console.print(f"tapir: {error}", markup=False, soft_wrap=True, style="red" if console.is_terminal else None)
    sys.exit(2 if isinstance(error, ConfigError) else 1)


def _explain_command(error: Exception) -> list[str]:
    """Every mistake of the command line, found by composing it again without what fails."""
    args = get_args_parser().parse_args()
    path = create_config_search_path(str(data_dir("conf")))
    if args.config_dir is not None:
        place = f"file://{Path(args.config_dir).resolve()}"
        path.prepend(provider="command-line", path=place, anchor=SearchPathQuery(provider="schema"))
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    name = args.config_name or PRIMARY
    composer = Composer(ConfigLoaderImpl(path), name, args.overrides)
    jobs = _split(args.overrides) if args.multirun or name != PRIMARY else [args.overrides]
    return collect(composer.problems, jobs) or [composer.explain(error, args.overrides)]


def _split(lines: Sequence[str]) -> list[list[str]]:
    """The overrides of every job of a sweep, as Hydra's sweeper will have them; one job where they are unreadable."""
    try:
        return BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(list(lines)), None)[0]
    except HydraException:
        return [list(lines)]


def _composer(config: DictConfig) -> Composer:
    return Composer(_loader(), config.hydra.job.config_name, sys.argv[1:])


def _loader() -> ConfigLoader:
    return GlobalHydra.instance().config_loader()


def _all_overrides(config: DictConfig) -> list[str]:
    return [*config.hydra.overrides.hydra, *config.hydra.overrides.task]


def _jobs(config: DictConfig) -> list[list[str]]:
    params = config.hydra.sweeper.get("params") or {}
    return _split([*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task])


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise Stop(ConfigError(problems))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


def _run_name(name: str, overrides: str) -> str:
    """Directory of a single run: the experiment, and a digest of the overrides if there are any."""
    return f"{name}-{_digest(overrides)}" if overrides else name


def _sweep_name(config_name: str, name: str, overrides: str) -> str:
    """Directory of a sweep: its file, or the experiment where it was typed; then a digest of what was typed."""
    return _run_name(name if config_name == PRIMARY else config_name, overrides)


def _file_name(text: str) -> str:
    """`text` as one path component; where that changes or cuts it, a digest keeps it unique."""
    name = re.sub(r"[^\w.=,-]", "-", text)[:LONGEST_NAME]
    return name if name == text and text else f"{name}-{_digest(text)}"


def _register() -> None:
    """Make schema, resolvers and sweeps known to Hydra; a sweep's worker does so by importing this module."""
    register_schema()
    for resolver in (_run_name, _sweep_name, _file_name):
        OmegaConf.register_new_resolver(f"tapir.{resolver.__name__[1:]}", resolver, replace=True)
    Plugins.instance().register(SweepsPath)


_register()
