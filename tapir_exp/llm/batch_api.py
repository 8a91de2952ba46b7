"""Batch API of OpenAI-compatible endpoints (/files and /batches): half the price, results within a day.

No request is submitted twice. Its batch is recorded as soon as the provider returns the id of the batch. If a process
is killed before that, the next one finds the batch at the provider by its digest.
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
from tapir_exp.llm.failures import CallError, EndpointError, FailureKind, Policy, redact
from tapir_exp.llm.openai_transport import PARSE_ERRORS, HttpTransport, base_of, open_session, read_completion
from tapir_exp.llm.provider_errors import read_error
from tapir_exp.llm.reply_size import ERROR_BYTES, read_pieces
from tapir_exp.llm.sqlite import Database
from tapir_exp.llm.transport import RawCompletion

SCHEMA = """
CREATE TABLE IF NOT EXISTS batched
    (account TEXT, key TEXT, batch TEXT, PRIMARY KEY (account, key)) WITHOUT ROWID;
"""
MAX_REQUESTS_PER_BATCH = 50_000
"""Largest batch that the protocol allows."""
POLL_S = 20.0
"""Interval of status requests, and of retries of requests to the batch API."""
MAX_ATTEMPTS = 15
"""Attempts per GET request: a provider that is down for minutes must not end a wait of hours."""
MAX_LINE_BYTES = 2**23
"""Longest line of a batch result file, which is read line by line."""
MAX_STATUS_BYTES = 2**24
"""Largest reply of the batch API that is no result file; a listing has at most 100 batches."""
DIGEST_KEY = "tapir"
"""Metadata entry of a batch that holds the digest of its keys."""
FINAL_STATUSES = frozenset({"completed", "failed", "expired", "cancelled"})
CONNECTION_ERRORS = (aiohttp.ClientError, TimeoutError)
"""Exceptions of a lost connection."""

Json = Mapping[str, Any]


class BatchRecords:
    """The batch of each submitted request, by account, stored until its results are read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def batches_of(self, account: str, keys: Iterable[str]) -> dict[str, str]:
        """Return the batch id of each key that is in a batch."""
        rows = self._database.run("SELECT key, batch FROM batched WHERE account = ?", account)
        batch_of = dict(rows.fetchall())
        return {key: batch_of[key] for key in keys if key in batch_of}

    def find_keys(self, keys: Iterable[str]) -> set[str]:
        """Return the keys that are in a batch of any account."""
        return set(keys) & {key for (key,) in self._database.run("SELECT key FROM batched")}

    def add(self, account: str, batch: str, keys: Iterable[str]) -> None:
        """Record a submitted batch."""
        with self._database.transaction():
            rows = [(account, key, batch) for key in keys]
            self._database.run_many("INSERT OR REPLACE INTO batched VALUES (?, ?, ?)", rows)

    def remove(self, account: str, keys: Iterable[str]) -> None:
        """Delete the records of keys, once their results have been read."""
        with self._database.transaction():
            rows = [(account, key) for key in keys]
            self._database.run_many("DELETE FROM batched WHERE account = ? AND key = ?", rows)


@dataclass(frozen=True)
class BatchEndpoint:
    """An endpoint with a batch API.

    Attributes:
        config: The model and its endpoint.
        key: The API key; None for an endpoint without one.
        role: Name in messages.
        batches: Records of the submitted batches.
    """

    config: LLMConfig
    key: str | None
    role: str
    batches: BatchRecords

    async def fetch(
        self, requests: Mapping[str, ChatRequest], check: Callable[[], None]
    ) -> AsyncIterator[tuple[str, RawCompletion]]:
        """Complete requests in batches, and yield key and completion as the batches end.

        Requests that a batch could not complete are missing. Requests that a stopped process has submitted are read,
        not submitted again. Batches without any of `requests` are ignored.

        Args:
            requests: The requests by key.
            check: Runs before each submission; an exception, such as BudgetSpent, ends the fetch.

        Raises:
            EndpointError: If the endpoint has no batch API, or rejects a batch.
        """
        async with open_session(self.config, self.key, MAX_LINE_BYTES) as session:
            api = _BatchApi(session, base_of(self.config), self.role, self.key)
            await self._submit(api, requests, check)
            # The requests may be spread over several batches, some of them of stopped processes.
            keys_of = defaultdict(set)
            for key, batch in self.batches.batches_of(self._account, requests).items():
                keys_of[batch].add(key)
            for batch, keys in keys_of.items():
                async for key, response in self._results(api, batch):
                    if key in keys:
                        yield key, response
                self.batches.remove(self._account, keys)

    @property
    def _account(self) -> str:
        return f"{self.config.api_base} {self.config.model} {self.config.api_key_env}"

    async def _submit(self, api: "_BatchApi", requests: Mapping[str, ChatRequest], check: Callable[[], None]) -> None:
        """Submit the requests that are in no batch yet."""
        submitted = self.batches.batches_of(self._account, requests)
        keys = [key for key in requests if key not in submitted]
        for start in range(0, len(keys), MAX_REQUESTS_PER_BATCH):
            check()
            chunk = keys[start : start + MAX_REQUESTS_PER_BATCH]
            digest = batch_digest(chunk)
            # A process killed between submission and record has left its batch at the provider.
            batch = await api.find(digest) or await api.submit(self._lines(requests, chunk), digest)
            self.batches.add(self._account, batch, chunk)

    def _lines(self, requests: Mapping[str, ChatRequest], keys: Sequence[str]) -> bytes:
        """Return the input file of a batch: one request per line, with its key as id."""
        # The same body as a single call, so that both have the same completion. The key identifies the result.
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
            # A failed request has no response, or one with another status.
            response = line.get("response") or {}
            if response.get("status_code") == HTTPStatus.OK:
                with suppress(*PARSE_ERRORS):  # a malformed result is missing, like a failed one
                    yield line["custom_id"], read_completion(response["body"])


