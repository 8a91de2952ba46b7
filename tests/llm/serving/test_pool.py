"""A model that the run serves itself: the server killed in the middle of a stage, and nothing is lost or paid twice."""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tapir_exp.config import LLMConfig, ServerConfig
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.executor import run_requests
from tapir_exp.llm.failures import EndpointError, FailureKind
from tapir_exp.llm.serving import server
from tapir_exp.llm.serving.pool import ServerPool, server_identity

FAKE = """
import http.server, json, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(b"well")
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = asked["messages"][-1]["content"]
        with open(sys.argv[2], "a") as log: log.write(f"{os.getpid()} {prompt}\\n")
        if prompt == "fatal" and not os.path.exists(sys.argv[2] + ".died"):
            open(sys.argv[2] + ".died", "w").close()
            os.kill(os.getpid(), 9)
        if prompt == "always fatal": os._exit(4)
        if prompt == "hang" and not os.path.exists(sys.argv[2] + ".hung"):
            open(sys.argv[2] + ".hung", "w").close()
            Handler.do_GET = lambda self: time.sleep(60)
            time.sleep(60)
        if prompt == "slow": time.sleep(2.0)
        message = {"role": "assistant", "content": "re: " + prompt}
        usage = {"prompt_tokens": 5, "completion_tokens": 2}
        self.answer(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode())
    def log_message(self, *arguments): pass
print("it is up", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """What the server was asked: process and prompt, a line each."""
    return tmp_path / "asked.txt"


@pytest.fixture
def config(asked: Path) -> LLMConfig:
    server = ServerConfig(command=["{python}", "-c", FAKE, "{port}", str(asked)], max_restarts=2)
    return LLMConfig(
        model="openai/m",
        server=server,
        concurrency=1,
        timeout_s=20.0,
        usd_per_million_input=0.0,
        usd_per_million_output=0.0,
    )


@pytest.fixture
def open_client(config: LLMConfig, call_store: CallStore, tmp_path: Path) -> "Callable[[ServerPool], Client]":
    def opened(servers: ServerPool) -> Client:
        return Client(config, "teacher", call_store, server=servers.open(config.server, None, "teacher"))

    return opened


def requests(*prompts: str) -> list[ChatRequest]:
    return [ChatRequest(messages=(Message(role="user", content=prompt),), max_tokens=5) for prompt in prompts]


def ask(client: Client, *prompts: str) -> list[str | None]:
    def text(reply: Completion) -> str:
        return reply.text

    outcomes = run_requests(client, requests(*prompts), text, label="asking", concurrency=1, max_failure_rate=0.0)
    return [outcome.value for outcome in outcomes]


def test_a_server_killed_in_mid_stage_is_started_again_and_nothing_is_paid_twice(
    open_client: Callable[[ServerPool], Client], asked: Path, call_store: CallStore, tmp_path: Path
) -> None:
    servers = ServerPool(tmp_path / "logs")
    client = open_client(servers)
    prompts = ("one", "two", "fatal", "three", "two")
    try:
        with call_store.ledger.record_stage("asking") as spent:
            assert ask(client, *prompts) == [f"re: {prompt}" for prompt in prompts]
    finally:
        servers.close()
    lines = [line.split(" ", 1) for line in asked.read_text().splitlines()]
    expected = ["one", "two", "fatal", "fatal", "three"]  # nothing that was answered is asked again
    assert [prompt for _, prompt in lines] == expected
    assert len({pid for pid, _ in lines}) == 2
    spend = spent["teacher"]
    assert (spend.calls, spend.cached) == (4, 1)
    assert {fault.kind for fault in call_store.ledger.failure_counts()} == {FailureKind.CONNECTION}


def test_one_that_dies_too_often_ends_the_stage_with_its_reason_and_what_was_answered_is_kept(
    open_client: Callable[[ServerPool], Client], asked: Path, call_store: CallStore, tmp_path: Path
) -> None:
    servers = ServerPool(tmp_path / "logs")
    client = open_client(servers)
    try:
        with pytest.raises(
            EndpointError, match=r"(?s)died with status 4, for the 3\. time.*it is up.*same command again"
        ):
            ask(client, "one", "always fatal")
    finally:
        servers.close()
    assert client.count_cached(requests("one", "always fatal")) == 1


def test_one_that_hangs_is_stopped_and_started_again(
    config: LLMConfig, call_store: CallStore, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = StringIO()
    monkeypatch.setattr(server, "console", Console(file=out))
    monkeypatch.setattr(server, "HANG_TIMEOUT_S", 0.5)
    servers = ServerPool(tmp_path / "logs")
    client = Client(
        replace(config, timeout_s=1.0), "teacher", call_store, server=servers.open(config.server, None, "t")
    )
    try:
        assert ask(client, "one", "hang", "two") == ["re: one", "re: hang", "re: two"]
    finally:
        servers.close()
    assert "t: hangs, /health gave no answer within 0.5 s; stopping it" in out.getvalue()
    assert "starting it again (1 of 2)" in out.getvalue()
    assert len({line.split()[0] for line in asked.read_text().splitlines()}) == 2


def test_one_that_is_only_slow_goes_on(config: LLMConfig, call_store: CallStore, asked: Path, tmp_path: Path) -> None:
    servers = ServerPool(tmp_path / "logs")
    impatient = replace(config, timeout_s=1.0, max_attempts=2)
    client = Client(impatient, "teacher", call_store, server=servers.open(config.server, None, "teacher"))
    try:
        with pytest.raises(TapirError, match="time-out"):
            ask(client, "slow")
        assert ask(client, "one") == ["re: one"]
    finally:
        servers.close()
    assert len({line.split()[0] for line in asked.read_text().splitlines()}) == 1


def test_a_server_without_weights_of_ours_is_told_by_its_command() -> None:
    served_there = ServerConfig(command=["serve", "my model", "{port}"])
    assert server_identity(served_there, None) == "serve 'my model' '{port}'"
    assert server_identity(replace(served_there, weights="w"), "abc") == "abc"


def test_what_is_cached_starts_no_server(
    open_client: Callable[[ServerPool], Client], asked: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        servers = ServerPool(tmp_path / "logs")
        try:
            assert ask(open_client(servers), "one") == ["re: one"]
        finally:
            servers.close()
    assert len(asked.read_text().splitlines()) == 1
    assert (tmp_path / "logs" / "teacher.log").read_text().count("it is up") == 1


def test_roles_share_the_server_of_one_command(config: LLMConfig, tmp_path: Path) -> None:
    servers = ServerPool(tmp_path)
    first = servers.open(config.server, None, "teacher")
    assert servers.open(config.server, None, "judge") is first
    other = replace(config.server, command=[*config.server.command, "more"])
    assert servers.open(other, None, "judge") is not first


def test_the_weights_stand_in_the_command_and_the_port_in_no_cache_key(
    config: LLMConfig, call_store: CallStore, tmp_path: Path
) -> None:
    servers = ServerPool(tmp_path)
    server = servers.open(ServerConfig(command=["serve", "{weights}", "{port}"]), Path("/w.gguf"), "teacher")
    assert server._service.words(1) == ["serve", "/w.gguf", "1"]
    client = Client(config, "teacher", call_store, version="abc", server=server)
    assert client.identity() == {"model": "openai/m", "api_base": None, "options": {}, "version": "abc"}


def test_another_protocol_is_refused(config: LLMConfig, call_store: CallStore, tmp_path: Path) -> None:
    server = ServerPool(tmp_path).open(config.server, None, "teacher")
    with pytest.raises(ConfigError, match="speaks the OpenAI protocol"):
        Client(replace(config, model="anthropic/x"), "teacher", call_store, server=server).check()


def test_an_address_beside_a_server_of_one_s_own_is_refused(
    config: LLMConfig, call_store: CallStore, tmp_path: Path
) -> None:
    server = ServerPool(tmp_path).open(config.server, None, "teacher")
    with pytest.raises(ConfigError, match="api_base must be null"):
        Client(replace(config, api_base="http://localhost:1/v1"), "teacher", call_store, server=server).check()


def test_a_stop_during_the_start_does_not_wait_for_it(config: LLMConfig, call_store: CallStore, tmp_path: Path) -> None:
    slow = ServerConfig(command=["{python}", "-c", "import time; time.sleep(600)", "{port}"], startup_timeout_s=600.0)
    servers = ServerPool(tmp_path / "logs")
    client = Client(config, "teacher", call_store, server=servers.open(slow, None, "teacher"))

    async def interrupted() -> None:
        async with client.connected():
            call = asyncio.create_task(client._transport.send(requests("one")[0]))
            await asyncio.sleep(1.0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    asyncio.run(asyncio.wait_for(interrupted(), 20))
    servers.close()


def test_nothing_is_left_running(open_client: Callable[[ServerPool], Client], asked: Path, tmp_path: Path) -> None:
    servers = ServerPool(tmp_path / "logs")
    ask(open_client(servers), "one")
    servers.close()
    pid = int(asked.read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
