"""The Hydra application behind `tapir run` and `tapir evaluate`.

It composes and checks the configuration of every job, then hands each job to `run_job` or `evaluate_job`. Nothing heavy
is imported before a job starts, so that mistakes show at once.
"""

import os
import sys
from collections.abc import Sequence
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from tapir_exp.commands.command_line import explain_failure, split_sweep
from tapir_exp.commands.registration import register
from tapir_exp.config import parse, to_yaml
from tapir_exp.config.compose import COMMAND_LINE, COMPOSITION_ERRORS, Composer, collect, sweep_params
from tapir_exp.config.paths import data_dir
from tapir_exp.config.problems import describe
from tapir_exp.config.secrets import check_overrides
from tapir_exp.core.console import console
from tapir_exp.core.disk import explain_disk_error
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.core.processes import end_with_parent

EVALUATE = "evaluate"
"""Name of the primary configuration of `tapir evaluate`."""


class Stop(BaseException):
    """Carry an error past Hydra.

    Hydra turns the exceptions of a callback into warnings, and adds lines to those of a job.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error


class ConfigCheck(Callback):
    """Reject a wrong configuration before Hydra writes a file or starts a job; write the report of a finished sweep."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the only job."""
        overrides = [*config.hydra.overrides.hydra, *config.hydra.overrides.task]
        _stop_if([*_secrets_of(config), *_composer(config).problems(overrides)])

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every job of the sweep and report all mistakes in one error."""
        # Values of a sweep file and of the command line; Hydra gives the latter precedence, as they come last.
        composer = _composer(config)
        jobs = split_sweep([*sweep_params(config), *config.hydra.overrides.task])
        common = list(config.hydra.overrides.hydra)
        _stop_if([*_secrets_of(config), *collect(lambda job: composer.problems([*common, *job]), jobs)])

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the sweep's report; for a sweep of evaluations, the tables with the published figures."""
        directory = Path(config.hydra.sweep.dir)
        try:
            if config.hydra.job.config_name == EVALUATE:
                from tapir_exp.report.paper_tables import write_paper_tables

                write_paper_tables(directory)
            else:
                from tapir_exp.report.sweep.page import write_sweep_report

                write_sweep_report(directory)
        except Exception as error:
            raise Stop(error) from error


def start(config_name: str, arguments: Sequence[str]) -> None:
    """Compose, check and carry out the jobs of a command line.

    Args:
        config_name: The primary configuration, if the command line names none.
        arguments: Overrides and Hydra's flags.

    Raises:
        ConfigError: With every mistake of the configuration.
        TapirError: If a job fails for a reason that the user can fix.
    """
    if get_args_parser().parse_args(list(arguments)).experimental_rerun is not None:
        problem = "--experimental-rerun: it reads a pickle, which can run code; expected the overrides of the run"
        raise ConfigError([f"{problem}, which are in its .hydra/overrides.yaml"])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    sys.argv[1:] = arguments  # where Hydra reads flags and overrides
    try:
        hydra.main(version_base="1.3", config_path=str(data_dir("conf")), config_name=config_name)(run_job)()
    except Stop as stop:
        raise stop.error  # noqa: B904  # the error has its own cause, which `from` would replace
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain_failure(error, arguments, config_name)) from error


def run_job(cfg: DictConfig) -> None:
    """Run one job. Hydra calls this function, in a sweep also in worker processes that import it by name."""
    if current_process().name != "MainProcess":
        end_with_parent()  # a worker of a sweep
    try:
        _carry_out(cfg)
    except Exception as error:
        error = explain_disk_error(error) or error
        if HydraConfig.get().mode is RunMode.RUN:
            raise Stop(error) from error
        raise _report_failure(error) from error


def _carry_out(cfg: DictConfig) -> None:
    config = parse(cfg)
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    sweep_dir = Path(hydra_config.sweep.dir) if hydra_config.mode is RunMode.MULTIRUN else None
    if hydra_config.job.config_name == EVALUATE:
        from tapir_exp.commands.evaluate_job import evaluate

        evaluate(config, directory, to_yaml(config), sweep_dir)
    else:
        from tapir_exp.commands.run_job import run

        run(config, directory, to_yaml(config), sweep_dir)


def _report_failure(error: Exception) -> TapirError:
    """Print why a job of a sweep failed, and return the error for the end of the sweep.

    Not every exception can be pickled, so a worker process sends a plain TapirError.
    """
    if not isinstance(error, TapirError):
        console.print_exception()
    failure = TapirError(f"{HydraConfig.get().job.override_dirname}: {error}")
    console.print(f"failed: {failure}", markup=False, soft_wrap=True)
    return failure


def _composer(config: DictConfig) -> Composer:
    return Composer(GlobalHydra.instance().config_loader(), config.hydra.job.config_name, sys.argv[1:])


def _secrets_of(config: DictConfig) -> list[str]:
    """Return the overrides of Hydra's own settings that hold a secret; Hydra writes them to its files."""
    return [describe(problem, COMMAND_LINE) for problem in check_overrides(config.hydra.overrides.hydra)]


def _stop_if(problems: Sequence[str]) -> None:
    if problems:
        raise Stop(ConfigError(problems))


register()  # on import, because the worker process of a sweep knows nothing but the module of `run_job`
