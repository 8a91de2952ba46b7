"""The whole configuration, and `parse`, which turns a composed Hydra configuration into plain dataclasses once.

Docstrings mark the paper's values with their status in `docs/paper_facts.md`: P (seen in a primary source),
S (second-hand), D (derived), R (remembered). Every other default is ours.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tapir_exp.config.classifier import ClassifierConfig
from tapir_exp.config.classify import ClassifyConfig
from tapir_exp.config.curriculum import CurriculumConfig, RoundsMode
from tapir_exp.config.evals import EvalsConfig
from tapir_exp.config.judge import JudgeConfig
from tapir_exp.config.lab import LabConfig
from tapir_exp.config.llm import SpendConfig
from tapir_exp.config.logger import LoggerConfig
from tapir_exp.config.problems import format_value
from tapir_exp.config.schema import Schema
from tapir_exp.config.seeds import SeedsConfig
from tapir_exp.config.sft import BudgetConfig, SFTConfig
from tapir_exp.config.student import StudentConfig
from tapir_exp.config.sweep import SweepConfig
from tapir_exp.config.task_mix import TaskMixConfig
from tapir_exp.config.teacher import TeacherConfig
from tapir_exp.config.trainer import TrainerConfig
from tapir_exp.config.validate import find_problems
from tapir_exp.core.errors import ConfigError

Root = TypeVar("Root")


@dataclass
class Config:
    """Configuration of one run."""

    name: str = MISSING
    """Name of the experiment: the first part of its run directory."""
    arm: str = "tapir"
    """Variant of the method, for tables that compare variants."""
    seed: int = 0
    """Seed of everything random in the run: fits, draws and sampled calls."""
    outputs: str = "outputs"
    """Directory of the runs, and of the store that they share."""
    time_budget_minutes: float | None = None
    """Minutes that the run may take, from which some experiments derive their sizes; null if the sizes are given."""
    fit_to_budget: bool = False
    """Whether fewer seeds are drawn if `spend` or `time_budget_minutes` does not pay for all of them by the estimate
    of `tapir plan`. Ours."""
    check_first_rows: bool = True
    """Whether a run checks the first 20 labels, responses and verdicts before it pays for the rest. It stops if most
    failed, if all rows get one useless label, or if nearly every verdict depends on the order of the responses.
    Ours."""
    allow_lab_parts: bool = False
    """Whether parts of the lab may be mixed with real ones, such as a real student with the lab's seeds."""
    spend: SpendConfig = field(default_factory=SpendConfig)
    """Spend limits."""
    lab: LabConfig = field(default_factory=LabConfig)
    """The synthetic lab."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """The teacher T."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """The judge J."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """The classifier of task types."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """The student S."""
    task_mix: TaskMixConfig = field(default_factory=TaskMixConfig)
    """The target distribution of task types."""
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    """The seed instructions D."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """The rounds."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """Supervised fine-tuning."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Lightning's Trainer."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """Weights & Biases."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """Name and baseline of a sweep."""
    evals: EvalsConfig = field(default_factory=EvalsConfig)
    """Benchmarks."""


SCHEMA = Schema(Config)
CLASSIFY_SCHEMA = Schema(ClassifyConfig)


def register_schema() -> None:
    """Register the schemas with Hydra; each is the first entry of the defaults list of a primary config."""
    ConfigStore.instance().store(name="schema", node=Config, provider="tapir_exp")
    ConfigStore.instance().store(name="classify_schema", node=ClassifyConfig, provider="tapir_exp")


def parse(cfg: DictConfig, origin: Callable[[str], str] | None = None) -> Config:
    """Turn a composed configuration into plain dataclasses; `curriculum.rounds_mode` is applied.

    Args:
        cfg: The composed configuration.
        origin: Returns the file, or the command line, that set a dotted key.

    Returns:
        The configuration of one run.

    Raises:
        ConfigError: Lists every mistake: key, value, what was expected, and what set it.
    """
    return _weigh_tasks(_merge_rounds(_parse(cfg, Config, SCHEMA, origin)))


def parse_classify(cfg: DictConfig, origin: Callable[[str], str] | None = None) -> ClassifyConfig:
    """Turn the composed configuration of `tapir classify` into plain dataclasses, like `parse`."""
    return _parse(cfg, ClassifyConfig, CLASSIFY_SCHEMA, origin)


def to_yaml(config: Config | ClassifyConfig) -> str:
    """Return the configuration as YAML that `parse` or `parse_classify` reads back to the same dataclasses."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _parse(cfg: DictConfig, root: type[Root], schema: Schema, origin: Callable[[str], str] | None) -> Root:
    typed, rejected = (cfg, []) if OmegaConf.get_type(cfg) is root else _typed(cfg, root, schema)
    problems = [*rejected, *find_problems(typed, schema, origin or (lambda key: "the configuration"))]
    if problems:
        raise ConfigError(problems)
    config = OmegaConf.to_object(typed)
    assert isinstance(config, root)
    return config


