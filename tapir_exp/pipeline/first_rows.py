"""Checks of the first rows of a stage, which stop it before the rest is paid for; `tapir preview` makes them, too."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tapir_exp.config import ClassifierKind, Config
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Label, Verdict
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.judge.noise import both_leads
from tapir_exp.distillation.judge.parse import Scores
from tapir_exp.distillation.judge.requests import Presentation, ResponsePair, presentations
from tapir_exp.distillation.judge.score import build_verdicts
from tapir_exp.llm.executor import OnResult, RequestResult

FIRST = 20
"""Rows of a stage that are looked at."""
MAX_FAILED = 0.5
"""Share of failed rows among the first ones above which a stage stops, unless its `max_failure_rate` is larger."""
MAX_FLIPPED = 0.9
"""Share of rows with contrary orders from which the judge is stopped: its verdicts then depend on the position."""
FEWEST_ORDERS = 8
"""Fewest rows scored in both orders of which that share is taken."""
FEWEST_LABELS = 3
"""Fewest labels that can show that all are the same."""
GO_ON = "With check_first_rows=false, the run goes on."
REASONS = 3
"""Reasons of failures in a message, the most common ones."""

AnyResult = RequestResult[Any]


class FirstRows:
    """Collects the results of the first rows of a stage, and checks them once.

    Attributes:
        done: Whether they were checked.
    """

    def __init__(self, check: Callable[[Sequence[int], Sequence[AnyResult]], None], calls_per_row: int = 1) -> None:
        """Set up the check.

        Args:
            check: Takes index and result of each request of the first rows; raises TapirError to stop the stage.
            calls_per_row: Requests of a row, which have consecutive indices.
        """
        self.done = False
        self._error: TapirError | None = None
        self._check, self._calls_per_row = check, calls_per_row
        self._rows: dict[int, dict[int, AnyResult]] = {}
        self._complete: list[int] = []

    def __call__(self, index: int, result: AnyResult) -> None:
        """Take a result, in any order. Raise TapirError if the stage has to stop, also for each later result."""
        if self._error is not None:
            raise self._error
        if self.done:
            return
        row = index // self._calls_per_row
        of_row = self._rows.setdefault(row, {})
        of_row[index] = result
        if len(of_row) == self._calls_per_row:
            self._complete.append(row)
        if len(self._complete) >= FIRST:
            self.done = True
            found = {number: one for row in self._complete for number, one in self._rows[row].items()}
            try:
                self._check(list(found), list(found.values()))
            except TapirError as error:
                self._error = error
                raise


def check_labels(config: Config, total: int) -> OnResult | None:
    """Return the check of the first labels of a chat model; None if there is no rest to save."""
    if not config.check_first_rows or total <= FIRST or config.classifier.kind is not ClassifierKind.llm:
        return None

    def check(_: Sequence[int], results: Sequence[RequestResult[TaskType]]) -> None:
        rate = config.classifier.max_failure_rate
        _stop_if(failure_problem(results, "labels", "classifier.llm", rate))
        _stop_if(label_problem([result.value for result in results], config, stops=True))

    return FirstRows(check)


def check_teacher(config: Config, total: int) -> OnResult | None:
    """Return the check of the teacher's first responses; None if there is no rest to save."""
    if not config.check_first_rows or total <= FIRST:
        return None
    rate = config.teacher.max_failure_rate
    remedy = f"teacher.llm, or raise teacher.max_tokens (now {config.teacher.max_tokens}) if replies are cut"
    return FirstRows(lambda _, results: _stop_if(failure_problem(results, "responses of the teacher", remedy, rate)))


def check_judge(config: Config, pairs: int, shown_at: Callable[[int], tuple[str, Presentation]]) -> OnResult | None:
    """Return the check of the first verdicts; None if there is no rest to save.

    Args:
        config: The configuration of the run.
        pairs: Number of pairs to judge.
        shown_at: Returns the row id of the request of an index, and what it shows.
    """
    if not config.check_first_rows or pairs <= FIRST:
        return None

    def check(indices: Sequence[int], results: Sequence[RequestResult[Scores]]) -> None:
        remedy, rate = "judge.llm, judge.protocol or judge.max_tokens", config.judge.max_failure_rate
        if config.judge.protocol.reads_logprobs:
            remedy += " (judge.protocol=pair_scores and single_score need no log-probabilities)"
        _stop_if(failure_problem(results, "replies of the judge", remedy, rate))
        verdicts = build_verdicts([shown_at(index) for index in indices], results)
        _stop_if(order_problem(verdicts, config, stops=True))

    return FirstRows(check, len(presentations(config.judge)))


