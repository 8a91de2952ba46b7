"""Asking in batches: the OpenAI protocol's /files and /batches, at half the price and within a day.

Which batch holds which request is kept on disk as soon as the provider has given the batch its id, and a batch whose id
was lost with a killed process is found again at the provider by its digest: nothing is submitted twice.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import Any

import aiohttp

from tapir_exp.config import LLMConfig
from tapir_exp.core.console import console
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.llm.failures import CallError, EndpointError, FailureKind, Policy, error_from_status, redact
from tapir_exp.llm.openai_transport import PARSE_ERRORS, OPENAI_API_BASE, HttpTransport, open_session, read_completion
from tapir_exp.llm.sqlite import Database
from tapir_exp.llm.transport import RawCompletion

SCHEMA = """
CREATE TABLE IF NOT EXISTS batched
    (account TEXT, key TEXT, batch TEXT, PRIMARY KEY (account, key)) WITHOUT ROWID;
"""
MAX_REQUESTS_PER_BATCH = 50_000
"""Requests that the protocol allows in one batch."""
POLL_S = 20.0
"""How often a batch is asked whether it has ended, and a question repeated that failed for a passing reason."""
MAX_TRIES = 15
"""Times that such a question is put: a provider that is down for minutes does not end a wait of hours."""
DIGEST_KEY = "tapir"
"""Name of the metadata entry in which a batch carries the digest of its keys."""
FINAL_STATUSES = frozenset({"completed", "failed", "expired", "cancelled"})
CONNECTION_ERRORS = (aiohttp.ClientError, TimeoutError)
"""How a lost connection shows."""

Json = Mapping[str, Any]


class BatchRecords:
    """Which requests are in which batch, by account, until their results are read; on disk, to outlive any process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def holding(self, account: str, keys: Iterable[str]) -> dict[str, str]:
        """The batch of each of these keys that is in one."""
        rows = self._database.run("SELECT key, batch FROM batched WHERE account = ?", account)
        batch_of = dict(rows.fetchall())
        return {key: batch_of[key] for key in keys if key in batch_of}

    def add(self, account: str, batch: str, keys: Iterable[str]) -> None:
        """Remember a submitted batch."""
        with self._database.transaction():
            rows = [(account, key, batch) for key in keys]
            self._database.run_many("INSERT OR REPLACE INTO batched VALUES (?, ?, ?)", rows)

    def forget(self, account: str, keys: Iterable[str]) -> None:
        """These keys have been read; a batch is forgotten with its last one."""
        with self._database.transaction():
            rows = [(account, key) for key in keys]
            self._database.run_many("DELETE FROM batched WHERE account = ? AND key = ?", rows)


@dataclass(frozen=True)
class BatchEndpoint:
    """An endpoint that takes batches. `role` is for messages only."""

    config: LLMConfig
    key: str | None
    role: str
    batches: BatchRecords

    async def fetch(
        self, requests: Mapping[str, ChatRequest], check: Callable[[], None]
    ) -> AsyncIterator[tuple[str, RawCompletion]]:
        """The responses to `requests`, by their keys, as their batches end; what a batch could not answer is absent.

        check: called before each submission; what it raises ends the fetch. What a process that was stopped has
        submitted is read, not submitted again; batches that hold nothing of `requests` are left to who wants them.
        Raises EndpointError where the endpoint takes no batches, or refuses one.
        """
        async with open_session(self.config, self.key) as session:
            api = _BatchApi(session, (self.config.api_base or OPENAI_API_BASE).rstrip("/"), self.role, self.key)
            await self._submit(api, requests, check)
            keys_of = defaultdict(set)
            for key, batch in self.batches.holding(self._account, requests).items():
                keys_of[batch].add(key)
            for batch, keys in keys_of.items():
                async for key, response in self._results(api, batch):
                    if key in keys:
                        yield key, response
                self.batches.forget(self._account, keys)

    @property
    def _account(self) -> str:
        return f"{self.config.api_base} {self.config.model} {self.config.api_key_env}"

    async def _submit(self, api: "_BatchApi", requests: Mapping[str, ChatRequest], check: Callable[[], None]) -> None:
        """Submit what is in no batch yet."""
        under_way = self.batches.holding(self._account, requests)
        keys = [key for key in requests if key not in under_way]
        for start in range(0, len(keys), MAX_REQUESTS_PER_BATCH):
            check()
            some = keys[start : start + MAX_REQUESTS_PER_BATCH]
            batch = await api.adopt(batch_digest(some)) or await api.submit(
                self._lines(requests, some), batch_digest(some)
            )
            self.batches.add(self._account, batch, some)

    def _lines(self, requests: Mapping[str, ChatRequest], keys: Sequence[str]) -> bytes:
        """The file of a batch: one request a line, named by its key."""
        body_of = HttpTransport(self.config, None).body_of
        lines = (
            {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body_of(requests[key])}
            for key in keys
        )
        return "".join(json.dumps(line) + "\n" for line in lines).encode()

    async def _results(self, api: "_BatchApi", batch: str) -> AsyncIterator[tuple[str, RawCompletion]]:
        output = await api.wait_for(batch)
        if output is None:
            return
        async for line in api.lines(output):
            response = line.get("response") or {}
            if response.get("status_code") == HTTPStatus.OK:
                with suppress(*PARSE_ERRORS):  # what is no completion is absent, as what failed is
                    yield line["custom_id"], read_completion(response["body"])


