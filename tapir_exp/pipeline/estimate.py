"""Estimate the calls and the cost of a run before its first call. Every assumption is a constant here, and ours.

Counts that follow from the configuration are exact. Counts that depend on students that are not trained yet are upper
bounds (rows that the teacher writes) or assumptions (length of completions).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from math import ceil, floor
from statistics import fmean

from tapir_exp.config import (
    BudgetConfig,
    ClassifierKind,
    Config,
    Difficulty,
    GapRows,
    JudgedStudent,
    JudgeProtocol,
    LLMConfig,
    Suite,
)
from tapir_exp.core.records import Example
from tapir_exp.core.task_types import TaskType
from tapir_exp.data.formats import SeedPair
from tapir_exp.distillation.curriculum.sampling import alpha_for_round, part_of_round
from tapir_exp.distillation.judge.requests import presentation_orders
from tapir_exp.distillation.prompts import load_prompt, refinement_style
from tapir_exp.llm.chat import CHARS_PER_TOKEN
from tapir_exp.llm.pricing import get_price
from tapir_exp.pipeline.disk_sizes import student_bytes
from tapir_exp.pipeline.suite_sizes import evaluated_rounds, suite_sizes
from tapir_exp.student.training.memory import num_parameters
from tapir_exp.student.training.schedule import annealing_budget, round_schedule

LABEL_TOKENS = 4
"""Completion that names a task type."""
RATING_TOKENS = 2
"""Completion that rates the complexity of an instruction."""
VERDICT_TOKENS = 120
"""Completion with scores and reasons; a preference by log-probabilities is one token."""
THOUGHT_TOKENS = 1000
"""Thoughts before each reply of a reasoning model, which are paid as completion; within its `reasoning_tokens`."""
RESPONSE_TOKENS = 250.0
"""Response of the teacher to a seed, if no seed has a response to measure."""
REFINED_LENGTH_RATIO = 1.5
"""Length of a refined response relative to the original."""
PEAK_FLOPS = 312e12
"""Peak of the GPU of the estimated hours: an A100 in bfloat16, by its data sheet."""
UTILISATION = 0.4
"""Share of the peak that training reaches."""
FLOPS_PER_TOKEN = 6
"""Training FLOPs per parameter and token, forward and backward (Kaplan et al., 2020)."""
GENERATION_FLOPS_PER_TOKEN = 2
"""FLOPs per parameter and generated token (Kaplan et al., 2020)."""
GENERATION_UTILISATION = 0.05
"""Share of the peak that generation in batches reaches; it is limited by memory."""


@dataclass(frozen=True)
class SeedStatistics:
    """Number of seeds, mean length of instruction and response in tokens, and number of seeds without a response."""

    seeds: int
    instruction: float
    response: float
    unanswered: int = 0


@dataclass(frozen=True)
class StageEstimate:
    """Calls and cost of one stage.

    Attributes:
        stage: Name of the stage in the manifest.
        role: The role that is called, or `fit`.
        calls: Number of calls.
        prompt_tokens: Prompt tokens of all calls.
        completion_tokens: Completion tokens of all calls.
        usd: Cost in USD; None if the price is unknown.
        gpu_hours: Hours of the fit; None if there is none, or the size of the student is unknown.
        share: Two jobs whose stages have the same share run the stage once.
        at_most: Whether the figures are upper bounds.
        disk: Bytes of the student that the stage stores; None if its size is unknown.
    """

    stage: str
    role: str
    calls: int
    prompt_tokens: float
    completion_tokens: float
    usd: float | None
    gpu_hours: float | None
    share: str
    at_most: bool = False
    disk: float | None = 0.0


def seed_statistics(seeds: Sequence[Example | SeedPair]) -> SeedStatistics:
    """Measure seeds, at least one."""
    responses = [len(seed.response) for seed in seeds if seed.response]
    return SeedStatistics(
        seeds=len(seeds),
        instruction=fmean(len(seed.instruction) for seed in seeds) / CHARS_PER_TOKEN,
        response=fmean(responses) / CHARS_PER_TOKEN if responses else RESPONSE_TOKENS,
        unanswered=len(seeds) - len(responses),
    )


def estimate_run(config: Config, sizes: SeedStatistics) -> list[StageEstimate]:
    """Return every stage of a run that calls a chat model or fits a student, in order."""
    return list(_before_the_rounds(config, sizes)) + [
        stage for number in range(1, config.curriculum.rounds + 1) for stage in _round(config, sizes, number)
    ]


def estimate_suites(config: Config, response: float, number: int | None, share: str) -> Iterator[StageEstimate]:
    """Estimate the suites of one student: its responses, and the calls of the judges.

    Args:
        config: The whole configuration.
        response: Mean tokens of a response of the student.
        number: Round of the student; None for `tapir evaluate`.
        share: Text that is equal for two jobs with the same student.
    """
    share = f"{share} {_share(config.evals)}"
    end = "" if number is None else f"-{number}"
    for suite in suite_sizes(config, response):
        if suite.generated:
            hours = _gpu_hours(config, GENERATION_FLOPS_PER_TOKEN * suite.generated, GENERATION_UTILISATION)
            yield StageEstimate(f"{suite.responses}{end}", "student", 0, 0.0, 0.0, 0.0, hours, share)
        if suite.judge is not None and suite.calls:
            shape = (suite.calls, suite.prompt, suite.completion, f"{share} {_share(suite.judge.llm)}")
            yield _calls(f"{suite.verdicts}{end}", "judge", suite.judge.llm, *shape)


def _suites_of_run(config: Config, sizes: SeedStatistics, number: int, share: str) -> Iterator[StageEstimate]:
    """Estimate the suites of a student of a run; the problems of the lab are no calls and not counted."""
    if number in evaluated_rounds(config):
        others: list[Suite] = [suite for suite in config.evals.suites if suite is not Suite.lab]
        # The student is assumed to write as long as the responses that it is trained on.
        ratio = REFINED_LENGTH_RATIO if config.curriculum.refine and number else 1.0
        part = replace(config, evals=replace(config.evals, suites=others))
        yield from estimate_suites(part, ratio * sizes.response, number, share)


def _gpu_hours(config: Config, flops_per_parameter: float, utilisation: float) -> float | None:
    parameters = num_parameters(config.student)
    return None if parameters is None else parameters * flops_per_parameter / (PEAK_FLOPS * utilisation) / 3600


def _before_the_rounds(config: Config, sizes: SeedStatistics) -> Iterator[StageEstimate]:
    row = sizes.instruction + sizes.response
    student = _share(config.seeds, config.student, config.sft, config.trainer, config.seed, config.lab)
    if held_out := config.evals.held_out_size:
        share = _share(config.seeds, config.teacher, held_out)
        yield _calls(
            "held_out_teacher_responses",
            "teacher",
            config.teacher.llm,
            held_out,
            sizes.instruction,
            sizes.response,
            share,
        )
    responses = _share(config.seeds, config.teacher)
    if sizes.unanswered:
        # The same completions serve `teacher_responses`.
        shape = (sizes.unanswered, sizes.instruction, sizes.response, responses)
        yield _calls("seeds_with_responses", "teacher", config.teacher.llm, *shape)
    yield _fit(config, 0, config.sft.seed_stage, sizes.seeds, row, student)
    yield from _held_out(config, 0, sizes, f"{student} {_share(config.judge, held_out)}")
    yield from _suites_of_run(config, sizes, 0, student)
    if config.curriculum.rounds == 0:
        return
    yield from _labels(config, "task_labels", sizes.seeds, sizes, _share(config.seeds, config.classifier))
    asked = sizes.seeds - sizes.unanswered
    yield _calls(
        "teacher_responses", "teacher", config.teacher.llm, asked, sizes.instruction, sizes.response, responses
    )
    yield from _scores(config, 0, sizes.seeds, sizes, f"{student} {responses} {_share(config.judge)}")


def _round(config: Config, sizes: SeedStatistics, number: int) -> Iterator[StageEstimate]:
    """Estimate a round whose pool is empty, so that the teacher writes every row: an upper bound."""
    teacher, curriculum, rows = config.teacher, config.curriculum, config.curriculum.round_rows
    share = f"{number} {_share(config)}"
    pair = sizes.instruction + sizes.response
    yield from _expansions(config, sizes, number, share)
    fresh = curriculum.gap_rows is GapRows.fresh
    if fresh:
        for stage in _scores(config, number, _new_rows(config, number), sizes, share, prefix="fresh_"):
            yield replace(stage, at_most=True)
    if curriculum.refine:
        prompt = _prompt_tokens("refine") + len(refinement_style(TaskType.MATH).text) / CHARS_PER_TOKEN + pair
        yield _calls(
            f"train_mix-{number}", "teacher", teacher.llm, rows, prompt, REFINED_LENGTH_RATIO * sizes.response, share
        )
    ratio = REFINED_LENGTH_RATIO if curriculum.refine else 1.0
    row = sizes.instruction + ratio * sizes.response
    # Every earlier mix may be replayed; an upper bound, since a row of two mixes is trained once.
    trained = rows + (number - 1) * round(curriculum.replay * rows)
    yield _fit(config, number, config.sft.round_stage, trained, row, share)
    schedule = round_schedule(config.sft, number, curriculum.rounds)
    if config.sft.judged_student is JudgedStudent.annealed and schedule.end_rate > 0:
        yield _fit(config, number, annealing_budget(config.sft), trained, row, share, stage="judged_student")
    yield from _held_out(config, number, sizes, share)
    yield from _suites_of_run(config, sizes, number, share)
    if number < curriculum.rounds and (not fresh or curriculum.report_trained_gaps):
        yield from _scores(config, number, rows, sizes, share)


def _expansions(config: Config, sizes: SeedStatistics, number: int, share: str) -> Iterator[StageEstimate]:
    """Estimate the calls that write, classify and rate the new rows of a round."""
    teacher, rows = config.teacher, _new_rows(config, number)
    pair = sizes.instruction + sizes.response
    calls = ceil(rows / teacher.num_output_samples)
    shown = _prompt_tokens("expand") + teacher.num_in_context_samples * pair
    stage = f"expansions-{number}"
    yield _calls(stage, "teacher", teacher.llm, calls, shown, teacher.num_output_samples * pair, share, True)
    yield from _labels(config, stage, rows, sizes, share, at_most=True)
    if teacher.max_complexity_gap is not None:
        rated = rows + calls * teacher.num_in_context_samples
        prompt = _prompt_tokens("judge/complexity") + sizes.instruction
        yield _calls(stage, "judge", config.judge.llm, rated, prompt, RATING_TOKENS, share, at_most=True)


def _new_rows(config: Config, number: int) -> int:
    """Return the most rows that the teacher may be asked for in a round.

    Each further pass that replaces easy rows asks for at most the hard part of the mix.
    """
    curriculum = config.curriculum
    surplus = curriculum.fresh_surplus if curriculum.gap_rows is GapRows.fresh else 0.0
    rows = floor(curriculum.round_rows * (1 + surplus))
    if curriculum.drop_easy_expansions:
        hard = ceil(alpha_for_round(number, curriculum.alpha, curriculum.delta_alpha) * rows)
        rows += (config.teacher.max_expansion_passes - 1) * hard
    limit = part_of_round(curriculum.max_new_rows, number, curriculum.rounds)
    return rows if limit is None else min(rows, limit)


def _labels(
    config: Config, stage: str, rows: int, sizes: SeedStatistics, share: str, *, at_most: bool = False
) -> Iterator[StageEstimate]:
    """Estimate the classifier's calls; a trained classifier makes none."""
    if config.classifier.kind is not ClassifierKind.llm:
        return
    prompt = _prompt_tokens("label") + len(", ".join(TaskType)) / CHARS_PER_TOKEN + sizes.instruction
    yield _calls(stage, "classifier", config.classifier.llm, rows, prompt, LABEL_TOKENS, share, at_most)


