"""Read a command line outside Hydra's own run: the jobs it stands for, its mistakes, and the choices for its help."""

from collections.abc import Collection, Sequence
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
from tapir_exp.config.compose import COMPOSITION_ERRORS, PRIMARY, Composer, collect
from tapir_exp.config.paths import data_dir
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


def split_jobs(composer: Composer) -> list[list[str]]:
    """Return the jobs of a sweep; of a search, as many with random values. Raises ConfigError, COMPOSITION_ERRORS."""
    lines = [*composer.sweep_params(), *composer.typed]
    hydra = [line for line in composer.typed if line.lstrip("+").startswith(("search=", "launcher=", "hydra"))]
    sweeper = composer.loader.load_configuration(composer.config_name, hydra, RunMode.MULTIRUN).hydra.sweeper
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
    options = get_args_parser().parse_args(list(arguments))
    path = create_config_search_path(str(data_dir("conf")))
    # As Hydra does, search the user's directory first; the sweeps come last, by their registered plugin.
    if options.config_dir is not None:
        check_config_dir(options.config_dir)
        directory = f"file://{Path(options.config_dir).resolve()}"
        path.prepend(provider="command-line", path=directory, anchor=SearchPathQuery(provider="schema"))
    name = options.config_name or config_name
    # A sweep file sets Hydra's mode itself, so its name is enough to know a sweep.
    return Composer(ConfigLoaderImpl(path), name, options.overrides), options.multirun or name != config_name
