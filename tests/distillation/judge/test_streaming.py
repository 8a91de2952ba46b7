"""Judging while generating: earlier verdicts, otherwise the same artifacts, spend and errors as judging afterwards."""

import asyncio
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fakes import tagged
from rich.console import Console
from serving import serving

from tapir_exp.config import Config, LLMConfig, StudentConfig
from tapir_exp.core.errors import TooManyFailures
from tapir_exp.core.records import Example, Response
from tapir_exp.core.store import SIDECAR, Artifact, Store
from tapir_exp.llm import client, streaming
from tapir_exp.llm.call_store import CALLS_FILE, CallStore
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.llm.client import Client
from tapir_exp.llm.failures import EndpointError
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.serving.pool import ServerPool
from tapir_exp.llm.transport import RawCompletion
from tapir_exp.pipeline import scoring
from tapir_exp.pipeline.opening import open_chat
from tapir_exp.pipeline.scoring import DifficultyScores
from tapir_exp.pipeline.workspace import StageOutput, Workspace
from tapir_exp.student import generate

ROWS = 12
JUDGED = ROWS - 1
"""Rows with a teacher's response; the teacher failed on the last one."""
GENERATION_S, JUDGE_S = 0.06, 0.06
"""Seconds for one response; its two orders, judged two at a time, take as long."""
UNREADABLE, EMPTY = 3, 5
"""A row on which no reply of the judge can be parsed, and one on which the student gives no response."""


class SlowJudge:
    """An endpoint that scores by length; on one row its replies are unreadable."""

    base = ""

    def __init__(self) -> None:
        self.status = 200
        self.request_times: list[float] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        prompt = (await request.json())["messages"][0]["content"]
        self.request_times.append(time.monotonic())
        await asyncio.sleep(JUDGE_S)
        scores = [len(text) % 10 + 1 for number in (1, 2) for text in tagged(prompt, f"assistant_{number}")]
        text = "Hm." if f"Say {UNREADABLE}." in prompt else " ".join(map(str, scores))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": 3, "total_tokens": len(prompt) + 3}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        return web.json_response(body, status=self.status)


