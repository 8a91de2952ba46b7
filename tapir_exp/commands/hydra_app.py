"""The command `tapir`: it composes and checks the configuration, and hands each job to `tapir_exp.commands.run`.

Nothing heavy is imported before a job starts, so that help and mistakes show at once.
"""

import os
import re
import signal
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
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tapir_exp.config import Config, parse, register_schema, to_yaml
from tapir_exp.config.compose import COMPOSITION_ERRORS, PRIMARY, Composer, collect, sweep_params
from tapir_exp.config.paths import data_dir
from tapir_exp.core.console import console
from tapir_exp.core.errors import ConfigError, TapirError

HELP = """\
tapir: task-aware curriculum planning for instruction refinement, as experiments.

  tapir                                  the lab, end to end: no key, no GPU, no download
  tapir student=qwen1_5_0_5b seed=3      choices of groups and values of keys, in any order
  tapir -m arm=tapir,lion seed=1,2,3     every combination, one after the other
  tapir --config-name lab_ablation       a sweep of sweeps/; your own: --config-dir DIR --config-name NAME

The same command resumes where it was stopped. Results go to outputs/, the last run is linked as outputs/latest.

  --cfg job [--resolve]                  print the configuration instead of running it
  --info defaults-tree                   print which file each part comes from
  --hydra-help                           further flags, which are Hydra's

Groups and their choices (tapir_exp/config says what each key means):
"""
EVALUATE = "evaluate"
"""Name of the configuration of `tapir-evaluate`."""
EVALUATE_HELP = """\
tapir-evaluate: a student on AlpacaEval 2.0, MT-Bench, IFEval and the lab's held-out problems.

  tapir-evaluate evals.run=outputs/latest                the last student of a run, on the lab's problems
  tapir-evaluate evals=alpaca_eval judge=gpt_4_1106_preview evals.run=outputs/runs/llama2_7b_paper
  tapir-evaluate evals=mt_bench judge=gpt_4 student=qwen1_5_1_8b student.model=DIR_OR_HUB_ID
  tapir-evaluate evals=alpaca_eval judge=gpt_4_1106_preview evals.alpaca_eval.outputs=model_outputs.json

The same command resumes where it was stopped. Results go to outputs/evaluations/, with the official tools' files;
`tapir-report --paper outputs/evaluations` puts them beside the published figures.

Groups and their choices (tapir_exp/config says what each key means):
"""
LONGEST_NAME = 120
"""Directory names beyond this many characters are cut and end in a digest."""


class SweepsPath(SearchPathPlugin):
    """Lets `--config-name` find the sweeps from anywhere."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the sweeps behind conf."""
        search_path.append("tapir-sweeps", f"file://{data_dir('sweeps')}")


class Stop(BaseException):
    """Carries an error past Hydra, which turns the exceptions of a callback into warnings and adds lines to a job's."""

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
        """Write the sweep's report; of evaluations, the tables beside the published figures."""
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


def run_job(cfg: DictConfig) -> None:
    """One job: the whole of Hydra ends here."""
    try:
        _carry_out(cfg)
    except Exception as error:
        alone = HydraConfig.get().mode is RunMode.RUN
        raise Stop(error) if alone else _failure(error) from error


def _carry_out(cfg: DictConfig) -> None:
    config = parse(cfg)
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    sweep_dir = Path(hydra_config.sweep.dir) if hydra_config.mode is RunMode.MULTIRUN else None
    if hydra_config.job.config_name == EVALUATE:
        from tapir_exp.commands.evaluate import evaluate

        evaluate(config, directory, to_yaml(config), sweep_dir)
    else:
        from tapir_exp.commands.run import run

        run(config, directory, to_yaml(config), sweep_dir)


def _failure(error: Exception) -> TapirError:
    """The failure of one job of a sweep, told at once; it travels from a worker process, as not every error can."""
    if not isinstance(error, TapirError):
        console.print_exception()
    told = TapirError(f"{HydraConfig.get().job.override_dirname}: {error}")
    console.print(f"failed: {told}", markup=False, soft_wrap=True)
    return told


def main() -> None:
    """The command `tapir`."""
    _start(PRIMARY, HELP)


def main_evaluate() -> None:
    """The command `tapir-evaluate`."""
    _start(EVALUATE, EVALUATE_HELP)


