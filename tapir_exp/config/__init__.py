"""Typed configuration: one module for each Hydra group, next to `conf/<group>/`. Every class is exported here."""

from tapir_exp.config.classifier import ClassifierConfig, ClassifierKind
from tapir_exp.config.classifier_data import LabelledDataConfig
from tapir_exp.config.classifier_training import ClassifierFitConfig
from tapir_exp.config.classify import ClassifyConfig, ClassifyJob
from tapir_exp.config.curriculum import CurriculumConfig, Difficulty, GapRows, RolloutConfig, RoundsMode, SelectBy
from tapir_exp.config.evals import AlpacaEvalConfig, EvalsConfig, IFEvalConfig, MTBenchConfig, Suite
from tapir_exp.config.judge import JudgeConfig, JudgeProtocol, PanelConfig, PanelMemberConfig, PanelScore
from tapir_exp.config.lab import LabConfig, LabStudentConfig, WorldName
from tapir_exp.config.llm import LengthLimit, ListPriceConfig, LLMConfig, Reasoning, ServerConfig, SpendConfig
from tapir_exp.config.logger import LoggerConfig, TrackerKind, WandbMode
from tapir_exp.config.root import CLASSIFY_SCHEMA, SCHEMA, Config, parse, parse_classify, register_schema, to_yaml
from tapir_exp.config.seeds import ColumnsConfig, DecontaminationConfig, MissingResponses, SeedsConfig, SeedSource
from tapir_exp.config.sft import (
    BudgetConfig,
    JudgedStudent,
    LoraConfig,
    LRSchedule,
    Method,
    OptimizerState,
    RoundStart,
    SFTConfig,
)
from tapir_exp.config.student import ArchitectureConfig, ChatTemplate, EngineKind, Precision, StudentConfig, VllmConfig
from tapir_exp.config.sweep import SweepConfig
from tapir_exp.config.task_mix import TaskMixConfig
from tapir_exp.config.teacher import TeacherConfig
from tapir_exp.config.trainer import Launcher, StrategyName, TrainerConfig

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
    "ColumnsConfig",
    "Config",
    "CurriculumConfig",
    "DecontaminationConfig",
    "Difficulty",
    "EngineKind",
    "EvalsConfig",
    "GapRows",
    "IFEvalConfig",
    "JudgeConfig",
    "JudgeProtocol",
    "JudgedStudent",
    "LLMConfig",
    "LRSchedule",
    "LabConfig",
    "LabStudentConfig",
    "LabelledDataConfig",
    "Launcher",
    "LengthLimit",
    "ListPriceConfig",
    "LoggerConfig",
    "LoraConfig",
    "MTBenchConfig",
    "Method",
    "MissingResponses",
    "OptimizerState",
    "PanelConfig",
    "PanelMemberConfig",
    "PanelScore",
    "Precision",
    "Reasoning",
    "RolloutConfig",
    "RoundStart",
    "RoundsMode",
    "SFTConfig",
    "SeedSource",
    "SeedsConfig",
    "SelectBy",
    "ServerConfig",
    "SpendConfig",
    "StrategyName",
    "StudentConfig",
    "Suite",
    "SweepConfig",
    "TaskMixConfig",
    "TeacherConfig",
    "TrackerKind",
    "TrainerConfig",
    "VllmConfig",
    "WandbMode",
    "WorldName",
    "parse",
    "parse_classify",
    "register_schema",
    "to_yaml",
]