@dataclass(frozen=True)
class _BatchApi:
    """The HTTP calls of the batch API."""

    session: aiohttp.ClientSession
    base: str
    role: str
    key: str | None

    async def submit(self, lines: bytes, digest: str) -> str:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", lines, filename=f"{digest}.jsonl", content_type="application/jsonl")
        file = await self._call("POST", "files", data=form)
        body = {
            "input_file_id": file["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {DIGEST_KEY: digest},
        }
        batch = await self._call("POST", "batches", json=body)
        return str(batch["id"])

    async def find(self, digest: str) -> str | None:
        """Return the id of the batch with this digest that the provider has and that did not fail, else None."""
        listing = await self._call("GET", "batches", params={"limit": "100"})
        failed = FINAL_STATUSES - {"completed"}
        for batch in listing.get("data", []):
            if (batch.get("metadata") or {}).get(DIGEST_KEY) == digest and batch["status"] not in failed:
                return str(batch["id"])
        return None

    async def wait_for(self, batch: str) -> str | None:
        """Wait until a batch has ended, and return the id of its result file; None if it has none."""
        while (state := await self._call("GET", f"batches/{batch}"))["status"] not in FINAL_STATUSES:
            counts = state.get("request_counts") or {}
            console.print(
                f"{self.role}: batch {batch} is {state['status']}, {counts.get('completed', 0)} of "
                f"{counts.get('total', 0)} requests done; you may stop the run, the same command resumes it",
                soft_wrap=True,
            )
            await asyncio.sleep(POLL_S)
        return state.get("output_file_id")

    async def lines(self, file: str) -> AsyncIterator[Json]:
        """Stream the lines of a file at the provider."""
        path = f"files/{file}/content"
        # A large file may take longer than one call: the time-out applies to each read.
        per_read = aiohttp.ClientTimeout(total=None, sock_read=self.session.timeout.total)
        try:
            async with self.session.get(f"{self.base}/{path}", timeout=per_read, allow_redirects=False) as response:
                if response.status != HTTPStatus.OK:
                    page = await read_pieces(response.content.iter_any(), ERROR_BYTES, cut=True)
                    raise read_error(response.status, page.decode(errors="replace"), response.headers, self.key)
                async for line in response.content:
                    if line.strip():
                        yield json.loads(line)
        except (*CONNECTION_ERRORS, ValueError, CallError) as error:
            raise self._refusal(path, error) from None

    async def _call(self, method: str, path: str, **arguments: Any) -> Json:
        """Make a call. Only GET is retried: a repeated POST could submit a batch twice."""
        for retries_left in reversed(range(MAX_ATTEMPTS if method == "GET" else 1)):
            try:
                return await self._call_once(method, path, **arguments)
            except CallError as error:
                if error.kind.policy is not Policy.RETRY or not retries_left:
                    raise self._refusal(path, error) from None
                await asyncio.sleep(POLL_S)
        raise AssertionError("the last attempt returns or raises")

    async def _call_once(self, method: str, path: str, **arguments: Any) -> Json:
        try:
            arguments = {**arguments, "allow_redirects": False}
            async with self.session.request(method, f"{self.base}/{path}", **arguments) as response:
                failed = response.status != HTTPStatus.OK
                body = await read_pieces(response.content.iter_any(), MAX_STATUS_BYTES, cut=failed)
                text = body.decode(errors="replace")
        except CONNECTION_ERRORS as error:
            raise CallError(FailureKind.CONNECTION, type(error).__name__) from None
        if response.status != HTTPStatus.OK:
            raise read_error(response.status, text, response.headers, self.key)
        # A proxy can answer 200 with a web page.
        with suppress(ValueError):
            if isinstance(body := json.loads(text), dict):
                return body
        raise CallError(FailureKind.MALFORMED, text)

    def _refusal(self, path: str, error: Exception) -> EndpointError:
        return EndpointError(
            f"{self.role}: {self.base}/{path}: {redact(str(error), self.key)}. If this endpoint has no batch API, set "
            "llm.batch=false. Submitted batches are not lost: run the same command again to read them."
        )


def batch_digest(keys: Sequence[str]) -> str:
    """Return the digest of a batch: 32 hex digits over its keys, independent of their order."""
    return sha256("\n".join(sorted(keys)).encode()).hexdigest()[:32]
