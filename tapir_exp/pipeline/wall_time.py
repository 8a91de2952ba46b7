"""Wall time of the stages of a plan at the configured concurrency and limits. Every assumption is a constant, and ours.

The bound counts a time-out for every paid call. Pauses that a provider requires are not part of it, nor are fits and
generation that are slower than assumed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tapir_exp.config import Config, LLMConfig
from tapir_exp.config.lab_parts import LAB_PREFIX
from tapir_exp.pipeline.hardware import num_cores, uses_cpu
from tapir_exp.pipeline.local_checks import used_models
from tapir_exp.pipeline.request_sizes import Assumptions
from tapir_exp.pipeline.round_counts import Count
from tapir_exp.pipeline.stage_costs import Amounts, StageEstimate

FIRST_TOKEN_S = 0.6
"""Seconds until a provider's first token."""
TOKENS_PER_S = 50
"""Tokens that a provider writes in a second, for each call."""
LAB_CALL_S = 0.003
"""Seconds of a call of the lab's models, which take turns in this process."""
LAB_SPREAD = 10
"""Bound on the time of the lab's models, relative to what is expected."""
AUTO_IN_FLIGHT = 32
"""Calls in flight that `concurrency: auto` is assumed to find; the bound counts one."""
START_S = 2.0
"""Seconds in which a fit or generation starts: 1.5 to 4 with the lab's student (`benchmarks/plan`). Ours."""
STUDENT_SPREAD = 10
"""Bound on the time of fits and generation, relative to what is computed. Ours."""
BATCH_S, LONGEST_BATCH_S = 3600.0, 24 * 3600.0
"""Seconds of a batch: expected, and at most."""
MINUTE = 60.0


def in_flight(llm: LLMConfig) -> Count:
    """Return the calls in flight at once: those that are expected, and those that are certain."""
    if isinstance(llm.concurrency, str):
        return Count(min(AUTO_IN_FLIGHT, llm.max_concurrency), 1)
    return Count(llm.concurrency, llm.concurrency)


def stage_seconds(config: Config, stage: StageEstimate, assumed: Assumptions) -> Count:
    """Return the wall time of a stage in seconds; of a student of unknown size, only its start is counted."""
    if stage.llm is None:
        expected, most = (_student_seconds(config, part) for part in (stage.expected, stage.most))
        return Count(expected, STUDENT_SPREAD * most)
    return call_seconds(stage, stage.llm, assumed)


def call_seconds(stage: StageEstimate, llm: LLMConfig, assumed: Assumptions) -> Count:
    """Return the wall time of the calls of a stage in seconds."""
    calls, measured = stage.expected.calls, assumed.measured_of(stage.kind)
    slots, length = in_flight(llm), stage.expected.completion_tokens / calls if calls else 0.0
    is_lab = llm.model.startswith(LAB_PREFIX)
    each = FIRST_TOKEN_S + length / TOKENS_PER_S
    if measured is not None and measured.seconds is not None:
        each = measured.seconds
        if llm.server.command or is_lab:
            # A server on this machine gets no faster with more calls than the probe had in flight.
            slots = Count(min(slots.expected, measured.requests), 1)
    elif is_lab:
        slots, each = Count(1, 1), LAB_CALL_S
    expected = max(calls * each / slots.expected, min(calls, 1) * each, _limited(llm, stage.expected))
    if is_lab:
        return Count(expected, LAB_SPREAD * expected + LAB_CALL_S * stage.most.calls)
    if llm.batch and calls:
        expected = BATCH_S
    # A call ends at its time-out, and pauses of 1, 2, 4, ... seconds follow.
    longest = llm.timeout_s + sum(min(2.0**n, 300.0) for n in range(llm.max_attempts - 1)) / llm.max_attempts
    most = max(stage.most.calls / slots.most, min(stage.most.calls, 1)) * longest + _limited(llm, stage.most)
    return Count(expected, max(expected, most + llm.batch * LONGEST_BATCH_S * bool(calls)))


def without_overlap(config: Config, stages: Sequence[tuple[StageEstimate, Count]]) -> Iterator[Count]:
    """Yield the times of stages; verdicts while the student responds count what they take longer than the responses."""
    judge = config.judge
    streams = judge.stream_while_generating and not judge.writes_notes and not any(llm.batch for llm in judge.models)
    responses = {stage.stage: seconds.expected for stage, seconds in stages if stage.role == "student"}
    for stage, seconds in stages:
        prefix, separator, number = stage.stage.rpartition("verdicts-")
        meanwhile = responses.get(f"{prefix}student_responses-{number}") if separator and streams else None
        if meanwhile is None or stage.role != "judge":
            yield seconds
        else:
            yield replace(seconds, expected=max(0.0, seconds.expected - meanwhile))


def describe_assumptions(config: Config, assumed: Assumptions) -> list[str]:
    """Return lines with the assumptions of the wall time."""
    timed = any(measured.seconds is not None for measured in assumed.measured.values())
    models = [(role, llm) for role, llm in used_models(config) if not llm.model.startswith(LAB_PREFIX)]
    lines = []
    if models:
        call = "as long as the probe's" if timed else f"{FIRST_TOKEN_S} s and 1 s for {TOKENS_PER_S} tokens"
        lines.append(f"wall time: a call takes {call}; ≤ counts a time-out for each")
    auto = [f"{role} {in_flight(llm).expected:.0f}" for role, llm in models if isinstance(llm.concurrency, str)]
    if auto:
        lines.append(
            f"wall time: concurrency: auto is assumed to find {', '.join(auto)} calls in flight; ≤ counts one at a time"
        )
    batched = [role for role, llm in models if llm.batch]
    if batched:
        lines.append(f"wall time: a batch ({', '.join(batched)}) is assumed to take an hour; ≤ counts a day")
    return lines


def _limited(llm: LLMConfig, amounts: Amounts) -> float:
    """Return the seconds that the limits per minute take; the calls of the first minute start at once."""
    limits = ((llm.requests_per_minute, amounts.calls), (llm.tokens_per_minute, amounts.tokens))
    return max(max(0.0, amount / limit - 1) * MINUTE if limit else 0.0 for limit, amount in limits)


def _student_seconds(config: Config, amounts: Amounts) -> float:
    """Return the start and the computed hours of a fit or of generation; of an unknown size, the start alone."""
    hours = (amounts.core_hours or 0.0) / num_cores() if uses_cpu(config.trainer) else amounts.gpu_hours or 0.0
    return START_S + 3600 * hours
