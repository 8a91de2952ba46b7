"""The engine of vLLM: its OpenAI-compatible server, in a Python environment of its own, while answers are written.

vLLM needs another transformers than we do, so nothing of it is imported. The server is a child process on a free port
of this machine; it is asked with token ids and answers with token ids, so no tokenizer but ours is ever between them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from transformers import GenerationConfig

from tapir_exp.config import StudentConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.llm.serving.server import PORT, ManagedServer, ServerError, ServerSpec, tail_log
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.base import Continuation, stop_token_ids
from tapir_exp.student.engines.sampling import SamplingParams
from tapir_exp.student.loading import GENERATION_CONFIG, find_adapter
from tapir_exp.student.saving import save_merged

SERVED_MODEL_NAME = "student"
"""What the server calls the model."""
MAX_ATTEMPTS = 3
"""How often a prompt is asked, should the server fail or die."""
MAX_RESTARTS = 1
"""How often it is started again within one stage."""
RETRY_DELAY_S = 0.5
"""Before a prompt is asked again; a server that has died is seen to have died by then."""


@contextmanager
def open_vllm(student_dir: Path, chat: Chat, student: StudentConfig) -> Iterator["VllmEngine"]:
    """The student behind a server of its own, which is stopped at the end, its memory given back.

    An adapter, or a model of the hub, is first written down whole. Raises ServerError, with the last lines of the
    server's log, where it does not serve in time.
    """
    with TemporaryDirectory(prefix="tapir-vllm-") as folder:
        whole = student_dir
        if not student_dir.is_dir() or find_adapter(student_dir, student) is not None:
            whole = Path(folder, "student")
            save_merged(student_dir, student, whole)
        service = _server_spec(whole, student, Path(folder, "server.log"))
        with ManagedServer(service) as server:
            server.ensure()
            yield VllmEngine(server, service.log, _load_stop_token_ids(whole, chat), student)


class VllmEngine:
    """A running server, asked for many prompts at once; it batches them itself."""

    def __init__(self, server: ManagedServer, log: Path, stops: frozenset[int], student: StudentConfig) -> None:
        self._server = server
        self._log = log
        self._stops = stops
        self._config = student.vllm

    def generate(
        self, prompts: Sequence[Sequence[int]], limit: int, draws: Sequence[SamplingParams] | None = None
    ) -> Iterator[tuple[int, Continuation]]:
        """As `Engine.generate`, greedy only. Raises ServerError where a prompt cannot be answered."""
        if draws is not None:
            raise ConfigError(["student.engine: vllm does not take sampled answers; set student.engine=transformers"])
        with asyncio.Runner() as runner:
            coming = self._answers(prompts, limit)
            while (answer := runner.run(_next_or_none(coming))) is not None:
                yield answer

    async def _answers(self, prompts: Sequence[Sequence[int]], limit: int) -> AsyncIterator[tuple[int, Continuation]]:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=self._config.timeout_s)
        connector = aiohttp.TCPConnector(limit=self._config.concurrency)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            answers = (self._answer(session, place, prompt, limit) for place, prompt in enumerate(prompts))
            tasks = [asyncio.create_task(answer) for answer in answers]
            try:
                for answered in asyncio.as_completed(tasks):
                    yield await answered
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(
        self, session: aiohttp.ClientSession, place: int, prompt: Sequence[int], limit: int
    ) -> tuple[int, Continuation]:
        trouble = ""
        for _ in range(MAX_ATTEMPTS):
            try:
                async with session.post(f"{self._server.base}/v1/completions", json=self._ask(prompt, limit)) as reply:
                    if reply.ok:
                        return place, self._read(await reply.json())
                    trouble = f"status {reply.status}: {(await reply.text())[:500]}"
                    if reply.status < 500:
                        break
            except (aiohttp.ClientError, TimeoutError) as error:
                trouble = f"{type(error).__name__} {error}"
            await asyncio.sleep(RETRY_DELAY_S)
            await asyncio.to_thread(self._server.ensure)
        raise self._failure(trouble)

    def _ask(self, prompt: Sequence[int], limit: int) -> dict[str, Any]:
        greedy = {"temperature": 0.0, "stop_token_ids": sorted(self._stops), "return_token_ids": True}
        return {"model": SERVED_MODEL_NAME, "prompt": list(prompt), "max_tokens": limit, **greedy}

    def _read(self, reply: dict[str, Any]) -> Continuation:
        choice = reply["choices"][0]
        tokens, reason = choice.get("token_ids"), choice.get("finish_reason")
        if tokens is None or reason not in ("stop", "length"):
            raise self._failure(f"a reply without token ids (they came with vLLM 0.10.2), or ended by {reason!r}")
        stopped = reason == "stop"
        at_end = stopped and bool(tokens) and tokens[-1] in self._stops
        return Continuation(tuple(tokens[:-1] if at_end else tokens), finished=stopped)

    def _failure(self, what: str) -> ServerError:
        return ServerError(f"vllm: {what}\nThe last lines of its log:\n{tail_log(self._log)}")


async def _next_or_none(coming: AsyncIterator[tuple[int, Continuation]]) -> tuple[int, Continuation] | None:
    return await anext(coming, None)


def _server_spec(student_dir: Path, student: StudentConfig, log: Path) -> ServerSpec:
    """The server's command; it is to leave alone what the base's makers wished for, such as penalties for repeating."""
    config, length = student.vllm, student.max_length + student.max_new_tokens
    place = ("--served-model-name", SERVED_MODEL_NAME, "--host", "127.0.0.1", "--port", PORT)
    how = ("--dtype", student.precision.value, "--max-model-len", str(length), "--generation-config", "vllm")
    command = (*config.executable, "serve", str(student_dir), *place, *how, *config.extra_args)
    return ServerSpec("vllm", command, log, startup_timeout_s=config.startup_timeout_s, max_restarts=MAX_RESTARTS)


def _load_stop_token_ids(student_dir: Path, chat: Chat) -> frozenset[int]:
    there = (student_dir / GENERATION_CONFIG).is_file()
    return stop_token_ids(GenerationConfig.from_pretrained(str(student_dir)) if there else None, chat)
