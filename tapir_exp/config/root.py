"""The configuration: its schema, and `parse`, which turns a composed Hydra config into plain dataclasses once.

Where a value is the paper's, its docstring says so with the status of PAPER.md (P seen in a primary source,
S second-hand, D derived, R remembered); every other default is ours.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tapir_exp.config.classifier import ClassifierConfig, ClassifyConfig
from tapir_exp.config.curriculum import CurriculumConfig, RoundsMode
from tapir_exp.config.data import SeedsConfig, TaskMixConfig
from tapir_exp.config.evals import EvalsConfig
from tapir_exp.config.judge import JudgeConfig
from tapir_exp.config.lab import LabConfig
from tapir_exp.config.llm import SpendConfig
from tapir_exp.config.problems import format_value
from tapir_exp.config.schema import Schema
from tapir_exp.config.student import StudentConfig
from tapir_exp.config.teacher import TeacherConfig
from tapir_exp.config.training import BudgetConfig, SFTConfig, TrainerConfig
from tapir_exp.config.validate import find_problems
from tapir_exp.core.errors import ConfigError

Root = TypeVar("Root")


class WandbMode(Enum):
    """How runs reach Weights & Biases."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class LoggerConfig:
    """Weights & Biases."""

    mode: WandbMode = WandbMode.offline
    project: str = "tapir"
    entity: str | None = None


@dataclass
class Config:
    """One run."""

    name: str = MISSING
    """Name of the experiment: the first part of its run directory."""
    arm: str = "tapir"
    """Which variant of the method this is, for tables that compare them."""
    seed: int = 0
    """Seed of everything random in the run: fits, draws and sampled calls."""
    outputs: str = "outputs"
    """Directory of runs, and of the store that they share."""
    time_budget_minutes: float | None = None
    """Minutes that the run is to take on two cores. Experiments that know how long things take there derive their sizes
    from it; null where sizes are given as they are."""
    spend: SpendConfig = field(default_factory=SpendConfig)
    lab: LabConfig = field(default_factory=LabConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    task_mix: TaskMixConfig = field(default_factory=TaskMixConfig)
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    evals: EvalsConfig = field(default_factory=EvalsConfig)


SCHEMA = Schema(Config)


CLASSIFY_SCHEMA = Schema(ClassifyConfig)


def register_schema() -> None:
    """Make the schemas known to Hydra, where each is the first entry of a primary config's defaults list."""
    ConfigStore.instance().store(name="schema", node=Config, provider="tapir_exp")
    ConfigStore.instance().store(name="classify_schema", node=ClassifyConfig, provider="tapir_exp")


def parse(cfg: DictConfig, origin: Callable[[str], str] | None = None) -> Config:
    """Turn a composed configuration into plain dataclasses, with merged rounds summed up.

    origin: tells from a dotted key which file, or the command line, set it.
    Raises ConfigError, which lists every mistake: key, value, what was expected, and where it was set.
    """
    return _merge_rounds(_parse(cfg, Config, SCHEMA, origin))


def parse_classify(cfg: DictConfig, origin: Callable[[str], str] | None = None) -> ClassifyConfig:
    """As `parse`, for a job of `tapir-label`."""
    return _parse(cfg, ClassifyConfig, CLASSIFY_SCHEMA, origin)


def to_yaml(config: Config | ClassifyConfig) -> str:
    """The configuration as YAML that `parse` (or `parse_classify`) reads back to the same dataclasses."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _parse(cfg: DictConfig, root: type[Root], schema: Schema, origin: Callable[[str], str] | None) -> Root:
    typed, refused = (cfg, []) if OmegaConf.get_type(cfg) is root else _typed(cfg, root, schema)
    problems = [*refused, *find_problems(typed, schema, origin or (lambda key: "the configuration"))]
    if problems:
        raise ConfigError(problems)
    config = OmegaConf.to_object(typed)
    assert isinstance(config, root)
    return config


def _typed(cfg: DictConfig, root: type, schema: Schema) -> tuple[DictConfig, list[str]]:
    """A configuration that did not pass through Hydra, put into the schema; and what does not fit its types."""
    typed, refused = OmegaConf.structured(root), []
    plain = OmegaConf.to_container(cfg)
    assert isinstance(plain, dict)
    for key, value in _leaves(plain, "", schema):
        try:
            OmegaConf.update(typed, key, value, merge=False, force_add=True)
        except OmegaConfBaseException:
            refused.append(f"{key}{format_value(key, value)}: expected {schema.expects(key)} [the configuration]")
    return typed, refused


def _leaves(section: Mapping[Any, Any], prefix: str, schema: Schema) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        key = f"{prefix}{name}"
        if schema.is_section(key) and isinstance(value, dict):
            yield from _leaves(value, f"{key}.", schema)
        else:
            yield key, value


def _merge_rounds(config: Config) -> Config:
    """Apply `curriculum.rounds_mode`; doing it again changes nothing."""
    plan, sft = config.curriculum, config.sft
    match plan.rounds_mode:
        case RoundsMode.merged if plan.rounds > 1:
            sft = replace(sft, round_stage=_times(sft.round_stage, plan.rounds))
            plan = replace(plan, rounds=1, rows_per_round=plan.rows_per_round * plan.rounds)
        case RoundsMode.seeds_only:
            tokens = (sft.seed_stage.max_tokens or 0) + plan.rounds * (sft.round_stage.max_tokens or 0)
            sft = replace(sft, seed_stage=BudgetConfig(max_tokens=tokens))
            plan = replace(plan, rounds=0)
    return replace(config, curriculum=plan, sft=sft)


def _times(budget: BudgetConfig, factor: int) -> BudgetConfig:
    """As long a fit as `factor` fits; epochs stay, since the rows already multiply."""
    return budget if budget.max_tokens is None else BudgetConfig(max_tokens=budget.max_tokens * factor)
