"""The vLLM engine and its server process, with a fake of vLLM."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from generation import MAX_NEW_TOKENS, engine_config, generate_in_order, opened_engine

from tapir_exp.config import EngineKind
from tapir_exp.llm.serving.server import ManagedServer, ServerError, ServerSpec
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines import vllm
from tapir_exp.student.engines.base import Continuation
from tapir_exp.student.engines.factory import open_engine


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[ManagedServer]:
    """Return a list that every opened server is added to."""
    opened: list[ManagedServer] = []

    class RecordedServer(ManagedServer):
        def __init__(self, spec: ServerSpec) -> None:
            super().__init__(spec)
            opened.append(self)

    monkeypatch.setattr(vllm, "ManagedServer", RecordedServer)
    return opened


def test_server_stops_when_the_engine_closes(
    random_student: Path,
    chat: Chat,
    prompts: list[list[int]],
    expected: list[Continuation],
    servers: list[ManagedServer],
) -> None:
    with opened_engine(EngineKind.vllm, random_student, chat) as engine:
        indices = [index for index, _ in engine.generate(prompts, MAX_NEW_TOKENS)]
        assert servers[0].alive
    assert not servers[0].alive
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", int(servers[0].base.rpartition(":")[2])), 1).close()
    assert sorted(indices) == list(range(len(prompts)))


def test_server_that_crashes_once_is_restarted(
    random_student: Path, chat: Chat, prompts: list[list[int]], expected: list[Continuation], tmp_path: Path
) -> None:
    student = engine_config(EngineKind.vllm, 2, "crashes-once", tmp_path)
    with open_engine(random_student, chat, student) as engine:
        assert generate_in_order(engine, prompts) == expected
    assert (tmp_path / "crashed").exists()


@pytest.mark.slow
def test_server_that_crashes_again_fails_with_its_log(
    random_student: Path,
    chat: Chat,
    prompts: list[list[int]],
    expected: list[Continuation],
    servers: list[ManagedServer],
) -> None:
    student = engine_config(EngineKind.vllm, 2, "crashes")
    with (
        pytest.raises(ServerError, match=r"with status 3(.|\n)*CUDA out of memory"),
        open_engine(random_student, chat, student) as engine,
    ):
        generate_in_order(engine, prompts)
    assert not servers[0].alive


@pytest.mark.slow
def test_server_that_never_gets_healthy_times_out(
    random_student: Path, chat: Chat, servers: list[ManagedServer]
) -> None:
    student = engine_config(EngineKind.vllm, 2, "unhealthy")
    short = replace(student, vllm=replace(student.vllm, startup_timeout_s=1.5))
    with (
        pytest.raises(ServerError, match=r"within 1.5 s(.|\n)*loading the weights"),
        open_engine(random_student, chat, short),
    ):
        pass
    assert not servers[0].alive


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("rejects", "status 400(.|\n)*too long for this model"),
        ("no-token-ids", "no token ids"),
        ("aborts", "finish_reason 'abort'"),
    ],
)
def test_unusable_reply_is_an_error(
    fault: str, message: str, random_student: Path, chat: Chat, prompts: list[list[int]], expected: list[Continuation]
) -> None:
    with (
        pytest.raises(ServerError, match=message),
        open_engine(random_student, chat, engine_config(EngineKind.vllm, 2, fault)) as engine,
    ):
        generate_in_order(engine, prompts)