def judge_requests(config: Config, pairs: Sequence[ResponsePair]) -> Callable[[int], tuple[str, Presentation]]:
    """Return a function that gives the row id of the request of an index of `score_pairs`, and what it shows."""
    calls = presentations(config.judge)
    return lambda index: (pairs[index // len(calls)].id, calls[index % len(calls)])


def failure_problem(results: Sequence[AnyResult], what: str, remedy: str, max_failure_rate: float) -> str | None:
    """Return what is wrong if too many of the first requests failed.

    Args:
        results: Their results.
        what: What was requested.
        remedy: What to change.
        max_failure_rate: Share of failures that the role tolerates.
    """
    reasons = Counter(result.failure for result in results if result.failure is not None)
    if reasons.total() <= max(MAX_FAILED, max_failure_rate) * len(results):
        return None
    listed = "; ".join(f"{count} times: {reason}" for reason, count in reasons.most_common(REASONS))
    return (
        f"{reasons.total()} of the first {len(results)} {what} failed ({listed}), expected at most {MAX_FAILED:.0%}. "
        f"`tapir preview` shows prompts and replies; change {remedy}"
    )


def label_problem(tasks: Sequence[TaskType | None], config: Config, *, stops: bool = False) -> str | None:
    """Return what is wrong if all rows have the same task type.

    Args:
        tasks: The task types; None for a row without one.
        config: The configuration of the run.
        stops: Whether to find only what makes the rounds useless. That is the type Others, or one type under a target
            mix of several, whose rows the teacher would have to write without examples.
    """
    named = {task for task in tasks if task is not None}
    if len(named) != 1 or sum(task is not None for task in tasks) < FEWEST_LABELS:
        return None
    (task,) = named
    natural = config.task_mix.target_distribution is None
    if stops and natural and task is not TaskType.OTHERS:
        return None
    advice = "another classifier (classifier=minilm works offline, classifier.llm.model=...)"
    mix = "" if natural else f", or task_mix=natural, since the target mix {config.task_mix.name} has other types, too"
    return f"all of the first {len(tasks)} rows are labelled {task}; expected several types: choose {advice}{mix}"


def order_problem(verdicts: Sequence[Verdict], config: Config, *, stops: bool = False) -> str | None:
    """Return what is wrong if the winner depends on the order of the responses.

    Args:
        verdicts: The verdicts.
        config: The configuration of the run.
        stops: Whether to find only a judge that prefers a position nearly always.
    """
    leads = [lead for verdict in verdicts if (lead := both_leads(verdict)) is not None]
    flips = sum(first * second < 0 for first, second in leads)
    if stops and (len(leads) < FEWEST_ORDERS or flips < MAX_FLIPPED * len(leads)):
        return None
    if not stops and flips <= MAX_FAILED * len(leads):
        return None
    return (
        f"the judge {config.judge.llm.model} prefers a position, not a response: on {flips} of the first {len(leads)} "
        "rows its two orders have different winners. Choose another judge (judge=..., `tapir judge-check` compares "
        "them), or judge.protocol=single_score, which shows one response at a time"
    )


def check_trained_labels(labels: Sequence[Label], config: Config) -> None:
    """Stop a run if a trained classifier gave all rows the same type, as `check_labels` does for a chat model."""
    if config.check_first_rows and len(labels) > FIRST and config.classifier.kind is not ClassifierKind.llm:
        _stop_if(label_problem([label.task for label in labels], config, stops=True))


def spread(count: int) -> list[int]:
    """Return the indices of rows with a spread sample first: the first results are then no block of a sorted file."""
    step = max(1, count // FIRST)
    first = list(range(0, count, step))[:FIRST]
    taken = set(first)
    return [*first, *(index for index in range(count) if index not in taken)]


def _stop_if(problem: str | None) -> None:
    if problem is not None:
        raise TapirError(f"Stopped before the rest is paid for: {problem}. Replies so far are cached. {GO_ON}")
