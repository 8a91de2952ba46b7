"""The Hydra application behind `tapir run` and `tapir evaluate`.

It composes and checks the configuration of every job, then hands each job to `run_job` or `evaluate_job`. Nothing heavy
is imported before a job starts, so that mistakes show at once.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tapir_exp.commands.command_line import check_config_dir, explain_failure, parse_flags, split_sweep
from tapir_exp.commands.finished import EVALUATE, RUN, command_of, finished_outcome, job_key, unchanged_outcome
from tapir_exp.commands.recording import recorded_end, recorded_job
from tapir_exp.commands.registration import register
from tapir_exp.commands.sweeps.plugins import missing_packages
from tapir_exp.commands.sweeps.progress import short_label
from tapir_exp.commands.sweeps.remote_jobs import REMOTE
from tapir_exp.commands.sweeps.search_space import SEARCH, SearchSpace, intervals
from tapir_exp.commands.sweeps.search_trial import reporting_rounds
from tapir_exp.commands.sweeps.session import (
    PagePath,
    SweepSession,
    explain_open_jobs,
    job_lines,
    print_job_table,
    update_page,
)
from tapir_exp.commands.tracking import tracked_job
from tapir_exp.config import Config, LoggerConfig, parse, to_yaml
from tapir_exp.config.compose import COMMAND_LINE, COMPOSITION_ERRORS, Composer, collect, sweep_params
from tapir_exp.config.hydra_versions import main_options
from tapir_exp.config.paths import data_dir
from tapir_exp.config.problems import describe
from tapir_exp.config.secrets import check_overrides
from tapir_exp.core.console import console
from tapir_exp.core.disk import explain_disk_error, links_leading_out
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.core.events import EVENTS, EventStream, Outcome, Pruned, State
from tapir_exp.core.library_messages import clean_library_messages
from tapir_exp.core.processes import announce_to_workers, end_with_parent, is_worker
from tapir_exp.core.secrets import redact_secrets
from tapir_exp.report.sweep.plan_file import SweepPlan, is_ignored, split_override
from tapir_exp.report.trackers.access import check_trackers


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
        _stop_if(links_leading_out(Path(config.hydra.run.dir)))
        overrides = [*config.hydra.overrides.hydra, *config.hydra.overrides.task]
        _stop_if([*_secrets_of(config), *_composer(config).problems(overrides)])
        _stop_if(_tracker_problems(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every job of the sweep and report all mistakes in one error; then lock the sweep."""
        # Values of a sweep file and of the command line; Hydra gives the latter precedence, as they come last.
        composer = _composer(config)
        lines = [*sweep_params(config), *config.hydra.overrides.task]
        _stop_if(links_leading_out(Path(config.hydra.sweep.dir)))
        _stop_if(missing_packages(config))
        is_search = config.hydra.sweeper.get("_target_") == SEARCH
        try:
            # The jobs of a search are not known yet: those at the ends of its space stand for them.
            jobs = list(SearchSpace.parse(lines).corners()) if is_search else split_sweep(lines)
        except ConfigError as error:
            raise Stop(error) from error
        _stop_if([] if is_search else intervals(lines))
        common = list(config.hydra.overrides.hydra)
        _stop_if([*_secrets_of(config), *collect(lambda job: composer.problems([*common, *job]), jobs)])
        _stop_if(_tracker_problems(config))
        plan = plan_sweep(config, jobs)
        directory, write_page = Path(config.hydra.sweep.dir), _page_writer(config.hydra.job.config_name)
        if is_search:
            plan = replace(plan, jobs=SweepPlan.load(directory).jobs)
        remote = str(config.hydra.launcher.get("_target_")) in REMOTE
        if not remote:
            announce_to_workers()
        try:
            _sweeps.append(SweepSession(directory, plan, write_page, remote=remote))
        except Exception as error:
            problem = explain_disk_error(error)
            if problem is not None:
                print_job_table(explain_open_jobs(job_lines(directory, plan), problem))
            raise Stop(problem or error) from error

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of the sweep, and write its page; for evaluations, the tables with the published figures."""
        try:
            _sweeps.pop().finish()
        except Exception as error:
            raise Stop(error) from error


_sweeps: list[SweepSession] = []
"""The sweep that this process has started, if any; worker processes have none."""


def plan_sweep(config: DictConfig, jobs: Sequence[Sequence[str]]) -> SweepPlan:
    """Return the plan of a sweep.

    Args:
        config: Composed for the sweep, so that varied keys and groups have the values that no job overrides.
        jobs: Overrides of each job.
    """
    choices = config.hydra.runtime.choices
    defaults = {}
    for key in dict.fromkeys(split_override(line)[0] for job in jobs for line in job):
        with suppress(OmegaConfBaseException):  # a key that no job shares with the sweep has no default
            value = choices[key] if key in choices else OmegaConf.select(config, key, default=None)
            if not is_ignored(key, also_arm=False) and not isinstance(value, Container):
                defaults[key] = "null" if value is None else str(value.value if isinstance(value, Enum) else value)
    baseline = dict(split_override(part) for part in (config.sweep.baseline or "").split(",") if part)
    return SweepPlan(jobs, defaults, baseline)


def _page_writer(config_name: str | None) -> PagePath:
    return _write_tables if config_name == EVALUATE else _write_page


def _write_page(directory: Path) -> Path:
    from tapir_exp.report.paper_tables import write_tables_of_sweep
    from tapir_exp.report.sweep.page import write_sweep_report

    write_tables_of_sweep(directory)  # first, since the page links to them
    return write_sweep_report(directory)


def _write_tables(directory: Path) -> Path:
    from tapir_exp.report.paper_tables import write_paper_tables

    return write_paper_tables(directory)


def start(config_name: str, arguments: Sequence[str]) -> None:
    """Compose, check and carry out the jobs of a command line.

    Args:
        config_name: The primary configuration, if the command line names none.
        arguments: Overrides and Hydra's flags.

    Raises:
        ConfigError: With every mistake of the configuration.
        TapirError: If a job fails for a reason that the user can fix.
    """
    options = parse_flags(arguments)
    if options.config_dir is not None:
        check_config_dir(options.config_dir)
    if options.experimental_rerun is not None:
        problem = "--experimental-rerun: it reads a pickle, which can run code; expected the overrides of the run"
        raise ConfigError([f"{problem}, which are in its .hydra/overrides.yaml"])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    sys.argv[1:] = arguments  # where Hydra reads flags and overrides
    try:
        hydra.main(config_path=str(data_dir("conf")), config_name=config_name, **main_options())(run_job)()
    except Stop as stop:
        raise stop.error  # noqa: B904  # the error has its own cause, which `from` would replace
    except (AssertionError, *COMPOSITION_ERRORS) as error:
        raise ConfigError(explain_failure(error, arguments, config_name)) from error
    except Exception as error:
        # joblib's own class, which is not imported for sweeps without it
        if type(error).__name__ != "TerminatedWorkerError":
            raise
        raise TapirError(
            "A worker process of the sweep was killed, so the other jobs were stopped. The usual cause is too little "
            "memory: run fewer jobs at once (launcher=basic), and repeat the command to resume."
        ) from error
    finally:
        # A sweep that came to its end has been taken from the list.
        if _sweeps:
            _sweeps.pop().finish(stopped=True)


def run_job(cfg: DictConfig) -> float | None:
    """Run one job, and return its main result.

    Hydra calls this function, in a sweep also in worker processes that import it by name. A failed job of a sweep
    raises nothing: the table of the sweep has its reason, and the other jobs run.
    """
    worker = is_worker()
    if worker:
        end_with_parent()
        clean_library_messages()
    hydra_config = HydraConfig.get()
    if hydra_config.mode is RunMode.RUN:
        try:
            return _carry_out(cfg, None).value
        except Exception as error:
            raise Stop(explain_disk_error(error) or error) from error
    sweep_dir = Path(hydra_config.sweep.dir)
    plan = SweepPlan.load(sweep_dir)
    label = plan.label(list(hydra_config.overrides.task))
    number = hydra_config.job.num + 1
    console.label = short_label(label, number) if worker else ""
    console.print(f"job {number} of {plan.size}: {label}", soft_wrap=True)
    try:
        outcome = _carry_out(cfg, sweep_dir, label)
    except Exception as error:
        _report_failure(error, label)
        outcome = Outcome()
    if not outcome.key:  # a job that was skipped changes nothing
        update_page(sweep_dir, _page_writer(hydra_config.job.config_name))
    return outcome.value


def _carry_out(cfg: DictConfig, sweep_dir: Path | None, label: str = "") -> Outcome:
    """Carry out a job and record its events; a job that is finished already is skipped."""
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    stream = EventStream(directory / EVENTS)
    verb = command_of(hydra_config.job.config_name)
    with recorded_end(stream):
        config = parse(cfg)
        key = job_key(config, verb)
        if sweep_dir is not None:
            finished = finished_outcome(directory, key)
        else:
            finished = unchanged_outcome(directory, key, to_yaml(config)) if verb == RUN else None
    if finished is not None:
        console.print("finished already", soft_wrap=True)
        if sweep_dir is None:
            _show_finished(directory, Path(config.outputs))
        return finished
    sweep = None if sweep_dir is None else (sweep_dir.name, label)
    trial = reporting_rounds(sweep_dir, list(hydra_config.overrides.task), stream)
    try:
        with recorded_job(stream) as fields, trial, tracked_job(config, directory, verb, key, stream, sweep):
            outcome = _function(verb)(config, directory, to_yaml(config), sweep_dir) or Outcome()
            fields.update(key=key, figure=outcome.figure, value=outcome.value)
    except Pruned as pruned:
        console.print(f"{pruned}: {pruned.figure} {pruned.value:.4g}", soft_wrap=True)
        return Outcome(State.PRUNED)
    return outcome


def _show_finished(directory: Path, outputs: Path) -> None:
    from tapir_exp.commands.run_job import show_finished

    show_finished(directory, outputs)


def _function(verb: str) -> Callable[[Config, Path, str, Path | None], Outcome | None]:
    if verb == EVALUATE:
        from tapir_exp.commands.evaluate_job import evaluate

        return evaluate
    from tapir_exp.commands.run_job import run

    return run


def _report_failure(error: Exception, label: str) -> None:
    """Print why a job of a sweep failed; a bug with its traceback."""
    explained = explain_disk_error(error) or error
    if not isinstance(explained, TapirError):
        console.print_exception()
    console.print(f"failed: {label}: {redact_secrets(str(explained))}", markup=False, soft_wrap=True)


def _composer(config: DictConfig) -> Composer:
    return Composer(GlobalHydra.instance().config_loader(), config.hydra.job.config_name, sys.argv[1:])


def _secrets_of(config: DictConfig) -> list[str]:
    """Return the overrides of Hydra's own settings that hold a secret; Hydra writes them to its files."""
    return [describe(problem, COMMAND_LINE) for problem in check_overrides(config.hydra.overrides.hydra)]


def _tracker_problems(config: DictConfig) -> list[str]:
    """Return what the trackers lack: a package, a key, or a server that answers."""
    section: LoggerConfig = OmegaConf.to_object(config.logger)  # type: ignore[assignment]
    return check_trackers(section)


def _stop_if(problems: Sequence[str]) -> None:
    if problems:
        raise Stop(ConfigError(problems))


register()  # on import, because the worker process of a sweep imports only the module of `run_job`
if is_worker():
    end_with_parent()  # what a job needs is imported and unpickled next, which takes seconds on a busy machine
