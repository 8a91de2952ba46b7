"""A preview: a few rows through the real path of a run, with every call, before the rest is paid for.

The calls for labels and for responses of the teacher are those of a run, so a run finds their completions in the cache.
The judge scores the student before any fit, and the expansions are draws of their own.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tapir_exp.config import Config, StudentConfig
from tapir_exp.core.records import Example, Label, Response, Verdict
from tapir_exp.core.seeding import derive_seed
from tapir_exp.distillation import teacher
from tapir_exp.distillation.classifier.llm import LLMClassifier, build_classification_request
from tapir_exp.distillation.judge.notes import write_notes
from tapir_exp.distillation.judge.requests import ResponsePair, requests_for
from tapir_exp.distillation.judge.score import score_pairs
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion
from tapir_exp.llm.failures import CallError
from tapir_exp.llm.slots import Slots
from tapir_exp.pipeline import students
from tapir_exp.pipeline.first_rows import label_problem, order_problem
from tapir_exp.pipeline.sized_seeds import draw_seeds
from tapir_exp.pipeline.workspace import Workspace

STAGE = "preview"
"""Name in the spend."""

Generate = Callable[[Path, Sequence[tuple[str, str]], StudentConfig, str], Sequence[Response]]
Written = tuple[teacher.ExpansionRequest, tuple[teacher.InstructionPair, ...]]
"""A request for new pairs, and what the teacher wrote."""


@dataclass(frozen=True)
class Call:
    """One call of a chat model.

    Attributes:
        request: What was sent.
        completion: What came back; None if the call failed.
        seconds: Time that it took.
        cached: Whether the completion was in the cache, so that it cost nothing.
        failure: Why the call failed; None for a completion.
    """

    request: ChatRequest
    completion: Completion | None
    seconds: float
    cached: bool
    failure: str | None = None

    @property
    def usd(self) -> float | None:
        """Return what the call cost; None if the price is unknown."""
        return 0.0 if self.cached or self.completion is None else self.completion.usage.usd


@dataclass(frozen=True)
class Step:
    """One step of a row.

    Attributes:
        name: What was requested.
        parsed: What was read from the reply; None if nothing could be read.
        calls: The calls; two if the first reply was not in the required form, none for a model of this machine.
        failure: Why nothing was read.
    """

    name: str
    parsed: str | None
    calls: Sequence[Call] = ()
    failure: str | None = None


@dataclass
class Preview:
    """Rows with their steps.

    Attributes:
        rows: The rows.
        steps: Steps of each row by its id.
        warnings: What looks wrong.
        written: The new pairs of each request.
    """

    rows: Sequence[Example]
    steps: dict[str, list[Step]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)

    def calls(self) -> list[Call]:
        """Return all calls."""
        return [call for steps in self.steps.values() for step in steps for call in step.calls]


class CallRecorder:
    """A chat model that records every call; it is otherwise the model that it wraps."""

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat
        self._calls: dict[str, list[Call]] = {}

    def calls_of(self, request: ChatRequest) -> list[Call]:
        """Return the calls of a request, with the one that repeats it after a reply in another form."""
        return self._calls.get(_identity(request), [])

    def identity(self) -> dict[str, Any]:
        """Return the identity of the model."""
        return self._chat.identity()

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        """Return the number of cached requests."""
        return self._chat.count_cached(requests)

    @property
    def slots(self) -> Slots | None:
        """Return the slots of the model, if it adapts their number."""
        return getattr(self._chat, "slots", None)

    def connected(self, requests: Sequence[ChatRequest]) -> AbstractAsyncContextManager[None]:
        """Open the connections of the model."""
        return self._chat.connected(requests)

    async def complete(self, request: ChatRequest) -> Completion:
        """Complete a request, and record the call. Raises as the model does."""
        cached = self._chat.count_cached([request]) > 0
        started = time.monotonic()
        try:
            completion = await self._chat.complete(request)
        except CallError as error:
            self._record(request, Call(request, None, time.monotonic() - started, cached, str(error)))
            raise
        self._record(request, Call(request, completion, time.monotonic() - started, cached))
        return completion

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        """Record a request that failed for good."""
        self._chat.record_failed(request, error)

    def _record(self, request: ChatRequest, call: Call) -> None:
        self._calls.setdefault(_identity(request), []).append(call)


def preview(ws: Workspace, count: int, check: Callable[[], None], generate: Generate | None) -> Preview:
    """Take some rows through the steps of a run.

    Args:
        ws: The workspace; its seeds and its base student are made as a run makes them, if they are missing.
        count: Number of rows.
        check: Checks endpoints and files; called before the first call that is not cached.
        generate: Generates the responses of a student; None judges the dataset's responses in their place.
    """
    seeds = draw_seeds(ws).rows(Example)
    rows = seeds[:: max(1, len(seeds) // count)][:count]
    if ws.before_work is not None and ws.teacher.count_cached(_response_requests(rows, ws.config)) < len(rows):
        check()
    ws.before_work = None
    result = Preview(rows, {row.id: [] for row in rows})
    with ws.ledger.record_stage(STAGE):
        labels = _label(ws, result)
        responses = _respond(ws, result)
        answered = [row.model_copy(update={"response": text}) for row in rows if (text := responses[row.id])]
        if generate is None:
            # A row without a response gets the beginning of the teacher's: equal responses would be one call.
            answers: Mapping[str, str] = {
                row.id: row.response or (text := responses[row.id])[: len(text) // 2] for row in rows
            }
        else:
            answers = _answer(ws, result, generate)
        _judge(ws, result, answered, answers)
        if ws.config.curriculum.rounds:
            _expand(ws, result, answered, labels)
            _refine(ws, result, answered, labels)
    result.warnings += _find_repeats(result)
    return result


def _label(ws: Workspace, result: Preview) -> Mapping[str, Label]:
    if not ws.config.curriculum.rounds:
        return {}
    recorders: list[CallRecorder] = []

    def watch(chat: ChatModel) -> ChatModel:
        recorders.append(CallRecorder(chat))
        return recorders[0]

    classifier = ws.classifier
    watched = classifier.watched(watch) if isinstance(classifier, LLMClassifier) else classifier
    labels = watched.label(result.rows, "preview: labels")
    for row, label in zip(result.rows, labels, strict=True):
        request = build_classification_request(row.instruction, ws.config.classifier)
        calls = [call for recorder in recorders for call in recorder.calls_of(request)]
        confidence = "" if label.confidence is None else f" (confidence {label.confidence:.2f})"
        parsed = None if label.task is None else f"{label.task}{confidence}"
        result.steps[row.id].append(Step("task type", parsed, calls, label.failure))
    if problem := label_problem([label.task for label in labels], ws.config):
        result.warnings.append(problem)
    _warn_of_failures(result, "labels", [label.failure for label in labels], "choose another classifier")
    return {label.id: label for label in labels}


def _respond(ws: Workspace, result: Preview) -> Mapping[str, str]:
    """Return the teacher's responses by row id; empty if one failed."""
    chat, config = CallRecorder(ws.teacher), replace(ws.config.teacher, max_failure_rate=1.0)
    responses = teacher.respond(result.rows, chat, config, "preview: responses of the teacher")
    for row, response in zip(result.rows, responses, strict=True):
        calls = chat.calls_of(teacher.build_response_request(row, config))
        result.steps[row.id].append(Step("response of the teacher", response.text, calls, response.failure))
    advice = f"if they are cut, raise teacher.max_tokens (now {config.max_tokens})"
    _warn_of_failures(result, "responses of the teacher", [response.failure for response in responses], advice)
    return {response.id: response.text or "" for response in responses}


