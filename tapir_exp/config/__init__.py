"""Typed configuration: one module for each Hydra group, beside `conf/<group>/`; every class is exported here."""

from tapir_exp.config.classifier import (
    ClassifierConfig,
    ClassifierFitConfig,
    ClassifierKind,
    ClassifyConfig,
    ClassifyJob,
    LabelledDataConfig,
)
from tapir_exp.config.curriculum import CurriculumConfig, Difficulty, RolloutConfig, RoundsMode
from tapir_exp.config.data import DecontaminationConfig, SeedsConfig, SeedSource, TaskMixConfig
from tapir_exp.config.evals import AlpacaEvalConfig, EvalsConfig, IFEvalConfig, MTBenchConfig, Suite
from tapir_exp.config.judge import JudgeConfig, JudgeProtocol
from tapir_exp.config.lab import LabConfig, LabStudentConfig
from tapir_exp.config.llm import LLMConfig, ServerConfig, SpendConfig
from tapir_exp.config.root import (
    CLASSIFY_SCHEMA,
    SCHEMA,
    Config,
    LoggerConfig,
    WandbMode,
    parse,
    parse_classify,
    register_schema,
    to_yaml,
)
from tapir_exp.config.student import ArchitectureConfig, ChatTemplate, EngineKind, Precision, StudentConfig, VllmConfig
from tapir_exp.config.teacher import TeacherConfig
from tapir_exp.config.training import BudgetConfig, Launcher, LoraConfig, Method, SFTConfig, StrategyName, TrainerConfig

__all__ = [
    "CLASSIFY_SCHEMA",
    "SCHEMA",
    "AlpacaEvalConfig",
    "ArchitectureConfig",
    "BudgetConfig",
    "ChatTemplate",
    "ClassifierConfig",
    "ClassifierFitConfig",
    "ClassifierKind",
    "ClassifyConfig",
    "ClassifyJob",
    "Config",
    "CurriculumConfig",
    "DecontaminationConfig",
    "Difficulty",
    "EngineKind",
    "EvalsConfig",
    "IFEvalConfig",
    "JudgeConfig",
    "JudgeProtocol",
    "LLMConfig",
    "LabConfig",
    "LabStudentConfig",
    "LabelledDataConfig",
    "Launcher",
    "LoggerConfig",
    "LoraConfig",
    "MTBenchConfig",
    "Method",
    "Precision",
    "RolloutConfig",
    "RoundsMode",
    "SFTConfig",
    "SeedSource",
    "SeedsConfig",
    "ServerConfig",
    "SpendConfig",
    "StrategyName",
    "StudentConfig",
    "Suite",
    "TaskMixConfig",
    "TeacherConfig",
    "TrainerConfig",
    "VllmConfig",
    "WandbMode",
    "parse",
    "parse_classify",
    "register_schema",
    "to_yaml",
]
