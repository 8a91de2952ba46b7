"""Settings of the benchmarks."""

from dataclasses import dataclass, field
from enum import Enum

from tapir_exp.config.judge import JudgeConfig


class Suite(Enum):
    """Benchmark of `tapir evaluate`, and of the students of a run."""

    lab = "lab"
    alpaca_eval = "alpaca_eval"
    mt_bench = "mt_bench"
    ifeval = "ifeval"


@dataclass
class AlpacaEvalConfig:
    """AlpacaEval 2.0. Its annotator is the judge's model, with the prompt and settings of alpaca_eval (P)."""

    judge: JudgeConfig | None = None
    """Annotator, of which `llm` and `max_failure_rate` count; null uses the judge of the run. Choose one as
    judge@evals.alpaca_eval.judge=gpt_4_1106_preview, the official annotator."""
    reference: str | None = None
    """JSON or JSON lines of the instructions with the outputs of the baseline; null uses GPT-4's of
    tatsu-lab/alpaca_eval."""
    prompt: str | None = None
    """Prompt of the annotator, alpaca_eval_clf.txt; null takes it from an installed alpaca_eval."""
    length_control_data: str | None = None
    """df_gamed.csv of alpaca_eval, to which the length-controlled win rate is fitted; null omits that figure."""
    outputs: str | None = None
    """A model_outputs.json to judge; null generates the outputs."""
    annotations: str | None = None
    """An annotations.json to resume: its annotations of these outputs by this annotator are reused."""
    annotator: str | None = None
    """Name of the annotator in annotations.json; null derives it from the judge's model."""
    temperature: float = 0.7
    """Sampling temperature of the outputs; 0.7 is alpaca_eval's for local models, TAPIR's is unknown. 0 is greedy."""
    max_new_tokens: int = 2048
    """Longest output, in tokens; 2048 is alpaca_eval's for local models."""


@dataclass
class MTBenchConfig:
    """MT-Bench with single-answer grading, with the prompts and settings of FastChat (P)."""

    judge: JudgeConfig | None = None
    """Judge, of which `llm` and `max_failure_rate` count; null uses the judge of the run. Choose one as
    judge@evals.mt_bench.judge=gpt_4, the official judge."""
    questions: str | None = None
    """FastChat's question.jsonl; null takes it from an installed flexeval."""
    references: str | None = None
    """Reference answers in FastChat's format; null takes GPT-4's from an installed flexeval."""
    judge_prompts: str | None = None
    """FastChat's judge_prompts.jsonl (fastchat/llm_judge/data of its repository)."""
    answers: str | None = None
    """A model_answer file to judge; null generates the answers."""
    judgments: str | None = None
    """A model_judgment file to resume: its judgments of this model by this judge are reused."""
    max_new_tokens: int = 1024
    """Longest answer, in tokens; 1024 is FastChat's."""


@dataclass
class IFEvalConfig:
    """IFEval: instructions that a program can verify, with the checks of lm_eval."""

    questions: str | None = None
    """JSON lines in the format of google/IFEval; null takes them from the hub."""
    max_new_tokens: int = 1280
    """Longest response, in tokens, greedy; 1280 is lm_eval's."""


@dataclass
class EvalsConfig:
    """Evaluation: the lab's benchmark within a run, held-out instructions, and the suites."""

    problems_per_level: int = 20
    """Problems of each family of the lab at each level; 0 skips the benchmark."""
    suites: list[Suite] = field(default_factory=lambda: [Suite.lab])
    """Suites of `tapir evaluate`, in order. A run applies them to its students, too; its suite `lab` is the benchmark
    of `problems_per_level`, which every student gets."""
    every_round: bool = False
    """Whether a run applies `suites` to each of its students, S_0 included, instead of the last one."""
    run: str | None = None
    """Directory of a run, or of a sweep, to evaluate: the last student of each run, with the settings of that run; null
    uses `student.model`."""
    name: str | None = None
    """Name of the model in the files of the benchmarks; null uses the name of its run, or of the model."""
    seed: int = 0
    """Seed of sampled responses."""
    ask_judge: bool = True
    """Whether the judge is asked for what `alpaca_eval.annotations` or `mt_bench.judgments` lack. False makes no calls
    and needs no key: what has no judgment is dropped from the figures and counted."""
    alpaca_eval: AlpacaEvalConfig = field(default_factory=AlpacaEvalConfig)
    """AlpacaEval 2.0."""
    mt_bench: MTBenchConfig = field(default_factory=MTBenchConfig)
    """MT-Bench."""
    ifeval: IFEvalConfig = field(default_factory=IFEvalConfig)
    """IFEval."""
    held_out_size: int = 0
    """Instructions of the seeds that are held out from training; 0 skips the comparison. Every student is compared with
    its predecessor on them, by the judge, and by perplexity on the teacher's responses."""

    def judge_of(self, suite: Suite) -> JudgeConfig | None:
        """Return the judge that a suite has of its own; None if it has none."""
        return {Suite.alpaca_eval: self.alpaca_eval.judge, Suite.mt_bench: self.mt_bench.judge}.get(suite)