class SlowStudent:
    """Replaces `generate_responses`: one response after another, the last row first."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.response_times: list[float] = []

    def __call__(
        self,
        directory: Path,
        prompts: list[tuple[str, str]],
        student: StudentConfig,
        label: str,
        on_response: Callable[[Response], None] | None,
        kept: MutableMapping[int, Response],
    ) -> list[Response]:
        responses = []
        for number, (row_id, instruction) in reversed(list(enumerate(prompts))):
            time.sleep(GENERATION_S)
            if number == self.fails_at:
                raise MemoryError("no room for the cache")
            self.response_times.append(time.monotonic())
            fields = {"text": None, "failure": "empty"} if number == EMPTY else {"text": f"{instruction} Done."}
            responses.append(Response.model_validate({"id": row_id, **fields}))
            if on_response is not None:
                on_response(responses[-1])
        return responses[::-1]


class Run:
    """One scoring of a student, with its own connections to the shared store, like a separate process."""

    def __init__(self, config: Config, root: Path, *, streaming: bool, store: Store | None = None) -> None:
        self.config = replace(config, judge=replace(config.judge, stream_while_generating=streaming))
        self.call_store = CallStore(root, SpendScope("run"), config.spend)
        judge = open_chat(config.judge.llm, "judge", self.call_store, ServerPool(root / "servers"))
        assert isinstance(judge, Client)
        store = store or Store(root)
        self.ws = Workspace(self.config, store, judge, judge, None, self.call_store.ledger)  # type: ignore[arg-type]
        self.seconds = 0.0

    def score(self) -> DifficultyScores:
        """Score S_0 on a dozen seeds; the teacher failed on the last."""
        seeds = self.make(
            "seeds", [Example(id=f"row {n}", instruction=f"Say {n}.", response="Very well.") for n in range(ROWS)]
        )
        texts = [*("Well, " * (n % 4 + 1) for n in range(JUDGED)), None]
        responses = self.make("teacher_responses", [Response(id=f"row {n}", text=text) for n, text in enumerate(texts)])
        student = Artifact("student", "key", Path("nowhere"), {}, {}, 0.0, reused=False)
        started = time.monotonic()
        try:
            return scoring.score_on_seeds(self.ws, student, seeds, responses)
        finally:
            self.seconds = time.monotonic() - started

    def make(self, stage: str, rows: list[Example] | list[Response]) -> Artifact:
        return self.ws.rows(stage, None, {"rows": len(rows)}, lambda: StageOutput(rows, {}))

    def artifacts(self) -> dict[str, object]:
        """Key, files and figures of every artifact, by name, in the order of the manifest."""
        artifacts = {entry.name: self.ws.store.open(entry.stage, entry.key) for entry in self.ws.entries}
        return {name: (artifact.key, artifact.files, artifact.figures) for name, artifact in artifacts.items()}

    def spend(self) -> object:
        ledger = self.call_store.ledger
        return ledger.by_stage(), ledger.failure_counts(), ledger.failed_requests()


class RacingStore(Store):
    """A store in which another process finishes just before this one makes its responses."""

    def __init__(self, root: Path, other: Callable[[], object]) -> None:
        super().__init__(root)
        self.other = other

    def produce(self, stage: str, recipe: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> Artifact:
        if stage == "student_responses":
            self.other()
        return super().produce(stage, recipe, make)


OpenRun = Callable[..., Run]


@pytest.fixture
def judge() -> Iterator[SlowJudge]:
    with serving(SlowJudge()) as server:
        yield server


@pytest.fixture
def config(compose_config: Callable[..., Config], judge: SlowJudge) -> Config:
    composed = compose_config("judge.max_failure_rate=0.1", "judge.max_unusable_responses=1")
    llm = LLMConfig(
        model="openai/m", api_base=judge.base, concurrency=2, usd_per_million_input=1.0, usd_per_million_output=2.0
    )
    return replace(composed, judge=replace(composed.judge, llm=replace(llm, max_attempts=1)))


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> SlowStudent:
    student = SlowStudent()
    monkeypatch.setattr(generate, "generate_responses", student)
    return student


@pytest.fixture
def open_run() -> Iterator[OpenRun]:
    runs: list[Run] = []

    def opened(config: Config, root: Path, *, streaming: bool = True, store: Store | None = None) -> Run:
        runs.append(Run(config, root, streaming=streaming, store=store))
        return runs[-1]

    yield opened
    for run in runs:
        run.call_store.close()


def test_streaming_judge_overlaps_and_changes_nothing_else(
    config: Config, judge: SlowJudge, student: SlowStudent, open_run: OpenRun, tmp_path: Path
) -> None:
    """Most requests come before the last response; scores, artifacts and spend equal those of judging afterwards."""
    after, streamed = open_run(config, tmp_path / "after", streaming=False), open_run(config, tmp_path / "streamed")
    scores = after.score()
    assert min(judge.request_times) > max(student.response_times)
    calls = len(judge.request_times)
    judge.request_times.clear()
    student.response_times.clear()
    assert streamed.score() == scores
    assert sum(request < max(student.response_times) for request in judge.request_times) > calls / 2
    assert len(judge.request_times) == calls == 2 * JUDGED + 2  # the unreadable row is asked twice, in both orders
    assert list(streamed.artifacts()) == ["seeds", "teacher_responses", "student_responses-0", "verdicts-0"]
    assert streamed.artifacts() == after.artifacts()
    assert streamed.spend() == after.spend()


@pytest.mark.timing
def test_streaming_judge_takes_three_quarters_of_the_time(
    config: Config, student: SlowStudent, open_run: OpenRun, tmp_path: Path
) -> None:
    after, streamed = open_run(config, tmp_path / "after", streaming=False), open_run(config, tmp_path / "streamed")
    after.score()
    streamed.score()
    assert streamed.seconds < 0.75 * after.seconds


def test_finished_responses_or_verdicts_are_not_made_again(
    config: Config, judge: SlowJudge, student: SlowStudent, open_run: OpenRun, tmp_path: Path
) -> None:
    first = open_run(config, tmp_path)
    scores = first.score()
    calls = len(judge.request_times)
    second = open_run(config, tmp_path)
    assert second.score() == scores
    assert list(second.artifacts()) == list(first.artifacts())
    for sidecar in tmp_path.glob(f"verdicts/*/{SIDECAR}"):
        sidecar.unlink()
    third = open_run(config, tmp_path)
    assert third.score() == scores
    assert (len(judge.request_times), len(student.response_times)) == (calls, ROWS)


def test_missing_responses_are_made_again_without_the_judge(
    config: Config, judge: SlowJudge, student: SlowStudent, open_run: OpenRun, tmp_path: Path
) -> None:
    first = open_run(config, tmp_path)
    scores, spend = first.score(), first.spend()
    calls = len(judge.request_times)
    for sidecar in tmp_path.glob(f"student_responses/*/{SIDECAR}"):
        sidecar.unlink()
    second = open_run(config, tmp_path)
    assert second.score() == scores
    assert (len(judge.request_times), len(student.response_times)) == (calls, 2 * ROWS)
    assert second.spend() == spend


def test_replies_of_a_failed_generation_are_not_paid_again(
    config: Config, judge: SlowJudge, student: SlowStudent, open_run: OpenRun, tmp_path: Path
) -> None:
    student.fails_at = 2
    failed = open_run(config, tmp_path)
    with pytest.raises(MemoryError):
        failed.score()
    assert not list(tmp_path.glob(f"student_responses/*/{SIDECAR}"))
    assert count_replies(tmp_path) == failed.call_store.ledger.by_stage()["verdicts-0"]["judge"].calls > 0
    student.fails_at = None
    open_run(config, tmp_path).score()
    assert len(judge.request_times) == 2 * JUDGED + 2


def test_judge_error_is_printed_at_once_and_raised_at_the_end(
    config: Config,
    judge: SlowJudge,
    student: SlowStudent,
    open_run: OpenRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No response is lost: all are generated and stored, and the next run uses them."""
    printed: list[float] = []

    class RecordingConsole(Console):
        def print(self, *texts: object, **options: object) -> None:
            assert "has stopped: judge: openai/m refuses every call" in str(texts[0])
            printed.append(time.monotonic())

    monkeypatch.setattr(streaming, "console", RecordingConsole())
    judge.status = 401
    run = open_run(config, tmp_path)
    with pytest.raises(EndpointError, match="refuses every call"):
        run.score()
    assert printed[0] < student.response_times[-1]
    assert len(printed) == 1
    assert len(student.response_times) == ROWS
    assert len(list(tmp_path.glob(f"student_responses/*/{SIDECAR}"))) == 1
    assert not list(tmp_path.glob(f"verdicts/*/{SIDECAR}"))
    judge.status = 200
    assert open_run(config, tmp_path).score()
    assert len(student.response_times) == ROWS


