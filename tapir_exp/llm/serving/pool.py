"""Local servers of chat models, shared by all roles with the same command."""

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
from tapir_exp.llm.parameters import EndpointParameters
from tapir_exp.llm.serving.server import ManagedServer, ServerError, ServerSpec
from tapir_exp.llm.transport import RawCompletion


def server_identity(config: ServerConfig, sha256: str | None) -> str:
    """Return what identifies the model of a server: the SHA-256 of its weights, else its command."""
    return sha256 or shlex.join(config.command)


class ServerPool:
    """The servers of one job. Each is started at its first call, and `close` stops all of them."""

    def __init__(self, logs: Path) -> None:
        """Create an empty pool; `logs` is the directory of the log files."""
        self._logs = logs
        self._servers: dict[tuple[str, ...], ManagedServer] = {}

    def open(self, config: ServerConfig, weights: Path | None, role: str) -> ManagedServer:
        """Return the server of a configuration; roles with the same command share one server.

        Args:
            config: Command and limits.
            weights: File that replaces {weights} in the command.
            role: Name of the server and of its log, if this is the first role with the command.
        """
        path = str(weights or "")
        command = (*config.command, path)
        if command not in self._servers:
            log, limits = self._logs / f"{role}.log", (config.startup_timeout_s, config.max_restarts)
            spec = ServerSpec(role, tuple(config.command), log, config.health_path, *limits, weights=path)
            self._servers[command] = ManagedServer(spec)
        return self._servers[command]

    def close(self) -> None:
        """Stop all servers."""
        for server in self._servers.values():
            server.stop()


class ServedTransport:
    """Transport to a local server, which is started or restarted before a call if it is not running."""

    def __init__(self, config: LLMConfig, key: str | None, server: ManagedServer) -> None:
        self._server = server
        # The port is known before the server starts.
        self._http = HttpTransport(replace(config, api_base=f"{server.base}/v1"), key)

    @property
    def parameters(self) -> EndpointParameters:
        """Return the server's names of parameters."""
        return self._http.parameters

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Open the session."""
        async with self._http.connected():
            yield

    async def send(self, request: ChatRequest) -> RawCompletion:
        """Send a request once. If it times out and the server hangs, the server is stopped; the next call restarts it.

        Raises:
            CallError: If the call fails.
            EndpointError: If the server cannot serve; the message includes the last lines of its log.
        """
        await self._ensure()
        try:
            return await self._http.send(request)
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
        except asyncio.CancelledError:
            # The thread that waits for the start cannot be cancelled: stopping the server ends it.
            self._server.stop()
            raise
