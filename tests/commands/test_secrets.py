"""A key planted in the environment, and quoted by the provider in every error, is in nothing that a run writes."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from serving import serving

from tapir_exp.lab.oracle import respond
from tapir_exp.llm.chat import Usage

pytestmark = pytest.mark.slow

KEY = "q7Zk-planted-key-Wv93xT"
OPTIONS = {"error_rate": 0.05, "expansion_error_rate": 0.05, "noise": 0.5, "position_bias": 0.7}
TINY = [
    "seeds.size=60",
    "curriculum.rows_per_round=40",
    "curriculum.rounds=1",
    "sft.seed_stage.max_tokens=4000",
    "sft.round_stage.max_tokens=4000",
    "sft.global_batch_size=8",
    "student.max_new_tokens=16",
    "evals.problems_per_level=1",
]


class Indiscreet:
    """The lab's oracles behind HTTP: they want the key, and quote it when they fail, which they do now and then."""

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self.base = ""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        self.tries[prompt] += 1
        given = request.headers.get("Authorization")
        if given != f"Bearer {KEY}":
            return web.json_response({"error": {"message": f"wrong key {given}"}}, status=401)
        if len(prompt) % 7 == 0 and self.tries[prompt] == 1:
            return web.Response(text=f"<html>500: the key {KEY} upset us, {given}</html>", status=500)
        if len(prompt) % 29 == 0:
            return web.json_response({"error": {"message": f"bad request from {KEY}"}}, status=400)
        text = respond(body["model"], body["messages"], OPTIONS, body["temperature"], self.tries[prompt])
        usage = Usage(prompt_tokens=9, completion_tokens=9, usd=None).model_dump(exclude={"usd"})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        told = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        return web.json_response({**told, "choices": [choice], "usage": {**usage, "total_tokens": 18}})


@pytest.fixture
def provider() -> Iterator[Indiscreet]:
    with serving(Indiscreet()) as provider:
        yield provider


def tapir(home: Path, provider: Indiscreet, *overrides: str, key: str = KEY) -> "subprocess.CompletedProcess[bytes]":
    roles = {"teacher": "teacher", "judge": "judge", "classifier": "labeller"}
    reached = [
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
    command = [
        sys.executable,
        "-m",
        "tapir_exp",
        f"outputs={home}",
        "teacher.max_rouge_l=1",
        *reached,
        *TINY,
        *overrides,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TAPIR_TEST_KEY": key}
    return subprocess.run(command, capture_output=True, env=environment, timeout=240)


def places_of(secret: str, home: Path) -> list[str]:
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 20
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("use_litellm", ["false", "true"])
def test_a_whole_run_writes_the_key_nowhere(provider: Indiscreet, tmp_path: Path, use_litellm: str) -> None:
    ways = [f"{group}.llm.use_litellm={use_litellm}" for group in ("teacher", "judge", "classifier")]
    done = tapir(tmp_path, provider, *ways)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    assert any(tries > 1 for tries in provider.tries.values())
    assert KEY not in said
    assert places_of(KEY, tmp_path) == []
    assert places_of("bad request from", tmp_path) != []  # the reason of a given-up row is kept, without the key


def test_a_run_that_is_refused_tells_the_key_to_nobody(provider: Indiscreet, tmp_path: Path) -> None:
    wrong = "wrong-planted-key-8c1f"
    done = tapir(tmp_path, provider, key=wrong)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 1
    assert "refuses every call: no access: 401" in said
    assert wrong not in said
    assert places_of(wrong, tmp_path) == []