def test_too_many_failures_stop_the_run(
    config: Config, student: SlowStudent, open_run: OpenRun, tmp_path: Path
) -> None:
    strict = replace(config, judge=replace(config.judge, max_failure_rate=0.0))
    with pytest.raises(TooManyFailures, match=r"2 of 22|1 of 22"):
        open_run(strict, tmp_path).score()


@pytest.mark.timing
def test_ctrl_c_stops_generation_and_judge_within_seconds(
    config: Config, judge: SlowJudge, student: SlowStudent, open_run: OpenRun, tmp_path: Path
) -> None:
    run = open_run(config, tmp_path)
    threading.Timer(4.5 * GENERATION_S, lambda: signal.raise_signal(signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run.score()
    assert run.seconds < 3
    time.sleep(3 * GENERATION_S)
    assert len(student.response_times) < ROWS - 1
    assert not [thread for thread in threading.enumerate() if "S_0" in thread.name]
    assert count_replies(tmp_path) == len(judge.request_times)


def count_replies(root: Path) -> int:
    with sqlite3.connect(root / CALLS_FILE) as call_store:
        return int(call_store.execute("SELECT count(*) FROM completions").fetchone()[0])


def test_batches_are_sent_after_all_responses(
    config: Config, student: SlowStudent, open_run: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is sent as a whole, so all responses must exist."""
    sent: list[tuple[int, int]] = []

    class EmptyBatches:
        def __init__(self, *arguments: object) -> None:
            pass

        async def fetch(
            self, requests: dict[str, ChatRequest], check: object
        ) -> AsyncIterator[tuple[str, RawCompletion]]:
            sent.append((len(requests), len(list(tmp_path.glob(f"student_responses/*/{SIDECAR}")))))
            return
            yield

    monkeypatch.setattr(client, "BatchEndpoint", EmptyBatches)
    batched = replace(config, judge=replace(config.judge, llm=replace(config.judge.llm, batch=True)))
    open_run(batched, tmp_path).score()
    assert sent == [(2 * JUDGED, 1)]


@pytest.mark.slow
def test_responses_of_another_process_are_judged(
    config: Config, student: SlowStudent, open_run: OpenRun, tmp_path: Path
) -> None:
    """Jobs of a sweep over judges share responses: one generates them, the others find them in the store."""
    first = open_run(config, tmp_path)
    other_judge = replace(config, judge=replace(config.judge, temperature=0.5))
    late = open_run(other_judge, tmp_path, store=RacingStore(tmp_path, first.score))
    alone = open_run(other_judge, tmp_path / "alone", streaming=False)
    assert late.score() == alone.score()
    assert late.artifacts() == alone.artifacts()
    assert len(student.response_times) == 2 * ROWS


def test_verdicts_of_another_process_are_listed_once(
    config: Config, judge: SlowJudge, student: SlowStudent, open_run: OpenRun, tmp_path: Path
) -> None:
    first = open_run(config, tmp_path)
    second = open_run(config, tmp_path, store=RacingStore(tmp_path, first.score))
    second.score()
    assert second.ws.entries == first.ws.entries
    assert len(judge.request_times) == 2 * JUDGED + 2
