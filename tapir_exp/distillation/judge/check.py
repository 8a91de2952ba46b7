"""Check a judge on labelled pairs before a run rests on it."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tapir_exp.config import JudgeConfig, JudgeProtocol
from tapir_exp.core.errors import EvaluationError
from tapir_exp.core.json_rows import read_whole_rows, validate_row
from tapir_exp.core.records import PresentationOrder, Verdict
from tapir_exp.distillation.judge.noise import GapNoise, estimate_noise, order_leads
from tapir_exp.distillation.judge.notes import count_notes
from tapir_exp.distillation.judge.requests import ResponsePair, presentations
from tapir_exp.distillation.judge.score import reparse_verdict, score_pairs, split_panel
from tapir_exp.evals.judge_agreement import JudgeAgreement, JudgedPair, measure_judge
from tapir_exp.evals.judge_replays import is_llmbar_result, read_llmbar_results
from tapir_exp.evals.labelled_pairs import LabelledPair
from tapir_exp.llm.chat import ChatModel
from tapir_exp.llm.ledger import Spend

MOST_REASONS = 3
"""Most reasons of failures that are named."""


@dataclass(frozen=True)
class JudgeCheck:
    """Result of checking one judge.

    Attributes:
        name: Name of the judge and its protocol.
        agreement: Its figures on the labelled pairs.
        judged: Its verdicts, pair by pair.
        noise: Noise of its gaps, by the disagreement of the orders; None if they do not determine it.
        calls: Calls that the pairs take; 0 for replayed replies.
        spend: Paid and cached calls, tokens and price; None for replayed replies.
        seconds: Wall time of the calls; None for replayed replies.
    """

    name: str
    agreement: JudgeAgreement
    judged: tuple[JudgedPair, ...]
    noise: GapNoise | None
    calls: int = 0
    spend: Spend | None = None
    seconds: float | None = None


def judge_pairs(
    pairs: Sequence[LabelledPair], chat: ChatModel, config: JudgeConfig, label: str
) -> tuple[Sequence[Verdict], float]:
    """Return the verdicts on labelled pairs, and the wall time in seconds. The first answer counts as the teacher's.

    A pair that cannot be scored is part of the result, so no share of failures stops the check.
    """
    started = time.monotonic()
    shown = [ResponsePair(pair.id, pair.instruction, pair.first, pair.second, pair.reference) for pair in pairs]
    verdicts = score_pairs(shown, chat, replace(config, max_failure_rate=1.0), label)
    return verdicts, time.monotonic() - started


def count_calls(pairs: Sequence[LabelledPair], config: JudgeConfig) -> int:
    """Return the number of calls that a check takes, retries and cached completions not considered."""
    referenced = {pair.instruction: pair.reference is not None for pair in pairs}
    notes = sum(count_notes(config, has_reference=given) for given in referenced.values())
    return len(pairs) * len(presentations(config)) + notes


def members_of(name: str, pairs: Sequence[LabelledPair], verdicts: Sequence[Verdict], delta: float) -> list[JudgeCheck]:
    """Return the check of each judge of a panel, by its replies in the panel; empty without a panel."""
    by_judge: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        for judge, of_judge in split_panel(verdict).items():
            by_judge.setdefault(judge, []).append(of_judge)
    if len(by_judge) < 2:
        return []
    return [check_verdicts(f"{name}: {judge}", pairs, of_judge, delta) for judge, of_judge in by_judge.items()]


def common_failures(verdicts: Sequence[Verdict]) -> list[tuple[str, int]]:
    """Return the most common reasons of replies without scores, with their numbers."""
    reasons = Counter(reply.failure for verdict in verdicts for reply in verdict.replies if reply.failure is not None)
    return reasons.most_common(MOST_REASONS)


def check_verdicts(name: str, pairs: Sequence[LabelledPair], verdicts: Sequence[Verdict], delta: float) -> JudgeCheck:
    """Compare verdicts with the labels of their pairs, which have the same order."""
    judged = tuple(_compare(pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True))
    return JudgeCheck(name, measure_judge(judged, delta), judged, estimate_noise(verdicts))


def replay(name: str, path: Path, pairs: Sequence[LabelledPair], delta: float) -> JudgeCheck:
    """Check a judge by a file of its raw replies; no model is called.

    Args:
        name: Name of the judge.
        path: One of LLMBar's result files, which holds its own pairs, or the verdicts that a check has written.
        pairs: The labelled pairs that the verdicts are about.
        delta: Threshold of the hard set, in points.

    Raises:
        EvaluationError: If a row cannot be read, or verdicts are about other pairs.
    """
    rows = list(read_whole_rows(path, EvaluationError))
    if not rows:
        raise EvaluationError(f"{path} holds no replies.")
    if is_llmbar_result(rows[0][1]):
        judged = tuple(read_llmbar_results(path))
        return JudgeCheck(name, measure_judge(judged, delta), judged, None)
    verdicts = {}
    for source, fields in rows:
        stored = validate_row(Verdict, fields, EvaluationError, source)
        again = reparse_verdict(stored, _protocol_of(stored))
        # How a panel combined its scores is not in the file, so an unchanged verdict stays as it is.
        verdicts[stored.id] = stored if again.replies == stored.replies else again
    missing = [pair.id for pair in pairs if pair.id not in verdicts]
    if missing or not pairs:
        problem = f"no verdict on the pair {missing[0]}" if missing else "the pairs of its verdicts are not given"
        raise EvaluationError(f"{path}: {problem}; expected the file of pairs that it was written for (--pairs).")
    return check_verdicts(name, pairs, [verdicts[pair.id] for pair in pairs], delta)


def _protocol_of(verdict: Verdict) -> JudgeProtocol:
    """Return the protocol by what the replies hold."""
    replies = verdict.replies
    has_tokens = any(reply.first_token for reply in replies)
    if any(reply.order is PresentationOrder.TEACHER_ALONE for reply in replies):
        return JudgeProtocol.single_expected if has_tokens else JudgeProtocol.single_score
    if any(reply.next_tokens for reply in replies):
        return JudgeProtocol.pair_expected
    return JudgeProtocol.pair_logprobs if has_tokens else JudgeProtocol.pair_scores


def _compare(pair: LabelledPair, verdict: Verdict) -> JudgedPair:
    lengths = (len(pair.first), len(pair.second))
    orders = {reply.order for reply in verdict.replies}
    if PresentationOrder.TEACHER_ALONE in orders:
        gaps = (verdict.gap, verdict.gap)
        return JudgedPair(pair.label, gaps, lengths, alone=True, failed=verdict.gap is None, origins=pair.origins)
    leads = order_leads(verdict)
    first = leads.get(PresentationOrder.TEACHER_FIRST)
    # One order alone is the whole verdict of a run without `judge.swap_positions`.
    swapped = PresentationOrder.STUDENT_FIRST in orders
    second = leads.get(PresentationOrder.STUDENT_FIRST) if swapped else first
    if verdict.gap is not None and first is not None and second is not None and verdict.is_of_panel:
        # The median of a panel, or a judge without scores, makes the gap another one than the mean of all leads.
        shift = verdict.gap - (first + second) / 2
        first, second = first + shift, second + shift
    return JudgedPair(pair.label, (first, second), lengths, alone=not swapped, origins=pair.origins)