def _scores(
    config: Config, number: int, rows: int, sizes: SeedStatistics, share: str, prefix: str = ""
) -> Iterator[StageEstimate]:
    """Estimate the judge's verdicts, and the further calls of the configured difficulty."""
    curriculum = config.curriculum
    yield _verdicts(config, f"{prefix}verdicts-{number}", rows, sizes, share)
    if curriculum.difficulty is Difficulty.eps:
        rollouts, drawn = rows * curriculum.rollouts.num_samples, _share(curriculum.rollouts, config.seed)
        yield _verdicts(config, f"{prefix}rollout_verdicts-{number}", rollouts, sizes, f"{share} {drawn}")
    if curriculum.difficulty is Difficulty.judge_rated:
        prompt = _prompt_tokens("judge/complexity") + sizes.instruction
        yield _calls(f"{prefix}ratings-{number}", "judge", config.judge.llm, rows, prompt, VERDICT_TOKENS, share)


def _held_out(config: Config, number: int, sizes: SeedStatistics, share: str) -> Iterator[StageEstimate]:
    """Estimate the verdicts that compare a student with its predecessor, if instructions are held out."""
    if config.evals.held_out_size:
        yield _verdicts(config, f"held_out_verdicts-{number}", config.evals.held_out_size, sizes, share)


