"""Where a value of a composed configuration was set, and what a failed composition means for a person."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tapir_exp.config.problems import Problem, describe, format_value
from tapir_exp.config.root import SCHEMA, Config, parse
from tapir_exp.config.schema import Schema, did_you_mean
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.task_types import TaskType

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)
"""What a failed composition raises."""
COMMAND_LINE = "command line"
RATIO = "task_mix.target_distribution."
PRIMARY = "config"
"""Name of the main job's configuration."""
ONE_VALUE = "one value; several are a sweep, which takes --multirun; quote a text that holds a comma"


class Composer:
    """Composes the configuration of one command, and knows which file said what.

    config_name: the primary config; typed: the overrides that a person typed, by which those of a sweep's YAML are
    told apart. schema, read: what the command's configuration must fit, and the function that parses it.
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

    def problems(self, overrides: Sequence[str]) -> list[str]:
        """Every mistake of a job: an override that does not compose is noted and left out, the rest is parsed."""
        left = list(overrides)
        found: list[str] = []
        while True:
            try:
                self.read(self._compose(left), lambda key: self.origin(key, left))
                return found
            except ConfigError as error:
                return [*found, *error.problems]
            except COMPOSITION_ERRORS as error:
                found.append(self.explain(error, left))
                if (culprit := _culprit(error, left)) is None:
                    return found
                left.remove(culprit)

    def config(self, overrides: Sequence[str]) -> Config:
        """The configuration of a job. Raises ConfigError and the errors of a composition."""
        return parse(self._compose(overrides), lambda key: self.origin(key, overrides))

    def sweep_params(self) -> list[str]:
        """What the sweep's YAML goes through, as overrides. Raises the errors of a composition."""
        return sweep_params(self.loader.load_configuration(self.config_name, [], run_mode=RunMode.MULTIRUN))

    def origin(self, key: str, overrides: Sequence[str]) -> str:
        """The file that set a dotted key last, or the command line, or the default of the schema."""
        for line in reversed(overrides):
            if re.match(rf"[+~]*{re.escape(key)}(\.|=|$)", line) or _sets_section_of(line, key):
                return self._source(line)
        for path, package in self._leaves(overrides):
            if file := self._holds(path, package, key):
                return file
        return "tapir_exp/config"

    def explain(self, error: Exception, overrides: Sequence[str]) -> str:
        """A failed composition as a line of text: key, value, what was expected, and the file."""
        line = _culprit(error, overrides)
        if isinstance(error, MissingConfigException):
            return self._explain_choice(error, line)
        if line is not None:
            return self._explain_override(error, line)
        return self._explain_leaf(error)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        cfg = self.loader.load_configuration(self.config_name, list(overrides), run_mode=RunMode.RUN)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        return cfg

    def _source(self, line: str) -> str:
        """The command line, or the sweep's file where nobody typed this key."""
        typed = any(_key(other) == _key(line) for other in self.typed)
        return COMMAND_LINE if typed or self.config_name == PRIMARY else self._file(self.config_name)

    def _leaves(self, overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Paths and packages of the composed YAMLs, the last merged first."""
        with suppress(*COMPOSITION_ERRORS):
            tree = self.loader.compute_defaults_list(self.config_name, list(overrides), RunMode.RUN)
            for leaf in reversed(tree.defaults):
                if leaf.config_path and not leaf.config_path.startswith("hydra/"):
                    yield leaf.config_path, leaf.package or ""

    def _holds(self, path: str, package: str, key: str) -> str | None:
        """The file of a leaf if it sets `key`, be it to ???."""
        if package and not key.startswith(f"{package}."):
            return None
        for source in self.loader.get_sources():
            if source.scheme() != "structured" and source.is_config(path):
                leaf = OmegaConf.to_container(source.load_config(path).config)
                return self._file(path) if _has(leaf, key.removeprefix(f"{package}." if package else "")) else None
        return None

    def _file(self, path: str) -> str:
        """The file of a config such as student/lab, from here where it lies below."""
        for source in self.loader.get_sources():
            if source.scheme() == "file" and source.is_config(path):
                return os.path.relpath(Path(source.path) / f"{path}.yaml")
        return path

    def _named_file(self, error: Exception) -> str:
        """The YAML that a message names."""
        if named := re.match(r"In '([^']+)'", str(error)):
            return self._file(named.group(1))
        mark = getattr(error, "problem_mark", None)
        return f"{os.path.relpath(mark.name)}, line {mark.line + 1}" if mark is not None else "the configuration"

    def _explain_choice(self, error: MissingConfigException, line: str | None) -> str:
        missing = error.missing_cfg_file or ""
        group, _, choice = missing.rpartition("/")
        if not group:
            known = self.loader.get_group_options("", ObjectType.CONFIG)
            return f"--config-name = {missing}: expected a config{did_you_mean(missing, known)} [{COMMAND_LINE}]"
        known = sorted(self.loader.get_group_options(group, ObjectType.CONFIG))
        where = self._source(line) if line else self._named_file(error)
        hint = did_you_mean(choice, known).replace(f" (there are: {', '.join(known)})", "")
        return f"{group} = {choice}: expected one of {', '.join(known)}{hint} [{where}]"

    def _explain_override(self, error: Exception, line: str) -> str:
        with suppress(HydraException):
            override = OverridesParser.create().parse_override(line)
            return describe(self._judge_override(error, override), self._source(line))
        return f"{_one_line(line)}: expected key=value; {_one_line(str(error))} [{self._source(line)}]"

    def _judge_override(self, error: Exception, override: Override) -> Problem:
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

    def _explain_leaf(self, error: Exception) -> str:
        """A mistake in a file, which Hydra's message names."""
        text = f"{error}\n{error.__cause__ or ''}"
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
    """What is right in the place of a key that does not compose: its type, or the key that was meant."""
    if key.startswith(RATIO):
        names = [str(task) for task in TaskType]
        return f"a task type of the preset{did_you_mean(key.removeprefix(RATIO), names)}; another takes a plus: +{key}"
    if schema.is_mapping(key):
        return f"{schema.expects(key)}; a key that it lacks takes a plus: +{key}.<key>=<value>"
    if schema.is_mapping(key.rpartition(".")[0]):
        return f"a key that is there, of {schema.expects(key)}; another takes a plus: +{key}=<value>"
    return schema.expects(key) if key in schema.keys else f"a key of the schema{schema.suggest(key)}"


def _culprit(error: Exception, overrides: Sequence[str]) -> str | None:
    """The override that a failed composition complains about, if it was one."""
    if isinstance(error, OverrideParseException):
        return error.override if error.override in overrides else None
    if isinstance(error, MissingConfigException):
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return next((line for line in overrides if re.match(rf"\+*{group}(@[^=]*)?={re.escape(choice)}$", line)), None)
    text = str(error)
    if text.startswith("In '"):
        return None
    named = (line for line in overrides if line in text or f"'{_key(line)}'" in text)
    return max(named, key=len, default=None)


def _has(leaf: object, key: str) -> bool:
    """Whether nested dicts hold a dotted key; keys themselves have no dots."""
    for name in key.split("."):
        if not isinstance(leaf, dict) or name not in leaf:
            return False
        leaf = leaf[name]
    return True


def _key(line: str) -> str:
    return line.lstrip("+~").partition("=")[0]


def _sets_section_of(line: str, key: str) -> bool:
    """Whether an override such as `student={model: x}` sets a section that holds `key`."""
    name, _, value = line.lstrip("+~").partition("=")
    return key.startswith(f"{name}.") and value.startswith("{")


def _one_line(text: str) -> str:
    """A message in one line, without what may be a secret."""
    plain = " ".join(text.partition("See https://hydra.cc")[0].split())
    return re.sub(r"(?i)([\w.+~]*(?:key|token|secret|passw)\w*=)\S+|\bsk-\S+", r"\1(value not shown)", plain)


def sweep_params(cfg: DictConfig) -> list[str]:
    """What a sweep's composed configuration goes through, as overrides."""
    params = cfg.hydra.sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in params.items()]


def collect(problems_of: Callable[[Sequence[str]], list[str]], jobs: Sequence[Sequence[str]]) -> list[str]:
    """The mistakes of every job of a sweep, each once, with the first job that has it."""
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