def _answer(ws: Workspace, result: Preview, generate: Generate) -> Mapping[str, str]:
    """Return the answers of the student before any fit, by row id."""
    base, _ = students.base_model(ws)
    prompts = [(row.id, row.instruction) for row in result.rows]
    started = time.monotonic()
    answers = generate(base.path, prompts, ws.config.student, "preview: answers of the student")
    seconds = time.monotonic() - started
    for row, answer in zip(result.rows, answers, strict=True):
        cut = "" if answer.finished else f" [cut at student.max_new_tokens={ws.config.student.max_new_tokens}]"
        parsed = None if answer.text is None else answer.text + cut
        name = f"answer of the student before any fit ({seconds:.1f} s for all)"
        result.steps[row.id].append(Step(name, parsed, failure=answer.failure))
    empty = sum(not (answer.text or "").strip() for answer in answers)
    cut_rows = sum(not answer.finished for answer in answers)
    if empty or cut_rows:
        result.warnings.append(
            f"{empty} of {len(answers)} answers of the student before any fit are empty, and {cut_rows} are cut at "
            f"student.max_new_tokens={ws.config.student.max_new_tokens}: usual for a base model, which learns to stop "
            "in the fit on the seeds. For a model that is tuned already, check student.chat_template "
            f"(now {ws.config.student.chat_template.name})"
        )
    return {answer.id: answer.text or "" for answer in answers}