def _verdicts(config: Config, stage: str, rows: int, sizes: SeedStatistics, share: str) -> StageEstimate:
    judge, orders = config.judge, presentation_orders(config.judge)
    shown = len(orders[0].shown) * sizes.response + (sizes.response if judge.reference else 0.0)
    prompt = _prompt_tokens(f"judge/{judge.protocol.value}") + sizes.instruction + shown
    completion = 1 if judge.protocol is JudgeProtocol.pair_logprobs else VERDICT_TOKENS
    return _calls(stage, "judge", judge.llm, rows * len(orders), prompt, completion, share)


def _calls(
    stage: str,
    role: str,
    llm: LLMConfig,
    calls: int,
    prompt: float,
    completion: float,
    share: str,
    at_most: bool = False,
) -> StageEstimate:
    """Return a stage of calls with these prompt and completion tokens each, thoughts not counted."""
    completion += min(llm.reasoning_tokens, THOUGHT_TOKENS)
    price = get_price(llm, batched=llm.batch)
    usd = None if price is None else calls * (prompt * price.prompt + completion * price.completion)
    return StageEstimate(stage, role, calls, calls * prompt, calls * completion, usd, None, share, at_most)


def _fit(
    config: Config,
    number: int,
    budget: BudgetConfig,
    rows: int,
    row_tokens: float,
    share: str,
    stage: str = "student",
) -> StageEstimate:
    passes = (budget.epochs or 0.0) * rows + budget.extra_rows
    tokens = budget.max_tokens if budget.max_tokens is not None else passes * row_tokens
    hours = _gpu_hours(config, FLOPS_PER_TOKEN * tokens, UTILISATION)
    return StageEstimate(f"{stage}-{number}", "fit", 0, 0.0, 0.0, 0.0, hours, share, disk=student_bytes(config))


def _prompt_tokens(name: str) -> float:
    return len(load_prompt(name).text) / CHARS_PER_TOKEN


def _share(*sections: object) -> str:
    """Return a text that is equal for two jobs with equal sections, which then share the stage."""
    plain = [asdict(part) if is_dataclass(part) and not isinstance(part, type) else part for part in sections]
    return repr(plain)
