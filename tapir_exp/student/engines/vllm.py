"""The vLLM engine: vLLM's OpenAI-compatible server, in its own Python environment, while the engine is open.

vLLM needs another version of transformers, so this module does not import vLLM. The server is a child process on a
free port of this machine. Requests and replies hold token ids, so only our tokenizer is ever used.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from transformers import GenerationConfig

from tapir_exp.config import StudentConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.event_loop import iterate
from tapir_exp.llm.serving.server import PORT, WEIGHTS, ManagedServer, ServerError, ServerSpec, tail_log
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.base import Continuation, stop_token_ids
from tapir_exp.student.engines.sampling import SamplingParams
from tapir_exp.student.loading import GENERATION_CONFIG, find_adapter
from tapir_exp.student.saving import save_merged

SERVED_MODEL_NAME = "student"
"""Name of the model in requests to the server."""
MAX_ATTEMPTS = 3
"""Attempts per prompt, if requests fail or the server exits."""
MAX_RESTARTS = 1
"""Restarts of the server while the engine is open."""
RETRY_DELAY_S = 0.5
"""Seconds before the next attempt. By then the exit of a crashed server has been detected."""


@contextmanager
def open_vllm(student_dir: Path, chat: Chat, student: StudentConfig) -> Iterator["VllmEngine"]:
    """Start a server for the student, and stop it on exit, which frees its memory.

    An adapter or a hub model is first saved as a whole model in a temporary directory.

    Raises:
        ServerError: The server is not healthy in time; the message has the last lines of its log.
    """
    with TemporaryDirectory(prefix="tapir-vllm-") as folder:
        model_dir = student_dir
        if not student_dir.is_dir() or find_adapter(student_dir, student) is not None:
            model_dir = Path(folder, "student")
            save_merged(student_dir, student, model_dir)
        spec = _server_spec(model_dir, student, Path(folder, "server.log"))
        with ManagedServer(spec) as server:
            server.ensure()
            yield VllmEngine(server, spec.log, _load_stop_token_ids(model_dir, chat), student)


class VllmEngine:
    """Sends many prompts at once to a running server, which batches them."""

    def __init__(self, server: ManagedServer, log: Path, stop_ids: frozenset[int], student: StudentConfig) -> None:
        self._server = server
        self._log = log
        self._stop_ids = stop_ids
        self._config = student.vllm

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        params: Sequence[SamplingParams] | None = None,
        done: AbstractSet[int] = frozenset(),
    ) -> Iterator[tuple[int, Continuation]]:
        """Yield continuations as `Engine.generate` specifies, greedy only.

        Raises:
            ConfigError: There are sampling parameters.
            ServerError: The server rejects a prompt, or all attempts fail.
        """
        if params is not None:
            raise ConfigError(
                ["student.engine=vllm does not support sampled responses; set student.engine=transformers"]
            )
        yield from iterate(self._generate(prompts, max_new_tokens, done))

    async def _generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, done: AbstractSet[int]
    ) -> AsyncIterator[tuple[int, Continuation]]:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=self._config.timeout_s)
        connector = aiohttp.TCPConnector(limit=self._config.concurrency)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            missing = (index for index in range(len(prompts)) if index not in done)
            requests = (self._request(session, index, prompts[index], max_new_tokens) for index in missing)
            # A task takes kilobytes, so a second set of them waits for a connection, and no more.
            tasks = {asyncio.create_task(request) for request in islice(requests, 2 * self._config.concurrency)}
            try:
                while tasks:
                    finished, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    tasks |= {asyncio.create_task(request) for request in islice(requests, len(finished))}
                    for task in finished:
                        yield task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _request(
        self, session: aiohttp.ClientSession, index: int, prompt: Sequence[int], max_new_tokens: int
    ) -> tuple[int, Continuation]:
        body, error_text = self._body(prompt, max_new_tokens), ""
        for _ in range(MAX_ATTEMPTS):
            try:
                async with session.post(f"{self._server.base}/v1/completions", json=body) as reply:
                    if reply.ok:
                        return index, self._parse(await reply.json())
                    error_text = f"status {reply.status}: {(await reply.text())[:500]}"
                    if reply.status < 500:  # the request itself is wrong, so a repetition would fail again
                        break
            except (aiohttp.ClientError, TimeoutError) as error:
                error_text = f"{type(error).__name__} {error}"
            await asyncio.sleep(RETRY_DELAY_S)
            await asyncio.to_thread(self._server.ensure)
        raise self._error(error_text)

    def _body(self, prompt: Sequence[int], max_new_tokens: int) -> dict[str, Any]:
        greedy = {"temperature": 0.0, "stop_token_ids": sorted(self._stop_ids), "return_token_ids": True}
        return {"model": SERVED_MODEL_NAME, "prompt": list(prompt), "max_tokens": max_new_tokens, **greedy}

    def _parse(self, reply: dict[str, Any]) -> Continuation:
        choice = reply["choices"][0]
        tokens, reason = choice.get("token_ids"), choice.get("finish_reason")
        if tokens is None:
            raise self._error("a reply has no token ids; vLLM 0.10.2 or later is required")
        if reason not in ("stop", "length"):
            raise self._error(f"a reply has finish_reason {reason!r} (expected 'stop' or 'length')")
        stopped = reason == "stop"
        has_end = stopped and bool(tokens) and tokens[-1] in self._stop_ids
        return Continuation(tuple(tokens[:-1] if has_end else tokens), finished=stopped)

    def _error(self, message: str) -> ServerError:
        return ServerError(f"vllm: {message}\nThe last lines of its log:\n{tail_log(self._log)}")


def _server_spec(model_dir: Path, student: StudentConfig, log: Path) -> ServerSpec:
    config, max_model_len = student.vllm, student.max_length + student.max_new_tokens
    network = ("--served-model-name", SERVED_MODEL_NAME, "--host", "127.0.0.1", "--port", PORT)
    # "vllm" ignores the model's generation settings, such as a repetition penalty, which greedy decoding must not have.
    model = ("--dtype", student.precision.value, "--max-model-len", str(max_model_len), "--generation-config", "vllm")
    command = (*config.executable, "serve", WEIGHTS, *network, *model, *config.extra_args)
    return ServerSpec(
        "vllm",
        command,
        log,
        startup_timeout_s=config.startup_timeout_s,
        max_restarts=MAX_RESTARTS,
        weights=str(model_dir),
    )


def _load_stop_token_ids(model_dir: Path, chat: Chat) -> frozenset[int]:
    exists = (model_dir / GENERATION_CONFIG).is_file()
    return stop_token_ids(GenerationConfig.from_pretrained(str(model_dir)) if exists else None, chat)