def _typed(cfg: DictConfig, root: type, schema: Schema) -> tuple[DictConfig, list[str]]:
    """Put a configuration that was not composed by Hydra into the schema; also return the values of wrong types."""
    typed, rejected = OmegaConf.structured(root), []
    plain = OmegaConf.to_container(cfg)
    assert isinstance(plain, dict)
    for key, value in _leaves(plain, "", schema):
        try:
            schema.set_sections_above(key, typed)
            OmegaConf.update(typed, key, value, merge=False, force_add=True)
        except OmegaConfBaseException:
            rejected.append(f"{key}{format_value(key, value)}: expected {schema.expects(key)} [the configuration]")
    return typed, rejected


def _leaves(section: Mapping[Any, Any], prefix: str, schema: Schema) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        key = f"{prefix}{name}"
        if schema.is_section(key) and isinstance(value, dict):
            yield from _leaves(value, f"{key}.", schema)
        else:
            yield key, value


def _merge_rounds(config: Config) -> Config:
    """Apply `curriculum.rounds_mode`; applying it twice changes nothing."""
    plan, sft = config.curriculum, config.sft
    match plan.rounds_mode:
        case RoundsMode.merged if plan.rounds > 1:
            sft = replace(sft, round_stage=_times(sft.round_stage, plan.rounds))
            rows = None if plan.rows_per_round is None else plan.rows_per_round * plan.rounds
            plan = replace(plan, rounds=1, rows_per_round=rows, rows_per_seed=plan.rows_per_seed * plan.rounds)
        case RoundsMode.seeds_only:
            sft = replace(sft, seed_stage=_with_rounds(sft.seed_stage, sft.round_stage, plan))
            plan = replace(plan, rounds=0)
    return replace(config, curriculum=plan, sft=sft)


def _with_rounds(seeds: BudgetConfig, one_round: BudgetConfig, plan: CurriculumConfig) -> BudgetConfig:
    """Return the budget of the fit on the seeds and of all rounds together; `_check_budgets` has checked the units."""
    if seeds.max_tokens is not None:
        return BudgetConfig(max_tokens=seeds.max_tokens + plan.rounds * (one_round.max_tokens or 0))
    passes = plan.rounds * (one_round.epochs or 0.0)
    if plan.rows_per_round is not None:
        return replace(seeds, extra_rows=seeds.extra_rows + round(passes * plan.rows_per_round))
    return replace(seeds, epochs=(seeds.epochs or 0.0) + passes * plan.rows_per_seed)


def _weigh_tasks(config: Config) -> Config:
    """Apply `task_mix.weights`; applying it twice changes nothing."""
    mix = config.task_mix
    if not mix.weights or mix.target_distribution is None:
        return config
    weights = {name.replace("_", " "): weight for name, weight in mix.weights.items()}
    weighted = {name: share * weights.get(name, 1.0) for name, share in mix.target_distribution.items()}
    total = math.fsum(weighted.values())
    shares = {name: share / total for name, share in weighted.items()}
    return replace(config, task_mix=replace(mix, target_distribution=shares, weights={}))


def _times(budget: BudgetConfig, factor: int) -> BudgetConfig:
    """Return the budget of `factor` fits; epochs stay, because the rows are multiplied already."""
    return budget if budget.max_tokens is None else BudgetConfig(max_tokens=budget.max_tokens * factor)
