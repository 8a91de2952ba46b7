"""Settings of the benchmarks."""

from dataclasses import dataclass, field
from enum import Enum


class Suite(Enum):
    """A benchmark of `tapir-evaluate`."""

    lab = "lab"
    alpaca_eval = "alpaca_eval"
    mt_bench = "mt_bench"
    ifeval = "ifeval"


@dataclass
class AlpacaEvalConfig:
    """AlpacaEval 2.0. Its annotator is the judge's model, asked by alpaca_eval's own prompt and settings (P)."""

    reference: str | None = None
    """JSON or JSONL of the instructions with the baseline's outputs; null takes GPT-4's of tatsu-lab/alpaca_eval."""
    prompt: str | None = None
    """The annotator's prompt, alpaca_eval_clf.txt; null takes it out of an installed alpaca_eval."""
    length_control_data: str | None = None
    """alpaca_eval's df_gamed.csv, which the length-controlled win rate is fitted with; null leaves that figure out."""
    outputs: str | None = None
    """A model_outputs.json to judge; null lets the student answer."""
    annotations: str | None = None
    """An annotations.json to go on from: what it holds of these outputs and this annotator is not asked again."""
    annotator: str | None = None
    """Name of the annotator in annotations.json; null derives it from the judge's model."""
    temperature: float = 0.7
    """Of the student's answers; 0.7 is alpaca_eval's for local models, TAPIR's is not known. 0 is greedy."""
    max_new_tokens: int = 2048
    """Longest answer of the student in tokens; 2048 is alpaca_eval's for local models."""


@dataclass
class MTBenchConfig:
    """MT-Bench with single-answer grading. The judge is asked by FastChat's own prompts and settings (P)."""

    questions: str | None = None
    """FastChat's question.jsonl; null takes it out of an installed flexeval."""
    references: str | None = None
    """Reference answers in FastChat's form; null takes GPT-4's out of an installed flexeval."""
    judge_prompts: str | None = None
    """FastChat's judge_prompts.jsonl (fastchat/llm_judge/data of its repository)."""
    answers: str | None = None
    """A model_answer file to judge; null lets the student answer."""
    judgments: str | None = None
    """A model_judgment file to go on from: what it holds of this model and this judge is not asked again."""
    max_new_tokens: int = 1024
    """Longest answer of the student in tokens; 1024 is FastChat's."""


@dataclass
class IFEvalConfig:
    """IFEval: instructions whose following a program can check; the checks are lm_eval's."""

    questions: str | None = None
    """JSONL in the form of google/IFEval; null takes it from the hub."""
    max_new_tokens: int = 1280
    """Longest answer of the student in tokens, which is greedy; 1280 is lm_eval's."""


@dataclass
class EvalsConfig:
    """How students are measured: the lab's benchmark within a run, and the suites of `tapir-evaluate`."""

    problems_per_level: int = 20
    """Problems of the lab for each family at each level; 0 skips the benchmark."""
    suites: list[Suite] = field(default_factory=lambda: [Suite.lab])
    """What `tapir-evaluate` does, in order."""
    run: str | None = None
    """Directory of a run whose last student is evaluated, as that run asks it; null takes `student.model`."""
    name: str | None = None
    """What the student is called in the benchmarks' files; null names it after its run, or its model."""
    seed: int = 0
    """Seed of answers that are sampled."""
    alpaca_eval: AlpacaEvalConfig = field(default_factory=AlpacaEvalConfig)
    mt_bench: MTBenchConfig = field(default_factory=MTBenchConfig)
    ifeval: IFEvalConfig = field(default_factory=IFEvalConfig)
    held_out_size: int = 0
    """Instructions of the seeds' own source that are kept out of training, on which every student of a run is compared
    with the one before it, by the judge, and its perplexity on the teacher's responses is taken; 0 skips that."""
