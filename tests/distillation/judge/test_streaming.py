"""A judge that hears answers while others are still being written: sooner, and in nothing else another."""

import asyncio
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from fakes import tagged
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console
from serving import serving

from tapir_exp import tapir
from tapir_exp.commands.hydra_app import data_dir
from tapir_exp.config import Config, LLMConfig, StudentConfig, parse
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
WRITE_S, JUDGE_S = 0.06, 0.06
"""An answer takes as long to write as its two orders take to judge, one after the other."""
UNREADABLE, SILENT = 3, 5
"""A row whose verdict is refused twice, and one to which the student says nothing."""


class SlowJudge:
    """Scores by length, and says nothing readable of one row."""

    base = ""

    def __init__(self) -> None:
        self.status = 200
        self.asked_at: list[float] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        prompt = (await request.json())["messages"][0]["content"]
        self.asked_at.append(time.monotonic())
        await asyncio.sleep(JUDGE_S)
        shown = [len(text) % 10 + 1 for place in (1, 2) for text in tagged(prompt, f"assistant_{place}")]
        text = "Hm." if f"Say {UNREADABLE}." in prompt else " ".join(map(str, shown))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": 3, "total_tokens": len(prompt) + 3}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        return web.json_response(body, status=self.status)


class SlowStudent:
    """Writes one answer after another, the last row first."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.wrote_at: list[float] = []

    def __call__(
        self,
        directory: Path,
        prompts: list[tuple[str, str]],
        student: StudentConfig,
        label: str,
        hear: Callable[[Response], None] | None,
    ) -> list[Response]:
        answers = []
        for number, (name, instruction) in reversed(list(enumerate(prompts))):
            time.sleep(WRITE_S)
            if number == self.fails_at:
                raise MemoryError("no room for the cache")
            self.wrote_at.append(time.monotonic())
            silent = {"text": None, "failure": "empty answer"}
            said = silent if number == SILENT else {"text": f"{instruction} Done."}
            answers.append(Response.model_validate({"id": name, **said}))
            assert hear is not None
            hear(answers[-1])
        return answers[::-1]


@pytest.fixture
def judge() -> Iterator[SlowJudge]:
    with serving(SlowJudge()) as server:
        yield server


@pytest.fixture(scope="module")
def composed() -> Config:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
        return parse(compose("config", ["judge.max_failure_rate=0.1"]))


@pytest.fixture
def config(composed: Config, judge: SlowJudge) -> Config:
    llm = LLMConfig(
        model="openai/m", api_base=judge.base, concurrency=2, usd_per_million_input=1.0, usd_per_million_output=2.0
    )
    return replace(composed, judge=replace(composed.judge, llm=replace(llm, max_attempts=1)))


class Run:
    """One examination in a store of its own."""

    def __init__(self, config: Config, root: Path, *, along: bool) -> None:
        self.config = replace(config, judge=replace(config.judge, stream_while_generating=along))
        self.call_store = CallStore(root, SpendScope("run"), config.spend)
        judge = open_chat(config.judge.llm, "judge", self.call_store, ServerPool(root / "servers"))
        assert isinstance(judge, Client)
        self.ws = Workspace(self.config, Store(root), judge, judge, None, self.call_store.ledger)  # type: ignore[arg-type]
        self.seconds = 0.0

    def examine(self) -> DifficultyScores:
        """The student of round 0 on a dozen rows, whose teacher failed to answer the last."""
        rows = [Example(id=f"row {n}", instruction=f"Say {n}.", response="So be it.") for n in range(ROWS)]
        seeds = self.made("seeds", rows)
        responses = self.made(
            "teacher_responses", [Response(id=row.id, text="Well, " * (n % 4 + 1)) for n, row in enumerate(rows)]
        )
        student = Artifact("student", "key", Path("nowhere"), {}, {}, 0.0, reused=False)
        began = time.monotonic()
        try:
            blanks = tapir._seed_blanks(seeds, responses)[:-1]
            return tapir._examine(self.ws, 0, student, seeds, blanks, responses.key)
        finally:
            self.seconds = time.monotonic() - began

    def made(self, stage: str, rows: list[Example] | list[Response]) -> Artifact:
        return self.ws.rows(stage, None, {"rows": len(rows)}, lambda: StageOutput(rows, {}))

    def artifacts(self) -> dict[str, object]:
        """Name, place in the manifest, files and figures of everything that was made."""
        made = {entry.name: self.ws.store.open(entry.stage, entry.key) for entry in self.ws.entries}
        return {name: (artifact.key, artifact.files, artifact.figures) for name, artifact in made.items()}

    def spent(self) -> object:
        return self.call_store.ledger.by_stage(), self.call_store.ledger.faults(), self.call_store.ledger.given_up()


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> SlowStudent:
    student = SlowStudent()
    monkeypatch.setattr(generate, "answer_all", student)
    return student


@pytest.fixture
def opened() -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def open_run(config: Config, root: Path, *, along: bool = True) -> Run:
        runs.append(Run(config, root, along=along))
        return runs[-1]

    yield open_run
    for run in runs:
        run.call_store.close()


def test_it_takes_as_long_as_the_longer_of_the_two_and_nothing_else_differs(
    config: Config, judge: SlowJudge, student: SlowStudent, opened: Callable[..., Run], tmp_path: Path
) -> None:
    after, early = opened(config, tmp_path / "after", along=False), opened(config, tmp_path / "along")
    scored = after.examine()
    assert min(judge.asked_at) > max(student.wrote_at)
    calls = len(judge.asked_at)
    judge.asked_at.clear()
    student.wrote_at.clear()
    assert early.examine() == scored
    assert sum(asked < max(student.wrote_at) for asked in judge.asked_at) > calls / 2
    assert early.seconds < 0.75 * after.seconds
    assert len(judge.asked_at) == calls == 2 * (ROWS - 1) + 2  # the unreadable row is asked twice, in both orders
    assert list(early.artifacts()) == ["seeds", "teacher_responses", "student_responses-0", "verdicts-0"]
    assert early.artifacts() == after.artifacts()
    assert early.spent() == after.spent()


def test_nothing_is_asked_again_where_the_answers_or_the_verdicts_are_there(
    config: Config, judge: SlowJudge, student: SlowStudent, opened: Callable[..., Run], tmp_path: Path
) -> None:
    first = opened(config, tmp_path)
    scored = first.examine()
    calls = len(judge.asked_at)
    again = opened(config, tmp_path)
    assert again.examine() == scored
    assert list(again.artifacts()) == list(first.artifacts())
    for sidecar in tmp_path.glob(f"verdicts/*/{SIDECAR}"):
        sidecar.unlink()
    third = opened(config, tmp_path)
    assert third.examine() == scored
    assert (len(judge.asked_at), len(student.wrote_at)) == (calls, ROWS)


def test_what_a_stopped_run_was_told_is_not_paid_again(
    config: Config,
    judge: SlowJudge,
    student: SlowStudent,
    opened: Callable[..., Run],
    tmp_path: Path,
) -> None:
    student.fails_at = 2
    stopped = opened(config, tmp_path)
    with pytest.raises(MemoryError):
        stopped.examine()
    assert not list(tmp_path.glob(f"answers/*/{SIDECAR}"))
    told = replies(tmp_path)
    assert told == stopped.call_store.ledger.by_stage()["verdicts-0"]["judge"].calls > 0
    student.fails_at = None
    opened(config, tmp_path).examine()
    assert len(judge.asked_at) == 2 * (ROWS - 1) + 2


def test_a_judge_that_refuses_is_told_at_once_raised_at_the_end_and_costs_no_answer(
    config: Config,
    judge: SlowJudge,
    student: SlowStudent,
    opened: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[float] = []

    class Ear(Console):
        def print(self, *texts: object, **how: object) -> None:
            assert "judging S_0 has stopped" in str(texts[0])
            said.append(time.monotonic())

    monkeypatch.setattr(streaming, "console", Ear())
    judge.status = 401
    run = opened(config, tmp_path)
    with pytest.raises(EndpointError, match="refuses every call"):
        run.examine()
    assert said[0] < student.wrote_at[-1]
    assert len(student.wrote_at) == ROWS
    assert len(list(tmp_path.glob(f"answers/*/{SIDECAR}"))) == 1
    assert not list(tmp_path.glob(f"verdicts/*/{SIDECAR}"))
    judge.status = 200
    assert opened(config, tmp_path).examine()
    assert len(student.wrote_at) == ROWS


def test_too_many_failures_stop_the_run_as_ever(
    config: Config, student: SlowStudent, opened: Callable[..., Run], tmp_path: Path
) -> None:
    strict = replace(config, judge=replace(config.judge, max_failure_rate=0.0))
    with pytest.raises(TooManyFailures, match=r"2 of 22|1 of 22"):
        opened(strict, tmp_path).examine()


def test_ctrl_c_stops_writer_and_judge_within_seconds(
    config: Config, judge: SlowJudge, student: SlowStudent, opened: Callable[..., Run], tmp_path: Path
) -> None:
    run = opened(config, tmp_path)
    threading.Timer(4.5 * WRITE_S, lambda: signal.raise_signal(signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run.examine()
    assert run.seconds < 3
    time.sleep(3 * WRITE_S)
    assert len(student.wrote_at) < ROWS - 1
    assert not [thread for thread in threading.enumerate() if thread.name == "judging S_0"]
    assert replies(tmp_path) == len(judge.asked_at)


def replies(root: Path) -> int:
    with sqlite3.connect(root / CALLS_FILE) as call_store:
        return int(call_store.execute("SELECT count(*) FROM replies").fetchone()[0])


def test_batches_begin_after_the_answers(
    config: Config, student: SlowStudent, opened: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is sent whole, so all answers must be there."""
    sent: list[tuple[int, int]] = []

    class Desk:
        def __init__(self, *asked: object) -> None:
            pass

        async def fetch(self, asked: dict[str, ChatRequest], check: object) -> AsyncIterator[tuple[str, RawCompletion]]:
            sent.append((len(asked), len(list(tmp_path.glob(f"answers/*/{SIDECAR}")))))
            return
            yield

    monkeypatch.setattr(client, "BatchEndpoint", Desk)
    batched = replace(config, judge=replace(config.judge, llm=replace(config.judge.llm, batch=True)))
    opened(batched, tmp_path).examine()
    assert sent == [(2 * (ROWS - 1), 1)]


def test_answers_that_another_process_wrote_meanwhile_are_judged_all_the_same(
    config: Config, student: SlowStudent, opened: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of a sweep over judges want the same answers: one writes them, the others wait and find them there."""
    opened(config, tmp_path).examine()
    other = replace(config, judge=replace(config.judge, temperature=0.5))
    late, alone = opened(other, tmp_path), opened(other, tmp_path / "alone", along=False)
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "_hears", lambda *_: True)  # what was true a moment ago
        scored = late.examine()
    assert scored == alone.examine()
    assert late.artifacts() == alone.artifacts()


def test_a_run_whose_verdicts_another_process_made_meanwhile_lists_them_once(
    config: Config, student: SlowStudent, opened: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(config, tmp_path)
    first.examine()
    monkeypatch.setattr(scoring, "_hears", lambda *_: True)
    second = opened(config, tmp_path)
    second.examine()
    assert second.ws.entries == first.ws.entries