@dataclass(frozen=True)
class _BatchApi:
    """The calls of the batch protocol."""

    session: aiohttp.ClientSession
    base: str
    role: str
    key: str | None

    async def submit(self, lines: bytes, digest: str) -> str:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", lines, filename=f"{digest}.jsonl", content_type="application/jsonl")
        file = await self._call("POST", "files", data=form)
        asked = {
            "input_file_id": file["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {DIGEST_KEY: digest},
        }
        batch = await self._call("POST", "batches", json=asked)
        return str(batch["id"])

    async def adopt(self, digest: str) -> str | None:
        """The batch of these keys that the provider has already and that did not fail."""
        listed = await self._call("GET", "batches", params={"limit": "100"})
        for batch in listed.get("data", []):
            if (batch.get("metadata") or {}).get(DIGEST_KEY) == digest and batch["status"] not in FINAL_STATUSES - {
                "completed"
            }:
                return str(batch["id"])
        return None

    async def wait_for(self, batch: str) -> str | None:
        """Wait until a batch has ended; the id of its results, None where it has none."""
        while (told := await self._call("GET", f"batches/{batch}"))["status"] not in FINAL_STATUSES:
            counts = told.get("request_counts") or {}
            console.print(
                f"{self.role}: batch {batch} is {told['status']}, {counts.get('completed', 0)} of "
                f"{counts.get('total', 0)} done; stop at will, the same command asks for it again",
                soft_wrap=True,
            )
            await asyncio.sleep(POLL_S)
        return told.get("output_file_id")

    async def lines(self, file: str) -> AsyncIterator[Json]:
        """The lines of a file at the provider, one at a time and as slowly as they are taken."""
        path = f"files/{file}/content"
        unhurried = aiohttp.ClientTimeout(total=None, sock_read=self.session.timeout.total)
        try:
            async with self.session.get(f"{self.base}/{path}", timeout=unhurried) as response:
                if response.status != HTTPStatus.OK:
                    raise error_from_status(response.status, await response.text(), key=self.key)
                async for line in response.content:
                    if line.strip():
                        yield json.loads(line)
        except (*CONNECTION_ERRORS, ValueError, CallError) as error:
            raise self._refusal(path, error) from None

    async def _call(self, method: str, path: str, **arguments: Any) -> Json:
        """Put a question; one that changes nothing is put again where it fails for a passing reason."""
        for left in reversed(range(MAX_TRIES if method == "GET" else 1)):
            try:
                return await self._try(method, path, **arguments)
            except CallError as error:
                if error.kind.policy is not Policy.RETRY or not left:
                    raise self._refusal(path, error) from None
                await asyncio.sleep(POLL_S)
        raise AssertionError("the last try returns or raises")

    async def _try(self, method: str, path: str, **arguments: Any) -> Json:
        try:
            async with self.session.request(method, f"{self.base}/{path}", **arguments) as response:
                text = await response.text()
        except CONNECTION_ERRORS as error:
            raise CallError(FailureKind.CONNECTION, type(error).__name__) from None
        if response.status != HTTPStatus.OK:
            raise error_from_status(response.status, text, key=self.key)
        with suppress(ValueError):
            if isinstance(told := json.loads(text), dict):
                return told
        raise CallError(FailureKind.MALFORMED, text)

    def _refusal(self, path: str, error: Exception) -> EndpointError:
        return EndpointError(
            f"{self.role}: {self.base}/{path}: {redact(str(error), self.key)}. Does this endpoint take batches? If not, "
            f"set batch: false; what is under way is asked for again by the same command."
        )


def batch_digest(keys: Sequence[str]) -> str:
    """What tells a batch from others: 32 hex digits over its keys, whatever their order."""
    return sha256("\n".join(sorted(keys)).encode()).hexdigest()[:32]
