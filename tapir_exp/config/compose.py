"""Compose configurations, find what set a value, and explain a failed composition in the words of the schema."""

import os
import pickle
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from tapir_exp.config.leaf_files import GLOBAL_PACKAGE, check_leaf
from tapir_exp.config.problems import Problem, describe, format_value
from tapir_exp.config.root import SCHEMA, Config, parse
from tapir_exp.config.schema import Schema, did_you_mean
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.secrets import redact_secrets
from tapir_exp.core.task_types import TaskType

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)
"""Errors that Hydra, OmegaConf and YAML raise during composition."""
COMMAND_LINE = "command line"
RATIO = "task_mix.target_distribution."
PRIMARY = "config"
"""Name of the primary config of a run."""
MISPLACED = r"Could not override '(\w+)@(\w+)\.\1'"
"""Hydra's message about a file that chooses one of another group, but whose package is its own group."""
REPEATED = r"Multiple values for ([\w/@.]+?)\. |([\w/@.]+) appears more than once"
"""Start of Hydra's messages about a group that was chosen twice."""
ONE_VALUE = "one value; use --multirun for a sweep over several, or quote a text that contains a comma"


class Composer:
    """Composes the configuration of one command, and finds the file that set a value.

    Example:
        For `tapir teacher=gtp_4o sft.lerning_rate=1`, Hydra stops at the first mistake. `problems` notes it, removes
        that override, composes again, and so reports both:

            teacher = gtp_4o: expected one of gpt_3_5_turbo, gpt_4o, ... (did you mean gpt_4o?) [command line]
            sft.lerning_rate: expected a key of the schema (did you mean sft.learning_rate?) [command line]

    Args:
        loader: Hydra's config loader.
        config_name: Name of the primary config.
        typed: Overrides of the command line, as opposed to those of a sweep's YAML.
        schema: Schema of the command.
        read: Parses the composed configuration of the command.
    """

    def __init__(
        self,
        loader: ConfigLoader,
        config_name: str,
        typed: Sequence[str],
        schema: Schema = SCHEMA,
        read: Callable[[DictConfig, Callable[[str], str]], object] = parse,
    ) -> None:
        self.loader = loader
        self.schema, self.read = schema, read
        self.config_name = config_name
        self.typed = tuple(typed)
        self._known_leaves: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        self._chosen: dict[tuple[str, ...], bytes] = {}
        self._overrides: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}
        self._contents: dict[str, object] = {}

    def problems(self, overrides: Sequence[str]) -> list[str]:
        """Return every mistake of a job, one line each."""
        remaining = list(overrides)
        problems: list[str] = []
        # Hydra reports one mistake at a time: note it, remove the override that caused it, and compose again.
        while True:
            try:
                self.read(self.compose(remaining), lambda key: self.origin(key, remaining))
                return problems
            except ConfigError as error:
                return [*problems, *error.problems]
            except AssertionError:
                # OmegaConf's own, for a key below a section that is null.
                if (unset := next(filter(self._unset_section, remaining), None)) is None:
                    raise
                problems.append(self._explain_unset(unset))
                remaining.remove(unset)
            except COMPOSITION_ERRORS as error:
                if (culprit := _culprit(error, remaining)) is None:
                    return [*problems, *(self._leaf_problems(remaining) or [self.explain(error, remaining)])]
                problems.append(self.explain(error, remaining))
                remaining.remove(culprit)

    def config(self, overrides: Sequence[str]) -> Config:
        """Return the configuration of a job. Raises ConfigError and COMPOSITION_ERRORS."""
        return parse(self.compose(overrides), lambda key: self.origin(key, overrides))

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the composed configuration of a job, without Hydra's section. Raises COMPOSITION_ERRORS."""
        split = self._split(overrides)
        if split is None:
            return self._load(list(overrides))
        choices, values = split
        if choices not in self._chosen:
            # Jobs of a sweep mostly share their choices, and Hydra takes a long time to find and merge their files.
            self._chosen[choices] = pickle.dumps(self._load(list(choices)))
        cfg: DictConfig = pickle.loads(self._chosen[choices])  # a copy, several times as fast as deepcopy
        OmegaConf.set_struct(cfg, True)
        try:
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        except OmegaConfBaseException as error:  # as load_configuration does
            raise ConfigCompositionException().with_traceback(error.__traceback__) from error
        OmegaConf.set_struct(cfg, False)
        return cfg

    def origin(self, key: str, overrides: Sequence[str]) -> str:
        """Return what set a dotted key last: a file, the command line, or the default of the schema."""
        for line in reversed(overrides):
            if re.match(rf"[+~]*{re.escape(key)}(\.|=|$)", line) or _sets_section_of(line, key):
                return self._source(line)
        for path, package in self._leaves(overrides):
            if file := self._holds(path, package, key):
                return file
        return "tapir_exp/config"

    def explain(self, error: Exception, overrides: Sequence[str]) -> str:
        """Explain a failed composition in one line: key, value, what was expected, and the file."""
        line = _culprit(error, overrides)
        if isinstance(error, MissingConfigException):
            return self._explain_choice(error, line)
        if line is not None:
            return self._explain_override(error, line)
        return self._explain_leaf(error)

    def _load(self, overrides: list[str]) -> DictConfig:
        cfg = self.loader.load_configuration(self.config_name, overrides, run_mode=RunMode.RUN)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        return cfg

    def _split(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[Override]] | None:
        """Return the overrides that choose files, and those that set a value; None if Hydra has to reject one of them.

        Raises:
            OverrideParseException: If one cannot be read.
        """
        choices, values = list[str](), list[Override]()
        for line, override in zip(overrides, self._parsed(overrides), strict=True):
            key = override.key_or_group
            if override.is_sweep_override() or override.package is not None or "@" in key:
                return None
            if key.partition(".")[0] == "hydra" or (self._is_group(key) and not isinstance(override.value(), dict)):
                choices.append(line)
            else:
                values.append(override)
        return tuple(choices), values

    def _parsed(self, overrides: Sequence[str]) -> list[Override]:
        missing = [line for line in overrides if line not in self._overrides]
        self._overrides.update(zip(missing, OverridesParser.create().parse_overrides(missing), strict=True))
        return [self._overrides[line] for line in overrides]

    def _is_group(self, key: str) -> bool:
        if key not in self._groups:
            self._groups[key] = any(source.is_group(key) for source in self.loader.get_sources())
        return self._groups[key]

    def _source(self, line: str) -> str:
        """Return the command line, or the sweep's file if its parameters set this key."""
        typed = any(_key(other) == _key(line) for other in self.typed)
        return COMMAND_LINE if typed or self.config_name == PRIMARY else self._file(self.config_name)

    def _leaves(self, overrides: Sequence[str]) -> list[tuple[str, str]]:
        """Return path and package of each composed YAML, the last merged first; kept, since a message needs many."""
        job = tuple(overrides)
        with suppress(HydraException):
            # Only the choices of groups determine which files are composed.
            job = split[0] if (split := self._split(overrides)) is not None else job
        if job not in self._known_leaves:
            self._known_leaves[job] = []
            with suppress(*COMPOSITION_ERRORS):
                tree = self.loader.compute_defaults_list(self.config_name, list(job), RunMode.RUN)
                self._known_leaves[job] = [
                    (leaf.config_path, leaf.package or "")
                    for leaf in reversed(tree.defaults)
                    if leaf.config_path and not leaf.config_path.startswith("hydra/")
                ]
        return self._known_leaves[job]

    def _leaf_problems(self, overrides: Sequence[str]) -> list[str]:
        """Return every mistake of the YAML files, one line each."""
        found = []
        with suppress(*COMPOSITION_ERRORS):
            for path, package in self._leaves(overrides):
                content = self._content(path)
                if isinstance(content, dict):
                    problems = [*check_leaf(content, package, self.schema)]
                else:
                    problems = [] if content is None else [Problem(path, " holds no keys", "lines such as seed: 3")]
                found += [describe(problem, self._file(path)) for problem in problems]
        return list(dict.fromkeys(found))

    def _holds(self, path: str, package: str, key: str) -> str | None:
        """Return the file of a leaf if it sets `key`, also if it sets it to ???."""
        if package and not key.startswith(f"{package}."):
            return None
        leaf = self._content(path)
        return self._file(path) if _has(leaf, key.removeprefix(f"{package}." if package else "")) else None

    def _content(self, path: str) -> object:
        """Return the plain content of a leaf; None if no file has it."""
        if path not in self._contents:
            self._contents[path] = None
            for source in self.loader.get_sources():
                if source.scheme() != "structured" and source.is_config(path):
                    self._contents[path] = OmegaConf.to_container(source.load_config(path).config)
                    break
        return self._contents[path]

    def _file(self, path: str) -> str:
        """Return the file of a config such as student/lab, relative to the working directory."""
        for source in self.loader.get_sources():
            if source.scheme() == "file" and source.is_config(path):
                return os.path.relpath(Path(source.path) / f"{path}.yaml")
        return path

    def _named_file(self, error: Exception) -> str:
        """Return the YAML that an error message names."""
        if named := re.match(r"In '([^']+)'", str(error)):
            return self._file(named.group(1))
        mark = getattr(error, "problem_mark", None)
        return f"{os.path.relpath(mark.name)}, line {mark.line + 1}" if mark is not None else "the configuration"

    def _explain_choice(self, error: MissingConfigException, line: str | None) -> str:
        missing = error.missing_cfg_file or ""
        group, _, choice = missing.rpartition("/")
        if not group:
            options = self.loader.get_group_options("", ObjectType.CONFIG)
            known = [name for name in options if not name.startswith("_") and not name.endswith("schema")]
            return f"--config-name = {missing}: expected a config{did_you_mean(missing, known)} [{COMMAND_LINE}]"
        known = sorted(self.loader.get_group_options(group, ObjectType.CONFIG))
        where = self._source(line) if line else self._named_file(error)
        hint = did_you_mean(choice, known)
        # The choices are listed already. A file of the user's own is found only in --config-dir.
        if not hint.startswith(" (did you mean"):
            own = next(Path.cwd().glob(f"*/{group}/{choice}.yaml"), None)
            directory = own.parents[len(Path(group).parts)].name if own else "DIR"
            hint = f"; a file of your own, {directory}/{group}/{choice}.yaml, needs --config-dir {directory}"
        return f"{group} = {choice}: expected one of {', '.join(known)}{hint} [{where}]"

    def _explain_override(self, error: Exception, line: str) -> str:
        if line.startswith("+") and ("Could not append" in str(error) or re.match(REPEATED, str(error))):
            key, _, value = line.lstrip("+").partition("=")
            expected = f"{key} without the +, because it has a value already"
            return describe(Problem(f"+{key}", format_value(key, value), expected), self._source(line))
        with suppress(HydraException):
            override = OverridesParser.create().parse_override(line)
            return describe(self._problem_of_override(error, override), self._source(line))
        if "=" not in line:
            return f"{_one_line(line)}: expected key=value, such as {_one_line(line)}=VALUE [{self._source(line)}]"
        return f"{_one_line(line)}: expected key=value; {_one_line(str(error))} [{self._source(line)}]"

    def _problem_of_override(self, error: Exception, override: Override) -> Problem:
        key = override.get_key_element().lstrip("+~")
        if override.is_sweep_override():
            return Problem(key, f" = {_one_line(override.input_line or '').partition('=')[2]}", ONE_VALUE)
        value = format_value(key, override.get_value_element_as_str())
        name = override.key_or_group
        if "@" in key or ("." not in name and name not in self.schema.keys):
            return Problem(key, value, f"a key or a group{did_you_mean(name, self._top_level())}")
        if name in self.schema.keys and not isinstance(error.__cause__, OmegaConfBaseException):
            return Problem(key, value, f"{self.schema.expects(name)}; {_one_line(str(error))}")
        return Problem(key, value, _expected(name, self.schema))

    def _unset_section(self, line: str) -> str | None:
        """Return the section that may be null above the key of an override; None if there is none."""
        return next(iter(self.schema.optional_sections(_key(line))), None)

    def _explain_unset(self, line: str) -> str:
        section = self._unset_section(line)
        expected = f"a choice for {section} first, such as judge@{section}=gpt_4, because it is null"
        return describe(
            Problem(_key(line), format_value(_key(line), line.partition("=")[2]), expected), self._source(line)
        )

    def _explain_leaf(self, error: Exception) -> str:
        """Explain a mistake in a file, which Hydra's message names."""
        if isinstance(error, MarkedYAMLError):
            remedy = "spaces instead of tabs" if "\\t" in str(error.problem) else "lines such as seed: 3"
            return f"not valid YAML: {_one_line(str(error.problem))}; expected {remedy} [{self._named_file(error)}]"
        text = f"{error}\n{error.__cause__ or ''}"
        if misplaced := re.search(MISPLACED, text):
            expected = f'"{GLOBAL_PACKAGE}" as the first line of the file: it chooses a file of another group'
            return describe(Problem(misplaced[2], f" overrides {misplaced[1]}", expected), self._named_file(error))
        match = re.search(r"full_key: (\S+)", text)
        if match is None:
            return f"{_one_line(text)} [{self._named_file(error)}]"
        key = match.group(1)
        value = re.search(r"[Vv]alue '(.*?)'", text)
        problem = Problem(key, format_value(key, value.group(1)) if value else "", _expected(key, self.schema))
        return describe(problem, self._named_file(error))

    def _top_level(self) -> list[str]:
        groups = [group for group in self.loader.list_groups("") if group != "hydra"]
        return sorted({*groups, *self.schema.names("")})


