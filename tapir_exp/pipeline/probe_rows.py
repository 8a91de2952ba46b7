"""A probe: a few rows through the real path of a run, which measures what a plan would otherwise assume.

Labels and responses are those of the run, so it finds their completions in the cache. No student responds: the judge
compares the teacher's responses with those of the dataset. A second probe makes no calls, and then has no times.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from tapir_exp.core.records import DropReason, Example, Origin, Subset, example_id
from tapir_exp.distillation.curriculum.sampling import GenerationRequest
from tapir_exp.distillation.expansion import ExpansionCandidate
from tapir_exp.llm.chat import CHARS_PER_TOKEN
from tapir_exp.llm.failures import Policy
from tapir_exp.llm.ledger import Spend
from tapir_exp.pipeline import data
from tapir_exp.pipeline.preview import STAGE, Call, Preview, distinct_calls, preview
from tapir_exp.pipeline.request_sizes import Assumptions, Measured, RequestKind
from tapir_exp.pipeline.sized_seeds import draw_seeds
from tapir_exp.pipeline.workspace import Workspace

STEPS = {
    "task type": RequestKind.LABEL,
    "response of the teacher": RequestKind.RESPONSE,
    "verdict": RequestKind.VERDICT,
    "expansion": RequestKind.EXPANSION,
    "refinement": RequestKind.REFINEMENT,
}
"""Kind of request of the steps of a preview, by the start of their names."""


@dataclass(frozen=True)
class Probe:
    """What a probe measured.

    Attributes:
        rows: Number of rows.
        assumptions: The measurements, in place of the assumptions of a plan.
        calls: Calls that were paid.
        cached: Calls that were cached.
        usd: What the calls cost; None if a price is unknown.
        retries: Calls that failed and were sent again.
    """

    rows: int
    assumptions: Assumptions
    calls: int
    cached: int
    usd: float | None
    retries: int

    def lines(self) -> list[str]:
        """Return the measurements in words."""
        usd = "price unknown" if self.usd is None else f"{self.usd:.4f} USD"
        head = (
            f"probe of {self.rows} rows: {self.calls} calls paid, {self.cached} cached, {usd}; {self.retries} calls "
            "were sent again after a failure"
        )
        kinds = [f"  {kind.value}: {_describe(one)}" for kind, one in self.assumptions.measured.items()]
        return [head, *kinds, f"  new pairs: {self.assumptions.accepted:.0%} of the requested ones are accepted"]

    def data(self) -> dict[str, Any]:
        """Return the measurements for JSON."""
        return asdict(self)


def probe_rows(ws: Workspace, count: int, check: Callable[[], None]) -> Probe:
    """Take some rows through the steps of a run, and measure them.

    Args:
        ws: The workspace, whose models are called one request at a time.
        count: Number of rows.
        check: Checks endpoints and files before the first call that is not cached.
    """
    failed, before = _count_retries(ws), _spent(ws)
    result = preview(ws, count, check, None)
    accepted, labelled = _check_pairs(ws, result) if result.written else (None, None)
    assumed, after = Assumptions(), _spent(ws)
    assumptions = Assumptions(
        response=_mean_length(result, "response of the teacher"),
        refined=_refined_ratio(result) or assumed.refined,
        pair=_pair_length(result),
        accepted=assumed.accepted if accepted is None else accepted,
        labelled=assumed.labelled if labelled is None else labelled,
        measured=_measure(result),
    )
    usd = None if before.usd is None or after.usd is None else after.usd - before.usd
    paid, cached = after.calls - before.calls, after.cached - before.cached
    return Probe(len(result.rows), assumptions, paid, cached, usd, _count_retries(ws) - failed)


def _measure(result: Preview) -> Mapping[RequestKind, Measured]:
    """Return the measurements of every kind of request that was made."""
    requests: defaultdict[RequestKind, list[Sequence[Call]]] = defaultdict(list)
    for steps in result.steps.values():
        for step in steps:
            kind = STEPS.get(step.name.partition(",")[0])
            calls = distinct_calls(step.calls)
            if kind is not None and any(call.completion is not None for call in calls):
                requests[kind].append(calls)
    return {kind: _measure_kind(of_kind) for kind, of_kind in requests.items()}


def _measure_kind(requests: Sequence[Sequence[Call]]) -> Measured:
    calls = [call for of_request in requests for call in of_request]
    answered = [(call, call.completion) for call in calls if call.completion is not None]
    letters = sum(len(message.content) for call, _ in answered for message in call.request.messages)
    times = [call.seconds for call in calls if not call.cached]
    return Measured(
        requests=len(requests),
        prompt_ratio=sum(one.usage.prompt_tokens for _, one in answered) * CHARS_PER_TOKEN / max(letters, 1),
        completion=fmean(one.usage.completion_tokens for _, one in answered),
        repeats=sum(len(of_request) - 1 for of_request in requests) / len(requests),
        seconds=fmean(times) if times else None,
    )


def _describe(measured: Measured) -> str:
    time = "all cached" if measured.seconds is None else f"{measured.seconds:.2f} s a call"
    return (
        f"{measured.completion:.0f} tokens a reply, prompts of {measured.prompt_ratio:.2f} times the tokens assumed, "
        f"{measured.repeats:.0%} requested again, {time}"
    )


def _mean_length(result: Preview, step: str) -> float | None:
    texts = _texts(result, step).values()
    return fmean(map(len, texts)) / CHARS_PER_TOKEN if texts else None


def _refined_ratio(result: Preview) -> float | None:
    before, after = _texts(result, "response of the teacher"), _texts(result, "refinement")
    letters = sum(len(before[row_id]) for row_id in after if row_id in before)
    return sum(map(len, after.values())) / letters if letters else None


def _pair_length(result: Preview) -> float | None:
    lengths = [len(pair.instruction) + len(pair.response) for _, pairs in result.written for pair in pairs]
    return fmean(lengths) / CHARS_PER_TOKEN if lengths else None


def _texts(result: Preview, name: str) -> Mapping[str, str]:
    """Return what was read in a step, by row id."""
    return {
        row_id: step.parsed
        for row_id, steps in result.steps.items()
        for step in steps
        if step.name == name and step.parsed
    }


def _check_pairs(ws: Workspace, result: Preview) -> tuple[float, float]:
    """Return the shares of the requested pairs that are accepted, and that the classifier is asked about."""
    filters = data.acceptance_filters(ws, frozenset(row.instruction for row in draw_seeds(ws).stored_rows(Example)))
    candidates: list[ExpansionCandidate] = []
    for request, pairs in result.written:
        asked = GenerationRequest(request.task, Subset.REST, request.count, ())
        for pair in pairs:
            example = Example(
                id=example_id(pair.instruction),
                instruction=pair.instruction,
                response=pair.response,
                origin=Origin.EXPANSION,
            )
            candidates.append(ExpansionCandidate(len(candidates) + 1, asked, request.examples, example))
    early: list[ExpansionCandidate] = []

    def drop(candidate: ExpansionCandidate, reason: DropReason, _: str) -> None:
        if reason in (DropReason.REPEATED, DropReason.CONTAMINATED):
            early.append(candidate)

    with ws.ledger.record_stage(STAGE):
        passed = filters.passes(candidates, drop)
    requested = sum(request.count for request, _ in result.written)
    return min(1.0, len(passed) / requested), (len(candidates) - len(early)) / requested


def _spent(ws: Workspace) -> Spend:
    """Return what the previews of this store have spent."""
    return sum(ws.ledger.by_stage().get(STAGE, {}).values(), Spend())


def _count_retries(ws: Workspace) -> int:
    """Return the calls of previews that failed and were sent again."""
    counts = ws.ledger.failure_counts()
    return sum(one.count for one in counts if one.stage == STAGE and one.kind.policy is Policy.RETRY)
