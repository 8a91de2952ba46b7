"""Cost of one stage: an expected value and a bound, from the number and the size of its requests.

The expected value is that of replies that can all be used. The bound holds for any replies, see `request_sizes`. Each
request is made twice, its replies have the full length, and each is paid in every attempt.
"""

from dataclasses import dataclass, field

from tapir_exp.config import BudgetConfig, Config, LLMConfig
from tapir_exp.config.lab_parts import LAB_PREFIX
from tapir_exp.llm.failures import MAX_DETAIL_CHARS
from tapir_exp.llm.pricing import Price, get_price
from tapir_exp.pipeline.disk_sizes import student_bytes
from tapir_exp.pipeline.request_sizes import (
    COMPLAINT_TOKENS,
    THOUGHT_TOKENS,
    TOKENIZERS,
    Assumptions,
    RequestKind,
    RequestSize,
)
from tapir_exp.pipeline.round_counts import Count
from tapir_exp.pipeline.student_hours import StudentHours, fit_hours, generation_hours

MALFORMED_TOKENS = 2 * MAX_DETAIL_CHARS
"""Tokens that a malformed reply counts for at most: they are estimated by the message about it."""


@dataclass(frozen=True)
class Amounts:
    """Calls and their cost, or the work of a student.

    Attributes:
        calls: Number of paid calls.
        prompt_tokens: Prompt tokens of all calls.
        completion_tokens: Completion tokens of all calls, thoughts included.
        usd: Cost in USD; None if the price is unknown.
        gpu_hours: Hours of a fit or of generation on an A100; None if there is none, or the size of the student is
            unknown.
        core_hours: The same on one core of a CPU.
    """

    calls: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    usd: float | None = 0.0
    gpu_hours: float | None = None
    core_hours: float | None = None

    @property
    def tokens(self) -> float:
        """Return prompt plus completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Amounts") -> "Amounts":
        # Stages of calls have no hours of a student; an unknown price makes the sum unknown.
        return Amounts(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            None if self.usd is None or other.usd is None else self.usd + other.usd,
            _sum_of_known(self.gpu_hours, other.gpu_hours),
            _sum_of_known(self.core_hours, other.core_hours),
        )

    def within(self, most: "Amounts") -> "Amounts":
        """Return the amounts, none of them above that of `most`."""
        return Amounts(
            min(self.calls, most.calls),
            min(self.prompt_tokens, most.prompt_tokens),
            min(self.completion_tokens, most.completion_tokens),
            self.usd if self.usd is None or most.usd is None else min(self.usd, most.usd),
            self.gpu_hours,
            self.core_hours,
        )

    def __mul__(self, share: float) -> "Amounts":
        # Nothing costs nothing, even at an unknown price.
        return Amounts(
            share * self.calls,
            share * self.prompt_tokens,
            share * self.completion_tokens,
            share * (self.usd or 0.0) if self.usd is not None or not share else None,
            None if self.gpu_hours is None else share * self.gpu_hours,
            None if self.core_hours is None else share * self.core_hours,
        )


def _sum_of_known(one: float | None, other: float | None) -> float | None:
    known = [hours for hours in (one, other) if hours is not None]
    return sum(known) if known else None


@dataclass(frozen=True)
class StageEstimate:
    """Calls and cost of one stage.

    Attributes:
        stage: Name of the stage in the manifest.
        role: The role that is called; `fit` or `student` for the work of the student.
        expected: What is expected.
        most: The bound.
        usable: The bound if every first reply can be used: each request is made once and paid once.
        share: Two jobs whose stages have the same share run the stage once.
        disk: Bytes of the student that the stage stores; None if its size is unknown.
        llm: The model that is called; None for the work of the student.
        kind: The kind of the requests; None likewise.
    """

    stage: str
    role: str
    expected: Amounts
    most: Amounts
    usable: Amounts
    share: str
    disk: float | None = 0.0
    llm: LLMConfig | None = field(default=None, repr=False)
    kind: RequestKind | None = None


def call_stage(
    stage: str,
    role: str,
    llm: LLMConfig,
    calls: Count,
    size: RequestSize,
    share: str,
    assumed: Assumptions | None = None,
) -> StageEstimate:
    """Return a stage of so many requests, without replies that are requested again."""
    measured = None if assumed is None else assumed.measured_of(size.kind)
    # Measured completions include thoughts.
    thoughts = min(llm.reasoning_tokens, THOUGHT_TOKENS) if measured is None else 0
    paid = calls.expected * (1 + (measured.repeats if measured else 0.0))
    expected = _priced(get_price(llm, batched=llm.batch), paid, size.prompt, size.completion + thoughts)
    once = _priced(_dearest(llm), calls.most, size.most_prompt, size.limit + llm.reasoning_tokens)
    most = _most(llm, calls.most, size)
    # A probe may have met replies that were all requested again, or longer ones than later rows can have.
    return StageEstimate(stage, role, expected.within(most), most, once, share, llm=llm, kind=size.kind)


def _most(llm: LLMConfig, requests: float, size: RequestSize) -> Amounts:
    """Return the bound on requests that are all made twice, with replies of full length, each paid in every attempt."""
    attempts, room = most_attempts(llm), llm.reasoning_tokens
    first = size.limit + room
    # The second request has twice the limit, or shows the first reply with an error message.
    prompt = attempts * (2 * size.most_prompt + TOKENIZERS * first + COMPLAINT_TOKENS)
    completion = attempts * (max(first, MALFORMED_TOKENS) + max(2 * size.limit + room, MALFORMED_TOKENS))
    calls = 2 * attempts
    if llm.batch:
        # What a batch does not complete is requested singly, at the price of a single call.
        calls, prompt, completion = calls + 1, prompt + size.most_prompt, completion + max(first, MALFORMED_TOKENS)
    return _priced(_dearest(llm), requests * calls, prompt / calls, completion / calls)


def _dearest(llm: LLMConfig) -> Price | None:
    """Return the higher one of the prices of single and batched calls; None if neither is known."""
    prices = [price for price in (get_price(llm), get_price(llm, batched=llm.batch)) if price is not None]
    if not prices:
        return None
    return Price(max(price.prompt for price in prices), max(price.completion for price in prices))


def most_attempts(llm: LLMConfig) -> int:
    """Return how often a request may be paid until it has a usable reply; the lab's models always give one."""
    return 1 if llm.model.startswith(LAB_PREFIX) else llm.max_attempts