def _expected(key: str, schema: Schema) -> str:
    """Describe what was expected for a key that does not compose: its type, or a similar key."""
    if key.startswith(RATIO):
        names = [str(task) for task in TaskType]
        return f"a task type of the preset{did_you_mean(key.removeprefix(RATIO), names)}; add another with +{key}"
    if schema.is_mapping(key):
        return f"{schema.expects(key)}; add a new key with +{key}.<key>=<value>"
    if schema.is_mapping(key.rpartition(".")[0]):
        return f"an existing key, of {schema.expects(key)}; add a new key with +{key}=<value>"
    return schema.expects(key) if key in schema.keys else f"a key of the schema{schema.suggest(key)}"


def _culprit(error: Exception, overrides: Sequence[str]) -> str | None:
    """Return the override that caused a failed composition; None if a file caused it."""
    if isinstance(error, OverrideParseException):
        return error.override if error.override in overrides else None
    if isinstance(error, MissingConfigException):
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return next((line for line in overrides if re.match(rf"\+*{group}(@[^=]*)?={re.escape(choice)}$", line)), None)
    text = str(error)
    if text.startswith("In '"):
        return None
    if repeated := re.match(REPEATED, text):
        return next(
            (line for line in overrides if re.match(rf"\+{re.escape(repeated[1] or repeated[2])}=", line)), None
        )
    # Hydra's errors do not carry the override, only its text. The longest match avoids a prefix of another key.
    named = (line for line in overrides if line in text or f"'{_key(line)}'" in text)
    return max(named, key=len, default=None)