def _start(primary: str, told: str) -> None:
    """Run a command; exit code 0 when done, 2 for a wrong configuration, 1 for what else the user can mend."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(told + _groups())
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    signal.signal(signal.SIGTERM, _interrupt)  # else a sweep's workers would go on
    try:
        hydra.main(version_base="1.3", config_path=str(data_dir("conf")), config_name=primary)(run_job)()
    except Stop as stop:
        exit_with_error(stop.error)
    except COMPOSITION_ERRORS as error:
        exit_with_error(ConfigError(_explain_command(error, primary)))
    except TapirError as error:
        exit_with_error(error)
    except KeyboardInterrupt:
        console.print("\nStopped. The same command resumes where this one was.", markup=False)
        sys.exit(130)


def _interrupt(*_: object) -> None:
    """Stop as Ctrl-C does, also where the shell ignores Ctrl-C for us, as for a script's command that ends in `&`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _groups() -> str:
    """The groups of conf with their choices; Hydra's own listing takes a second."""
    groups = sorted(path for path in data_dir("conf").iterdir() if path.is_dir())
    choices = {group.name: sorted(leaf.stem for leaf in group.glob("*.yaml")) for group in groups}
    choices["sweeps"] = sorted(leaf.stem for leaf in data_dir("sweeps").glob("*.yaml"))
    return "".join(f"  {name:<12} {', '.join(leaves)}\n" for name, leaves in choices.items())


def exit_with_error(error: Exception, command: str = "tapir") -> None:
    """Print an error of a command for a person and end with its exit code."""
    if not isinstance(error, TapirError):
        raise error
    console.print(f"{command}: {error}", markup=False, soft_wrap=True, style="red" if console.is_terminal else None)
    sys.exit(2 if isinstance(error, ConfigError) else 1)


def jobs_of_command() -> list[Config]:
    """The configuration of every job that `tapir` with the present arguments would run.

    Raises ConfigError, which lists every mistake.
    """
    composer, multirun = _command()
    try:
        lines = composer.sweep_params() if multirun else []
    except COMPOSITION_ERRORS as error:
        raise ConfigError([composer.explain(error, composer.typed)]) from error
    jobs = _split([*lines, *composer.typed]) if multirun else [list(composer.typed)]
    try:
        return [composer.config(job) for job in jobs]
    except (ConfigError, *COMPOSITION_ERRORS):
        raise ConfigError(collect(composer.problems, jobs)) from None


def _explain_command(error: Exception, primary: str) -> list[str]:
    """Every mistake of the command line, found by composing it again without what fails."""
    composer, multirun = _command(primary)
    jobs = _split(composer.typed) if multirun else [list(composer.typed)]
    return collect(composer.problems, jobs) or [composer.explain(error, composer.typed)]


def _command(primary: str = PRIMARY) -> tuple[Composer, bool]:
    """What composes the command line, and whether that is a sweep."""
    args = get_args_parser().parse_args()
    path = create_config_search_path(str(data_dir("conf")))
    if args.config_dir is not None:
        place = f"file://{Path(args.config_dir).resolve()}"
        path.prepend(provider="command-line", path=place, anchor=SearchPathQuery(provider="schema"))
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    name = args.config_name or primary
    return Composer(ConfigLoaderImpl(path), name, args.overrides), args.multirun or name != primary


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
    return _split([*sweep_params(config), *config.hydra.overrides.task])


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


def _sized(amount: int, minutes: float, budget: float) -> int:
    """What a budget in minutes holds of something of which `minutes` hold `amount`; at least 1."""
    return max(1, round(amount * budget / minutes))


def _register() -> None:
    """Make schema, resolvers and sweeps known to Hydra; a sweep's worker does so by importing this module."""
    register_schema()
    OmegaConf.register_new_resolver("tapir.run_name", _run_name, replace=True)
    OmegaConf.register_new_resolver("tapir.file_name", _file_name, replace=True)
    OmegaConf.register_new_resolver("tapir.sized", _sized, replace=True)
    # cached, since Hydra hands its cache on to the jobs: each takes the directory of the sweep, not one of its own
    OmegaConf.register_new_resolver("tapir.sweep_name", _sweep_name, replace=True, use_cache=True)
    Plugins.instance().register(SweepsPath)


_register()