def _priced(price: Price | None, calls: float, prompt: float, completion: float) -> Amounts:
    """Return calls with so many tokens each."""
    usd = None if price is None else calls * (prompt * price.prompt + completion * price.completion)
    return Amounts(calls, calls * prompt, calls * completion, usd)


def generation_stage(config: Config, stage: str, tokens: float, most_tokens: float, share: str) -> StageEstimate:
    """Return a stage in which a student generates so many tokens."""
    expected, most = (
        _student_work(generation_hours(config.student, number)) for number in (tokens, max(tokens, most_tokens))
    )
    return StageEstimate(stage, "student", expected, most, most, share)


def fit_stage(
    config: Config, stage: str, budget: BudgetConfig, rows: Count, row_tokens: float, share: str
) -> StageEstimate:
    """Return a fit on so many rows with so many tokens each."""

    def amounts(number: float, of_row: float) -> Amounts:
        passes = (budget.epochs or 0.0) * number + budget.extra_rows
        tokens = budget.max_tokens if budget.max_tokens is not None else passes * of_row
        return _student_work(fit_hours(config.student, tokens))

    longest = max(row_tokens, config.student.max_length)
    expected, most = amounts(rows.expected, row_tokens), amounts(rows.most, longest)
    return StageEstimate(stage, "fit", expected, most, most, share, disk=student_bytes(config))


def _student_work(hours: StudentHours | None) -> Amounts:
    return Amounts() if hours is None else Amounts(gpu_hours=hours.gpu, core_hours=hours.core)
