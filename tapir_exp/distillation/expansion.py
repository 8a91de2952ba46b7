"""Expansion: the teacher writes the rows that a plan lacks; only new, clean rows of the requested type are accepted."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from tapir_exp.config import TeacherConfig
from tapir_exp.core.records import DroppedRow, DropReason, Example, Label, Origin, TrainingExample, example_id
from tapir_exp.core.seeding import derive_seed
from tapir_exp.data.decontamination import Benchmarks
from tapir_exp.data.novelty import Novelty
from tapir_exp.distillation.curriculum.sampling import MOST_PAIRS, GenerationRequest
from tapir_exp.distillation.teacher import ExpansionRequest, InstructionPair

Expand = Callable[[Sequence[ExpansionRequest]], list[tuple[InstructionPair, ...]]]
Classify = Callable[[Sequence[Example]], Sequence[Label]]
Rate = Callable[[Sequence[Example]], list[float | None]]
Rejection = tuple[DropReason, str]


@dataclass(frozen=True)
class ExpansionCandidate:
    """A pair that the teacher wrote.

    Attributes:
        number: Its number among all pairs of the round, from 1.
        request: The request that it was written for.
        examples: The rows that the teacher was shown.
        example: The pair.
    """

    number: int
    request: GenerationRequest
    examples: tuple[Example, ...]
    example: Example


Drop = Callable[[ExpansionCandidate, DropReason, str], None]


@dataclass(frozen=True)
class AcceptanceFilters:
    """Filters that a pair must pass to become a training row.

    Attributes:
        novelty: Rejects an instruction that is too close to an earlier one.
        benchmarks: Rejects a pair that contains a benchmark question.
        classify: Returns the task type of each pair, which must be the requested one.
        rate: Returns the complexity of each instruction.
        max_complexity_gap: Largest distance of a pair's complexity from the mean of its examples; None for no limit.
    """

    novelty: Novelty
    benchmarks: Benchmarks
    classify: Classify
    rate: Rate
    max_complexity_gap: float | None = None

    def passes(self, candidates: Sequence[ExpansionCandidate], drop: Drop) -> list[ExpansionCandidate]:
        """Return the candidates that pass every filter, in order, and report each other one to `drop`."""
        passed = list(candidates)
        # The cheapest filter first: the classifier and the judge, which may cost money, get only what is left.
        for check in (self._check_novelty, self._check_leaks, self._check_type, self._check_complexity):
            rejections = check(passed)
            for candidate, rejection in zip(passed, rejections, strict=True):
                if rejection is not None:
                    drop(candidate, *rejection)
            passed = [one for one, rejection in zip(passed, rejections, strict=True) if rejection is None]
        return passed

    def _check_novelty(self, candidates: Sequence[ExpansionCandidate]) -> list[Rejection | None]:
        repeat = (DropReason.REPEATED, "too close to an earlier instruction")
        # `admit` adds what it accepts, so a repeat within the batch is rejected too.
        return [None if self.novelty.admit(one.example.instruction) else repeat for one in candidates]

    def _check_leaks(self, candidates: Sequence[ExpansionCandidate]) -> list[Rejection | None]:
        # A response may contain a benchmark question as well.
        leaks = [self.benchmarks.find_leak(one.example.instruction, one.example.response) for one in candidates]
        return [None if leak is None else (DropReason.CONTAMINATED, str(leak)) for leak in leaks]

    def _check_type(self, candidates: Sequence[ExpansionCandidate]) -> list[Rejection | None]:
        rejections: list[Rejection | None] = []
        labels = self.classify([candidate.example for candidate in candidates])
        for candidate, label in zip(candidates, labels, strict=True):
            task = candidate.request.task
            if label.best_guess is None:
                rejections.append((DropReason.UNLABELLED, label.failure or "no label"))
            elif label.best_guess is not task:
                rejections.append((DropReason.OFF_TYPE, f"{label.best_guess} instead of {task}"))
            else:
                rejections.append(None)
        return rejections

    def _check_complexity(self, candidates: Sequence[ExpansionCandidate]) -> list[Rejection | None]:
        if self.max_complexity_gap is None:
            return [None] * len(candidates)
        ratings = self._rate_with_examples(candidates)
        return [_complexity_mismatch(candidate, ratings, self.max_complexity_gap) for candidate in candidates]

    def _rate_with_examples(self, candidates: Sequence[ExpansionCandidate]) -> dict[str, float | None]:
        """Return the complexity of candidates and examples by id; a candidate without examples needs none."""
        # Candidates share examples: each one is rated once.
        rows = {row.id: row for one in candidates if one.examples for row in (one.example, *one.examples)}
        return dict(zip(rows, self.rate(list(rows.values())), strict=True)) if rows else {}


def _complexity_mismatch(
    candidate: ExpansionCandidate, ratings: dict[str, float | None], max_gap: float
) -> Rejection | None:
    if not candidate.examples:
        return None  # nothing to compare with
    rating = ratings[candidate.example.id]
    others = [other for example in candidate.examples if (other := ratings[example.id]) is not None]
    if rating is None or not others:
        return DropReason.UNRATED, "no rating of the instruction or of any of its examples"
    if abs(rating - fmean(others)) > max_gap:
        return DropReason.COMPLEXITY_MISMATCH, f"complexity {rating:g}, mean of its examples {fmean(others):.1f}"
    return None


@dataclass
class ExpansionResult:
    """The accepted and the dropped pairs of a round.

    Attributes:
        accepted: Rows accepted for each request, at most as many as requested.
        checked: Whether there was a benchmark to check the pairs for.
        calls: Calls to the teacher.
        proposed: Pairs that the teacher wrote.
        dropped: Every pair that was not accepted, with its reason.
    """

    accepted: dict[GenerationRequest, list[TrainingExample]]  # requests are hashed by identity
    checked: bool
    calls: int = 0
    proposed: int = 0
    dropped: list[DroppedRow] = field(default_factory=list)

    def lacking(self, request: GenerationRequest) -> int:
        """Return the number of rows that a request still lacks."""
        return request.count - len(self.accepted[request])

    @property
    def rows(self) -> list[TrainingExample]:
        """Accepted rows of all requests, in the order of the requests."""
        return [row for rows in self.accepted.values() for row in rows]

    @property
    def figures(self) -> dict[str, Any]:
        """Counts of rows requested, calls, pairs proposed and pairs dropped by reason, with two ratios.

        `contaminated` is None if there was no benchmark. `kept_per_call` is accepted rows per call. `off_type_share` is
        the share of pairs of another type among those that got a label, or None if there are none.
        """
        reasons = Counter(dropped.reason for dropped in self.dropped)
        rows, off_type = len(self.rows), reasons[DropReason.OFF_TYPE]
        # Reasons that come after the classifier: only these rows, and the accepted ones, got a label.
        later = (DropReason.UNRATED, DropReason.COMPLEXITY_MISMATCH, DropReason.OVER_QUOTA)
        labelled = rows + off_type + sum(reasons[reason] for reason in later)
        return {
            "ordered": sum(request.count for request in self.accepted),
            "calls": self.calls,
            "proposed": self.proposed,
            "repeated": reasons[DropReason.REPEATED],
            "contaminated": reasons[DropReason.CONTAMINATED] if self.checked else None,
            "unlabelled": reasons[DropReason.UNLABELLED],
            "off_type": off_type,
            "unrated": reasons[DropReason.UNRATED],
            "unlike": reasons[DropReason.COMPLEXITY_MISMATCH],
            "surplus": reasons[DropReason.OVER_QUOTA],
            "kept_per_call": rows / self.calls if self.calls else None,
            "off_type_share": off_type / labelled if labelled else None,
        }

    def drop(self, candidate: ExpansionCandidate, reason: DropReason, detail: str) -> None:
        """Record that a candidate was dropped, and why."""
        example = candidate.example
        self.dropped.append(
            DroppedRow(
                source=f"round {example.round}",
                row=candidate.number,
                reason=reason,
                detail=detail,
                instruction=example.instruction,
            )
        )


def expand_until_filled(
    requests: Sequence[GenerationRequest],
    filters: AcceptanceFilters,
    config: TeacherConfig,
    seed: int,
    round_number: int,
    expand: Expand,
    passes: Iterable[int] | None = None,
) -> ExpansionResult:
    """Ask the teacher for rows until every request is filled, in at most `config.max_expansion_passes` passes.

    Args:
        requests: The rows that a plan lacks.
        filters: Filters for the pairs that the teacher writes.
        config: The teacher's settings.
        seed: Seed of the run.
        round_number: The round, from 1.
        expand: Calls the teacher; returns the pairs of each call.
        passes: Numbers of the passes, from 0; by default all that the teacher's settings allow. The number makes the
            calls of a pass separate draws.
    """
    result = ExpansionResult({request: [] for request in requests}, checked=bool(filters.benchmarks))
    for pass_number in range(config.max_expansion_passes) if passes is None else passes:
        # The key makes each call a separate draw, even if another call shows the same examples.
        calls = [
            (request, call)
            for index, request in enumerate(requests)
            for call in split_into_calls(
                request, result.lacking(request), config, pass_number, f"{seed} {round_number} {pass_number} {index}"
            )
        ]
        if not calls:
            break
        replies = expand([call for _, call in calls])
        most = MOST_PAIRS * config.num_output_samples
        candidates = _number_candidates(calls, replies, result.proposed + 1, round_number, most)
        result.calls += len(calls)
        result.proposed += len(candidates)
        for candidate in filters.passes(candidates, result.drop):
            request, example = candidate.request, candidate.example
            if result.lacking(request):
                row = TrainingExample.from_example(example, request.task, request.subset, None)
                result.accepted[request].append(row)
            else:
                result.drop(candidate, DropReason.OVER_QUOTA, "more than was requested")
    return result


def split_into_calls(
    request: GenerationRequest, lacking: int, config: TeacherConfig, pass_number: int, draw_key: str
) -> list[ExpansionRequest]:
    """Return the calls that would fill a request.

    The calls show the request's examples in turn: each call starts where the one before it stopped, and each pass one
    call later.

    Args:
        request: The request to fill.
        lacking: Rows that it still lacks.
        config: The teacher's settings.
        pass_number: The pass, from 0.
        draw_key: Text that no other request, pass, round or seed has.
    """
    available, size = request.examples, config.num_in_context_samples
    calls = []
    for number, done in enumerate(range(0, lacking, config.num_output_samples)):
        start = (pass_number + number) * size
        # The bound keeps a short list of examples from going round, so no call shows an example twice.
        shown = tuple(
            available[(start + offset) % len(available)].example for offset in range(min(size, len(available)))
        )
        count = min(config.num_output_samples, lacking - done)
        sample = derive_seed(draw_key, number, separator=" ", bits=48)
        calls.append(ExpansionRequest(request.task, count, shown, sample))
    return calls


def _number_candidates(
    calls: Sequence[tuple[GenerationRequest, ExpansionRequest]],
    replies: Sequence[tuple[InstructionPair, ...]],
    first: int,
    round_number: int,
    most: int,
) -> list[ExpansionCandidate]:
    """Return the pairs of all calls as candidates, numbered from `first`; at most `most` of each call."""
    pairs = [
        (request, call, pair) for (request, call), reply in zip(calls, replies, strict=True) for pair in reply[:most]
    ]
    return [
        ExpansionCandidate(number, request, call.examples, _to_example(pair, call, round_number))
        for number, (request, call, pair) in enumerate(pairs, first)
    ]


def _to_example(pair: InstructionPair, call: ExpansionRequest, round_number: int) -> Example:
    return Example(
        id=example_id(pair.instruction),
        instruction=pair.instruction,
        response=pair.response,
        origin=Origin.EXPANSION,
        parents=tuple(example.id for example in call.examples),
        round=round_number,
    )
