"""Read a command line outside Hydra's own run: the jobs it stands for, its mistakes, and the choices for its help."""

import argparse
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode

from tapir_exp.commands.registration import register
from tapir_exp.commands.sweeps.search_space import SEARCH, SearchSpace, intervals
from tapir_exp.config import Config
from tapir_exp.config.compose import COMPOSITION_ERRORS, PRIMARY, Composer, collect, sweep_params
from tapir_exp.config.paths import data_dir
from tapir_exp.config.schema import did_you_mean
from tapir_exp.core.errors import ConfigError

JSON_VARIABLE = "TAPIR_EVALUATE_JSON"
"""Environment variable that makes each evaluation write its figures to stdout as one line of JSON."""
CLASSIFY_GROUPS = ("classifier_training", "classifier_data")
"""Groups that only `tapir classify` has."""


def compose_jobs(arguments: Sequence[str], config_name: str = PRIMARY) -> list[Config]:
    """Return the configuration of every job that `tapir run` with these arguments would start.

    Args:
        arguments: Overrides and Hydra's flags.
        config_name: The primary configuration, if the command line names none.

    Raises:
        ConfigError: With every mistake of every job.
    """
    composer, multirun = _composer(arguments, config_name)
    try:
        jobs = split_jobs(composer) if multirun else [list(composer.typed)]
    except COMPOSITION_ERRORS as error:
        raise ConfigError([composer.explain(error, composer.typed)]) from error
    try:
        return [composer.config(job) for job in jobs]
    except (ConfigError, AssertionError, *COMPOSITION_ERRORS):
        # Compose again, job by job, to report all mistakes instead of the first one.
        raise ConfigError(collect(composer.problems, jobs)) from None


def rows_parser(command: str, default: int, least: int = 0, most: int | None = None) -> argparse.ArgumentParser:
    """Return a parser of `--rows N` for a command that shows rows of one job; `read_job` uses it.

    Args:
        command: The command, for messages.
        default: Rows without the flag.
        least: Fewest rows.
        most: Most rows; None allows any number.
    """
    parser = argparse.ArgumentParser(prog=command, add_help=False, allow_abbrev=False)
    parser.add_argument("--rows", type=count_parser(least, most), default=default)
    return parser


def read_job(
    parser: argparse.ArgumentParser, arguments: Sequence[str], *forced: str
) -> tuple[argparse.Namespace, Config]:
    """Return the flags of a command line, and the configuration of its only job from everything else.

    Args:
        parser: Parser of the flags; what it does not define is left to Hydra's parser.
        arguments: The command line without the name of the command.
        forced: Overrides that the command adds.

    Raises:
        ConfigError: With every mistake of the job, or if the command line is a sweep.
    """
    options, others = parser.parse_known_args(arguments)
    jobs = compose_jobs([*others, *forced])
    if len(jobs) != 1:
        raise ConfigError([f"--multirun: expected one job, got a sweep of {len(jobs)}"])
    return options, jobs[0]


def count_parser(least: int, most: int | None) -> Callable[[str], int]:
    """Return a parser of a number of rows, for argparse; None allows any number."""
    expected = "a number of rows, such as --rows 5" if most is None else f"a number of rows from {least} to {most}"

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
        return int(text)

    return parse


def split_jobs(composer: Composer) -> list[list[str]]:
    """Return the jobs of a sweep; of a search, as many with random values. Raises ConfigError, COMPOSITION_ERRORS."""
    hydra = [line for line in composer.typed if line.lstrip("+").startswith(("search=", "launcher=", "hydra"))]
    composed = composer.loader.load_configuration(composer.config_name, hydra, RunMode.MULTIRUN)
    lines, sweeper = [*sweep_params(composed), *composer.typed], composed.hydra.sweeper
    if sweeper.get("_target_") == SEARCH:
        return SearchSpace.parse(lines).sample(sweeper.trials, sweeper.seed)
    if problems := intervals(lines):
        raise ConfigError(problems)
    return split_sweep(lines)


def explain_failure(error: Exception, arguments: Sequence[str], config_name: str) -> list[str]:
    """Return every mistake of a command line that failed to compose.

    Args:
        error: What Hydra raised.
        arguments: The command line without the name of the command.
        config_name: The primary configuration, if the command line names none.
    """
    composer, multirun = _composer(arguments, config_name)
    jobs = split_sweep(composer.typed) if multirun else [list(composer.typed)]
    problems = collect(composer.problems, jobs)
    if not problems and isinstance(error, AssertionError):  # not of the composition
        raise error
    return problems or [composer.explain(error, composer.typed)]


def split_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every job of a sweep, as Hydra's sweeper splits them.

    Overrides that cannot be parsed are returned as one job. Composing that job reports them.
    """
    try:
        return BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(list(overrides)), None)[0]
    except HydraException:
        return [list(overrides)]


def format_choices(groups: Collection[str] = (), *, exclude: Collection[str] = ()) -> str:
    """Format groups of `conf` with their choices, one line each, for a help text.

    Hydra's own listing takes a second, which is why the directories are read here.

    Args:
        groups: The groups to list; none lists all, and the sweep files.
        exclude: Groups to leave out.
    """
    known = {path.name: path for path in sorted(data_dir("conf").iterdir()) if path.is_dir()}
    listed = {name: known[name] for name in groups or known if name not in exclude}
    if not groups:
        listed["sweeps"] = data_dir("sweeps")
    width = max(map(len, listed))
    choices = {name: sorted(leaf.stem for leaf in path.glob("*.yaml")) for name, path in listed.items()}
    return "".join(f"  {name:<{width}} {', '.join(leaves)}\n" for name, leaves in choices.items())


def parse_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """Return Hydra's flags and the overrides of a command line.

    Raises:
        ConfigError: With every unknown flag.
    """
    parser = get_args_parser()
    unknown = [word for word in parser.parse_known_args(list(arguments))[1] if word.startswith("-")]
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        expected = "expected an override such as key=value, or a flag of `tapir run`"
        hints = [did_you_mean(word.partition("=")[0], known) for word in unknown]
        raise ConfigError([f"{word}: {expected}{hint}" for word, hint in zip(unknown, hints, strict=True)])
    return parser.parse_args(list(arguments))


def check_config_dir(config_dir: str) -> None:
    """Raise ConfigError if the directory of --config-dir does not exist."""
    if not Path(config_dir).is_dir():
        expected = f"a directory that exists, with files such as {config_dir}/experiment/mine.yaml"
        raise ConfigError([f"--config-dir = {config_dir}: expected {expected} [command line]"])


def wants_help(arguments: Sequence[str]) -> bool:
    """Return whether a help flag is anywhere in a command line of overrides."""
    return bool({"-h", "--help"} & set(arguments))


def _composer(arguments: Sequence[str], config_name: str) -> tuple[Composer, bool]:
    """Return the composer of a command line, and whether the command line is a sweep."""
    register()
    options = parse_flags(arguments)
    path = create_config_search_path(str(data_dir("conf")))
    # As Hydra does, search the user's directory first; the sweeps come last, by their registered plugin.
    if options.config_dir is not None:
        check_config_dir(options.config_dir)
        directory = f"file://{Path(options.config_dir).resolve()}"
        path.prepend(provider="command-line", path=directory, anchor=SearchPathQuery(provider="schema"))
    name = options.config_name or config_name
    # A sweep file sets Hydra's mode itself, so its name is enough to detect a sweep.
    return Composer(ConfigLoaderImpl(path), name, options.overrides), options.multirun or name != config_name
