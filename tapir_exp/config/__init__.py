"""Typed configuration: one module for each Hydra group, beside `conf/<group>/`; every class is exported here."""

from tapir_exp.config.classifier import (
    ClassifierConfig,
    FitConfig,
    LabelledConfig,
    LabellerKind,
    LabellingConfig,
    LabellingJob,
)
from tapir_exp.config.curriculum import CurriculumConfig, Difficulty, Merge, RolloutConfig
from tapir_exp.config.data import DecontaminationConfig, SeedsConfig, SeedSource, TasksConfig
from tapir_exp.config.evals import AlpacaEvalConfig, EvalsConfig, IFEvalConfig, MTBenchConfig, Suite
from tapir_exp.config.judge import JudgeConfig, JudgeProtocol, Orders
from tapir_exp.config.lab import LabConfig, LabStudentConfig
from tapir_exp.config.llm import LLMConfig, ServerConfig, SpendConfig
from tapir_exp.config.root import (
    LABELLING_SCHEMA,
    SCHEMA,
    Config,
    LoggerConfig,
    WandbMode,
    parse,
    parse_labelling,
    register_schema,
    to_yaml,
)
from tapir_exp.config.student import ChatTemplate, EngineKind, Precision, ShapeConfig, StudentConfig, VllmConfig
from tapir_exp.config.teacher import TeacherConfig
from tapir_exp.config.training import BudgetConfig, Launcher, LoraConfig, Method, SFTConfig, StrategyName, TrainerConfig

__all__ = [
    "LABELLING_SCHEMA",
    "SCHEMA",
    "AlpacaEvalConfig",
    "BudgetConfig",
    "ChatTemplate",
    "ClassifierConfig",
    "Config",
    "CurriculumConfig",
    "DecontaminationConfig",
    "Difficulty",
    "EngineKind",
    "EvalsConfig",
    "FitConfig",
    "IFEvalConfig",
    "JudgeConfig",
    "JudgeProtocol",
    "LLMConfig",
    "LabConfig",
    "LabStudentConfig",
    "LabelledConfig",
    "LabellerKind",
    "LabellingConfig",
    "LabellingJob",
    "Launcher",
    "LoggerConfig",
    "LoraConfig",
    "MTBenchConfig",
    "Merge",
    "Method",
    "Orders",
    "Precision",
    "RolloutConfig",
    "SFTConfig",
    "SeedSource",
    "SeedsConfig",
    "ServerConfig",
    "ShapeConfig",
    "SpendConfig",
    "StrategyName",
    "StudentConfig",
    "Suite",
    "TasksConfig",
    "TeacherConfig",
    "TrainerConfig",
    "VllmConfig",
    "WandbMode",
    "parse",
    "parse_labelling",
    "register_schema",
    "to_yaml",
]
