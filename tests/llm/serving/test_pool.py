"""Chat models on local servers: crashes, hangs and shared servers."""

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
        request_log = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = request_log["messages"][-1]["content"]
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
def request_log(tmp_path: Path) -> Path:
    """Return the file in which the server logs process id and prompt of each request."""
    return tmp_path / "request_log.txt"


@pytest.fixture
def config(request_log: Path) -> LLMConfig:
    server = ServerConfig(command=["{python}", "-c", FAKE, "{port}", str(request_log)], max_restarts=2)
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
    def open_with(servers: ServerPool) -> Client:
        return Client(config, "teacher", call_store, server=servers.open(config.server, None, "teacher"))

    return open_with


def requests(*prompts: str) -> list[ChatRequest]:
    return [ChatRequest(messages=(Message(role="user", content=prompt),), max_tokens=5) for prompt in prompts]


def ask(client: Client, *prompts: str) -> list[str | None]:
    def text(reply: Completion) -> str:
        return reply.text

    results = run_requests(client, requests(*prompts), text, label="asking", concurrency=1, max_failure_rate=0.0)
    return [result.value for result in results]


def test_killed_server_is_restarted_without_paying_twice(
    open_client: Callable[[ServerPool], Client], request_log: Path, call_store: CallStore, tmp_path: Path
) -> None:
    servers = ServerPool(tmp_path / "logs")
    client = open_client(servers)
    prompts = ("one", "two", "fatal", "three", "two")
    try:
        with call_store.ledger.record_stage("asking") as spent:
            assert ask(client, *prompts) == [f"re: {prompt}" for prompt in prompts]
    finally:
        servers.close()
    lines = [line.split(" ", 1) for line in request_log.read_text().splitlines()]
    expected = ["one", "two", "fatal", "fatal", "three"]  # completed requests are not repeated
    assert [prompt for _, prompt in lines] == expected
    assert len({pid for pid, _ in lines}) == 2
    spend = spent["teacher"]
    assert (spend.calls, spend.cached) == (4, 1)
    assert {fault.kind for fault in call_store.ledger.failure_counts()} == {FailureKind.CONNECTION}


def test_repeated_crashes_end_stage_and_keep_completions(
    open_client: Callable[[ServerPool], Client], request_log: Path, call_store: CallStore, tmp_path: Path
) -> None:
    servers = ServerPool(tmp_path / "logs")
    client = open_client(servers)
    try:
        with pytest.raises(
            EndpointError,
            match=r"(?s)exited with status 4 \(failure 3; restart limit of 2 .*it is up.*same command again",
        ):
            ask(client, "one", "always fatal")
    finally:
        servers.close()
    assert client.count_cached(requests("one", "always fatal")) == 1


@pytest.mark.slow
def test_hanging_server_is_restarted(
    config: LLMConfig, call_store: CallStore, request_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert "t: server hangs; no answer from /health within 0.5 s; stopping it" in out.getvalue()
    assert "restarting it (1 of 2)" in out.getvalue()
    assert len({line.split()[0] for line in request_log.read_text().splitlines()}) == 2


@pytest.mark.slow
def test_slow_server_is_not_restarted(
    config: LLMConfig, call_store: CallStore, request_log: Path, tmp_path: Path
) -> None:
    servers = ServerPool(tmp_path / "logs")
    impatient = replace(config, timeout_s=1.0, max_attempts=2)
    client = Client(impatient, "teacher", call_store, server=servers.open(config.server, None, "teacher"))
    try:
        with pytest.raises(TapirError, match="time-out"):
            ask(client, "slow")
        assert ask(client, "one") == ["re: one"]
    finally:
        servers.close()
    assert len({line.split()[0] for line in request_log.read_text().splitlines()}) == 1


def test_server_identity_is_sha256_or_command() -> None:
    served_there = ServerConfig(command=["serve", "my model", "{port}"])
    assert server_identity(served_there, None) == "serve 'my model' '{port}'"
    assert server_identity(replace(served_there, weights="w"), "abc") == "abc"


def test_cached_requests_start_no_server(
    open_client: Callable[[ServerPool], Client], request_log: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        servers = ServerPool(tmp_path / "logs")
        try:
            assert ask(open_client(servers), "one") == ["re: one"]
        finally:
            servers.close()
    assert len(request_log.read_text().splitlines()) == 1
    assert (tmp_path / "logs" / "teacher.log").read_text().count("it is up") == 1


def test_roles_share_server_of_same_command(config: LLMConfig, tmp_path: Path) -> None:
    servers = ServerPool(tmp_path)
    first = servers.open(config.server, None, "teacher")
    assert servers.open(config.server, None, "judge") is first
    other = replace(config.server, command=[*config.server.command, "more"])
    assert servers.open(other, None, "judge") is not first


def test_cache_key_has_weights_but_no_port(config: LLMConfig, call_store: CallStore, tmp_path: Path) -> None:
    servers = ServerPool(tmp_path)
    server = servers.open(ServerConfig(command=["serve", "{weights}", "{port}"]), Path("/w.gguf"), "teacher")
    assert server._spec.arguments(1) == ["serve", "/w.gguf", "1"]
    client = Client(config, "teacher", call_store, version="abc", server=server)
    assert client.identity() == {"model": "openai/m", "api_base": None, "options": {}, "version": "abc"}


def test_server_requires_openai_compatible_model(config: LLMConfig, call_store: CallStore, tmp_path: Path) -> None:
    server = ServerPool(tmp_path).open(config.server, None, "teacher")
    with pytest.raises(ConfigError, match="a local server requires a model named openai/NAME, got anthropic/x"):
        Client(replace(config, model="anthropic/x"), "teacher", call_store, server=server).check()


def test_server_excludes_api_base(config: LLMConfig, call_store: CallStore, tmp_path: Path) -> None:
    server = ServerPool(tmp_path).open(config.server, None, "teacher")
    with pytest.raises(ConfigError, match="api_base must be null"):
        Client(replace(config, api_base="http://localhost:1/v1"), "teacher", call_store, server=server).check()


def test_cancelled_start_does_not_wait(config: LLMConfig, call_store: CallStore, tmp_path: Path) -> None:
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


def test_close_stops_all_processes(
    open_client: Callable[[ServerPool], Client], request_log: Path, tmp_path: Path
) -> None:
    servers = ServerPool(tmp_path / "logs")
    ask(open_client(servers), "one")
    servers.close()
    pid = int(request_log.read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
