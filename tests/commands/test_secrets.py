"""An API key, which the provider quotes in every error message, is in nothing that a run writes."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from preloaded import Finished, run_preloaded
from serving import serving

from tapir_exp.lab.oracle import respond
from tapir_exp.llm.chat import Usage

pytestmark = pytest.mark.slow

KEY = "q7Zk-planted-key-Wv93xT"
OPTIONS = {"error_rate": 0.05, "expansion_error_rate": 0.05, "noise": 0.5, "position_bias": 0.7}
TINY = ["debug=tiny", "allow_lab_parts=true", "curriculum.rounds=1", "logger=offline"]


class LeakyProvider:
    """Serve the lab's oracles over HTTP. They require the key, fail now and then, and quote the key when they fail."""

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self.base = ""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        self.tries[prompt] += 1
        header = request.headers.get("Authorization")
        if header != f"Bearer {KEY}":
            return web.json_response({"error": {"message": f"wrong key {header}"}}, status=401)
        if len(prompt) % 7 == 0 and self.tries[prompt] == 1:
            return web.Response(text=f"<html>500: the key {KEY} upset us, {header}</html>", status=500)
        if len(prompt) % 29 == 0:
            return web.json_response({"error": {"message": f"bad request from {KEY}"}}, status=400)
        text = respond(body["model"], body["messages"], OPTIONS, body["temperature"], self.tries[prompt])
        usage = Usage(prompt_tokens=9, completion_tokens=9, usd=None).model_dump(exclude={"usd"})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        common = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        return web.json_response({**common, "choices": [choice], "usage": {**usage, "total_tokens": 18}})


@pytest.fixture
def provider() -> Iterator[LeakyProvider]:
    with serving(LeakyProvider()) as provider:
        yield provider


def tapir(home: Path, provider: LeakyProvider, *overrides: str, key: str = KEY) -> Finished:
    roles = {"teacher": "teacher", "judge": "judge", "classifier": "labeller"}
    endpoints = [
        setting
        for group, model in roles.items()
        for setting in (
            f"{group}=local_openai_compatible",
            f"{group}.llm.model=openai/{model}",
            f"{group}.llm.api_base={provider.base}",
            f"{group}.llm.api_key_env=TAPIR_TEST_KEY",
            f"{group}.max_failure_rate=0.5",
        )
    ]
    arguments = [f"outputs={home}", "teacher.max_rouge_l=1", *endpoints, *TINY, *overrides]
    return run_preloaded(arguments, env={**os.environ, "TAPIR_TEST_KEY": key})


def files_with(secret: str, home: Path) -> list[str]:
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 10
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("use_litellm", ["false", "true"])
def test_run_writes_the_key_nowhere(provider: LeakyProvider, tmp_path: Path, use_litellm: str) -> None:
    transports = [f"{group}.llm.use_litellm={use_litellm}" for group in ("teacher", "judge", "classifier")]
    result = tapir(tmp_path, provider, *transports)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert any(tries > 1 for tries in provider.tries.values())
    assert KEY not in output
    assert files_with(KEY, tmp_path) == []
    assert files_with("bad request from", tmp_path) != []  # the reason of a failed row is stored, without the key


def test_run_without_access_writes_the_key_nowhere(provider: LeakyProvider, tmp_path: Path) -> None:
    wrong = "wrong-planted-key-8c1f"
    result = tapir(tmp_path, provider, key=wrong)
    output = result.stdout + result.stderr
    assert result.returncode == 1
    assert "does not accept the key in TAPIR_TEST_KEY" in output
    assert wrong not in output
    assert files_with(wrong, tmp_path) == []
