"""Chat models that the run serves itself: their servers, shared by the roles that use the same one."""

import asyncio
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tapir_exp.config import LLMConfig, ServerConfig
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.llm.failures import CallError, EndpointError, FailureKind
from tapir_exp.llm.openai_transport import HttpTransport
from tapir_exp.llm.serving.server import ManagedServer, ServerError, ServerSpec
from tapir_exp.llm.transport import RawCompletion

WEIGHTS_PLACEHOLDER = "{weights}"
"""What stands in a command for the file of the weights."""


def server_identity(config: ServerConfig, sha256: str | None) -> str:
    """What tells the model behind a server from another: its weights by hash, else the command that serves it."""
    return sha256 or shlex.join(config.command)


class ServerPool:
    """The servers of one job, each started when first needed; `close` stops them all."""

    def __init__(self, logs: Path) -> None:
        """logs: directory of what they print."""
        self._logs = logs
        self._running: dict[tuple[str, ...], ManagedServer] = {}

    def open(self, config: ServerConfig, weights: Path | None, role: str) -> ManagedServer:
        """The server of a configuration; the same command is one server, whatever roles it plays."""
        command = tuple(word.replace(WEIGHTS_PLACEHOLDER, str(weights or "")) for word in config.command)
        if command not in self._running:
            log = self._logs / f"{role}.log"
            service = ServerSpec(role, command, log, config.health_path, config.startup_timeout_s, config.max_restarts)
            self._running[command] = ManagedServer(service)
        return self._running[command]

    def close(self) -> None:
        """Stop them."""
        for server in self._running.values():
            server.stop()


class ServedTransport:
    """An endpoint behind a server of the run's own, which is started, or started again, before a call that needs it."""

    def __init__(self, config: LLMConfig, key: str | None, server: ManagedServer) -> None:
        self._server = server
        self._direct = HttpTransport(replace(config, api_base=f"{server.base}/v1"), key)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Open the session."""
        async with self._direct.connected():
            yield

    async def send(self, request: ChatRequest) -> RawCompletion:
        """Send a request once; where it runs out of time and the server hangs, the next one finds another server.

        Raises CallError; EndpointError with the server's last words where it cannot serve.
        """
        await self._ensure()
        try:
            return await self._direct.send(request)
        except CallError as error:
            if error.kind is FailureKind.TIMEOUT:
                await asyncio.to_thread(self._server.end_if_hung)
            raise

    async def _ensure(self) -> None:
        if self._server.ready:
            return
        try:
            await asyncio.to_thread(self._server.ensure)
        except ServerError as error:
            raise EndpointError(str(error)) from None
        except asyncio.CancelledError:  # who waits for the start would not hear of the end
            self._server.stop()
            raise
