"""Sizes of the evaluation suites for the plan: what the student writes, and what the judge is asked.

Numbers and lengths of the benchmarks are measured on their public files; other constants are assumptions, and ours.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from tapir_exp.config import Config, JudgeConfig, Suite
from tapir_exp.core.errors import EvaluationError
from tapir_exp.evals.alpaca_eval_files import load_outputs
from tapir_exp.evals.mt_bench_files import load_questions
from tapir_exp.lab.world import WORLDS
from tapir_exp.llm.chat import CHARS_PER_TOKEN
from tapir_exp.llm.usage import estimate_tokens
from tapir_exp.pipeline.request_sizes import TOKENIZERS

ALPACA_INSTRUCTIONS, ALPACA_INSTRUCTION, ALPACA_REFERENCE, ALPACA_PROMPT = 805, 41.0, 512.0, 300.0
"""Instructions of AlpacaEval 2.0; mean tokens of an instruction, of GPT-4's output and of the annotator's prompt."""
MT_QUESTIONS, MT_QUESTION, MT_REFERENCE, MT_PROMPT = 80, 51.0, 188.0, 208.0
"""Questions of MT-Bench, and mean tokens of a turn, of a reference answer to one and of the judge's prompts."""
MT_WITH_REFERENCE = 30 / 80
"""Share of the questions with a reference answer."""
MT_LIMIT = 2048
"""Length limit of a judgment; `evals/mt_bench.py` has it, too, and is not loaded for a plan."""
MT_JUDGMENT = 197.0
"""Mean tokens of 640 judgments by GPT-4."""
MT_LONGEST_QUESTION, MT_LONGEST_REFERENCE = 900.0, 900.0
"""Tokens that no turn and no reference answer of MT-Bench exceeds."""
LONGEST_OUTPUT = 4096.0
"""Tokens that no output of a given file is assumed to exceed."""
IFEVAL_PROMPTS = 541
"""Prompts of IFEval."""


@dataclass(frozen=True)
class SuiteSize:
    """Work of one suite on one student.

    Attributes:
        responses: Stage in which the student responds.
        generated: Tokens that it writes.
        most_generated: Bound on them.
        verdicts: Stage in which the judge is asked; None for a suite without a judge.
        judge: The judge; None likewise.
        calls: Calls of the judge.
        prompt: Prompt tokens of a call.
        completion: Completion tokens of a call.
        most_prompt: Bound on the prompt tokens of a call.
        limit: Length limit of a completion.
    """

    responses: str
    generated: float
    most_generated: float
    verdicts: str | None = None
    judge: JudgeConfig | None = None
    calls: int = 0
    prompt: float = 0.0
    completion: float = 0.0
    most_prompt: float = 0.0
    limit: int = 1


def suite_sizes(config: Config, response: float) -> Iterator[SuiteSize]:
    """Yield the sizes of the configured suites.

    Args:
        config: The whole configuration.
        response: Mean tokens of a response of the student.
    """
    for suite in config.evals.suites:
        match suite:
            case Suite.alpaca_eval:
                yield _alpaca_eval(config, response)
            case Suite.mt_bench:
                yield _mt_bench(config, response)
            case Suite.ifeval:
                written = min(response, config.evals.ifeval.max_new_tokens)
                most = IFEVAL_PROMPTS * config.evals.ifeval.max_new_tokens
                yield SuiteSize("ifeval-answers", IFEVAL_PROMPTS * written, most)
            case Suite.lab:
                cells = sum(len(family.levels) for family in WORLDS[config.lab.world].families)
                problems = config.evals.problems_per_level * cells
                yield SuiteSize("lab-suite", problems * response, problems * config.student.max_new_tokens)


def suites_of_run(config: Config) -> list[Suite]:
    """Return the suites of the students of a run; none if that of the lab is alone, since it is the benchmark."""
    suites = [suite for suite in config.evals.suites if suite is not Suite.lab or config.evals.problems_per_level]
    return [] if set(suites) <= {Suite.lab} else suites


def evaluated_rounds(config: Config) -> range:
    """Return the rounds after which a run evaluates its student on the suites."""
    last = config.curriculum.rounds
    if not suites_of_run(config):
        return range(0)
    return range(0 if config.evals.every_round else last, last + 1)


def asked_judge(config: Config, suite: Suite) -> JudgeConfig:
    """Return the judge of a suite: its own, or else that of the run."""
    return config.evals.judge_of(suite) or config.judge


def _alpaca_eval(config: Config, response: float) -> SuiteSize:
    settings = config.evals.alpaca_eval
    written = min(response, settings.max_new_tokens)
    count, shown, most_shown = _references(settings.reference)
    # Known annotations are not counted: which of them fit is known only when the outputs are.
    calls = count if config.evals.ask_judge else 0
    prompt = ALPACA_PROMPT + shown + written
    generates = not settings.outputs
    judge = asked_judge(config, Suite.alpaca_eval)
    longest = LONGEST_OUTPUT if settings.outputs else settings.max_new_tokens
    return SuiteSize(
        "alpaca-outputs",
        generates * count * written,
        generates * count * settings.max_new_tokens,
        "alpaca-annotations",
        judge,
        calls,
        prompt,
        1.0,
        TOKENIZERS * ALPACA_PROMPT + most_shown + TOKENIZERS * longest,
        1,
    )


def _mt_bench(config: Config, response: float) -> SuiteSize:
    settings = config.evals.mt_bench
    written = min(response, settings.max_new_tokens)
    turns = _turns(settings.questions)
    # The judge of a second turn also gets the first one: 1.5 turns on average.
    prompt = MT_PROMPT + 1.5 * (MT_QUESTION + written + MT_WITH_REFERENCE * MT_REFERENCE)
    generates = not settings.answers
    judge, calls = asked_judge(config, Suite.mt_bench), turns if config.evals.ask_judge else 0
    longest = LONGEST_OUTPUT if settings.answers else settings.max_new_tokens
    most_turn = TOKENIZERS * (MT_LONGEST_QUESTION + MT_LONGEST_REFERENCE + longest)
    return SuiteSize(
        "mt-answers",
        generates * turns * written,
        generates * turns * settings.max_new_tokens,
        "mt-judgments",
        judge,
        calls,
        prompt,
        MT_JUDGMENT,
        2 * TOKENIZERS * MT_PROMPT + 2 * most_turn,
        MT_LIMIT,
    )


@cache
def _references(path: str | None) -> tuple[int, float, float]:
    """Return the number of instructions, the mean tokens of one with the output of the baseline, and a bound on it."""
    with suppress(EvaluationError):
        if path is not None:
            texts = [row.instruction + row.output for row in load_outputs(Path(path))]
            return len(texts), fmean(map(len, texts)) / CHARS_PER_TOKEN, fmean(map(estimate_tokens, texts))
    shown = ALPACA_INSTRUCTION + ALPACA_REFERENCE
    return ALPACA_INSTRUCTIONS, shown, TOKENIZERS * shown


@cache
def _turns(path: str | None) -> int:
    """Return the number of turns to judge."""
    with suppress(EvaluationError):
        if path is not None:
            return sum(min(2, len(row.turns)) for row in load_questions(path))
    return 2 * MT_QUESTIONS