def _has(leaf: object, key: str) -> bool:
    """Return whether nested dicts hold a dotted key; the keys themselves have no dots."""
    for name in key.split("."):
        if not isinstance(leaf, dict) or name not in leaf:
            return False
        leaf = leaf[name]
    return True


def _key(line: str) -> str:
    return line.lstrip("+~").partition("=")[0]


def _sets_section_of(line: str, key: str) -> bool:
    """Return whether an override such as `student={model: x}` sets a section that holds `key`."""
    name, _, value = line.lstrip("+~").partition("=")
    return key.startswith(f"{name}.") and value.startswith("{")


def _one_line(text: str) -> str:
    """Return a message in one line, with possible secrets removed."""
    plain = redact_secrets(" ".join(text.partition("See https://hydra.cc")[0].split()))
    return re.sub(r"(?i)([\w.+~]*(?:key|token|secret|passw)\w*=)\S+|\bsk-\S+", r"\1(value not shown)", plain)


def sweep_params(cfg: DictConfig) -> list[str]:
    """Return the sweep parameters of a composed configuration as overrides."""
    params = cfg.hydra.sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in params.items()]


def collect(problems_of: Callable[[Sequence[str]], list[str]], jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return the mistakes of all jobs of a sweep, each once, with the first job that has it."""
    first: dict[str, Sequence[str]] = {}
    counts: dict[str, int] = {}
    for job in jobs:
        for problem in problems_of(job):
            first.setdefault(problem, job)
            counts[problem] = counts.get(problem, 0) + 1
    return [text + _share(counts[text], len(jobs), first[text]) for text in first]


def _share(count: int, jobs: int, first: Sequence[str]) -> str:
    names = " ".join(line for line in first if not line.startswith("hydra."))
    return "" if count == jobs else f" (in {count} of {jobs} jobs, first: {_one_line(names)})"