def _judge(ws: Workspace, result: Preview, answered: Sequence[Example], answers: Mapping[str, str]) -> None:
    if not ws.config.curriculum.rounds and not ws.config.evals.held_out_size:
        return
    chat, config = CallRecorder(ws.judge), replace(ws.config.judge, max_failure_rate=1.0)
    references = {row.id: row.response or None for row in result.rows}
    pairs = [
        ResponsePair(row.id, row.instruction, row.response, answers[row.id], references[row.id]) for row in answered
    ]
    noted = write_notes(pairs, chat, config, "preview")
    verdicts = score_pairs(noted, chat, config, "preview: verdicts")
    for pair, verdict in zip(noted, verdicts, strict=True):
        for reply, request in zip(verdict.replies, requests_for(pair, config), strict=True):
            scores = {"teacher": reply.teacher, "student": reply.student}
            parsed = ", ".join(f"{name} {score:g}" for name, score in scores.items() if score is not None)
            name = ", ".join(filter(None, ["verdict", reply.order.value, reply.judge]))
            step = Step(name, parsed or None, chat.calls_of(request.request), reply.failure)
            result.steps[pair.id].append(step)
        if verdict.gap is not None:
            result.steps[pair.id].append(Step("gap", f"{verdict.gap:g}"))
    _warn_of_verdicts(ws.config, result, verdicts)


def _warn_of_verdicts(config: Config, result: Preview, verdicts: Sequence[Verdict]) -> None:
    failures = [reply.failure for verdict in verdicts for reply in verdict.replies]
    _warn_of_failures(result, "replies of the judge", failures, "choose another judge or judge.protocol")
    if problem := order_problem(verdicts, config):
        result.warnings.append(problem)


def _expand(ws: Workspace, result: Preview, answered: Sequence[Example], labels: Mapping[str, Label]) -> None:
    chat, config = CallRecorder(ws.teacher), replace(ws.config.teacher, max_failure_rate=1.0)
    requests = [
        teacher.ExpansionRequest(task, config.num_output_samples, (row,), derive_seed(f"{ws.config.seed} {STAGE}", n))
        for n, row in enumerate(answered)
        if (task := labels[row.id].task) is not None
    ]
    replies = teacher.expand(requests, chat, config, "preview: expansions")
    result.written += zip(requests, replies, strict=True)
    for request, pairs in zip(requests, replies, strict=True):
        calls = chat.calls_of(teacher.build_expansion_request(request, config))
        parsed = "\n".join(f"{number}. {pair.instruction}" for number, pair in enumerate(pairs, 1))
        failure = None if pairs else "no pair could be read"
        name = f"expansion, {len(pairs)} of {request.count} new pairs"
        result.steps[request.examples[0].id].append(Step(name, parsed or None, calls, failure))
    failures = [None if pairs else "no pair could be read" for pairs in replies]
    _warn_of_failures(result, "expansions", failures, "use a stronger teacher, or raise teacher.max_tokens")


def _refine(ws: Workspace, result: Preview, answered: Sequence[Example], labels: Mapping[str, Label]) -> None:
    if not ws.config.curriculum.refine:
        return
    chat, config = CallRecorder(ws.teacher), replace(ws.config.teacher, max_failure_rate=1.0)
    drafts = [
        teacher.RefinementRequest(row.id, task, row.instruction, row.response)
        for row in answered
        if (task := labels[row.id].task) is not None
    ]
    responses = teacher.refine(drafts, chat, config, "preview: refinements")
    for draft, response in zip(drafts, responses, strict=True):
        calls = chat.calls_of(teacher.build_refinement_request(draft, config))
        result.steps[draft.id].append(Step("refinement", response.text, calls, response.failure))
    advice = "use a stronger teacher, or teacher.allow_untagged_refinements=true if only the tags are missing"
    _warn_of_failures(result, "refinements", [response.failure for response in responses], advice)


def _warn_of_failures(result: Preview, what: str, failures: Sequence[str | None], advice: str) -> None:
    reasons = [failure for failure in failures if failure is not None]
    if reasons:
        result.warnings.append(f"{len(reasons)} of {len(failures)} {what} failed, first: {reasons[0]} {advice}")


def _find_repeats(result: Preview) -> Iterator[str]:
    """Warn of replies that had the requested form at the second try only, which doubles their cost."""
    names: dict[str, int] = {}
    for steps in result.steps.values():
        for step in steps:
            if len(distinct_calls(step.calls)) > 1 and step.failure is None:
                kind = step.name.partition(",")[0]
                names[kind] = names.get(kind, 0) + 1
    for name, times in names.items():
        yield f"{times} replies ({name}) did not have the requested form and were requested again, which is paid twice"


def distinct_calls(calls: Sequence[Call]) -> list[Call]:
    """Return one call of each request: equal responses are one request in both orders, and recorded together."""
    return list({repr(call.request): call for call in calls}.values())


def _response_requests(rows: Sequence[Example], config: Config) -> list[ChatRequest]:
    return [teacher.build_response_request(row, config.teacher) for row in rows]


def _identity(request: ChatRequest) -> str:
    """Return a key that a request shares with its repetition, which has more messages or a larger limit."""
    return repr((request.messages[0], request.temperature, request.sample, getattr(request, "member", 0)))
