"""Asking in batches: the OpenAI protocol's /files and /batches, at half the price and within a day.

A batch is known by the keys of its requests. Its id is kept as soon as the provider has given it, and a batch whose id
was lost with a killed process is found again at the provider by its digest: nothing is submitted twice.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import Any

import aiohttp

from tapir_exp.config import LLMConfig
from tapir_exp.console import console
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.llm.database import Database
from tapir_exp.llm.endpoint import OPENAI, HttpTransport, open_session, read_completion
from tapir_exp.llm.failures import EndpointError, short
from tapir_exp.llm.transport import Response

SCHEMA = """
CREATE TABLE IF NOT EXISTS batches
    (account TEXT, id TEXT, submitted REAL, open INTEGER, PRIMARY KEY (account, id)) WITHOUT ROWID;
"""
LARGEST = 50_000
"""Requests that the protocol allows in one batch."""
POLL_S = 20.0
"""How often a batch is asked whether it has ended."""
TAG = "tapir"
"""Name of the metadata entry in which a batch carries the digest of its keys."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

Json = Mapping[str, Any]


class Batches:
    """The batches that are under way, by account; on disk, since they outlive any process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, account: str) -> list[str]:
        """Ids of the batches whose results have not been read yet, oldest first."""
        rows = self._database.run(
            "SELECT id FROM batches WHERE account = ? AND open = 1 ORDER BY submitted, id", account
        )
        return [row[0] for row in rows]

    def add(self, account: str, batch: str) -> None:
        """Remember a submitted batch."""
        self._database.run("INSERT OR REPLACE INTO batches VALUES (?, ?, ?, 1)", account, batch, time.time())

    def close(self, account: str, batch: str) -> None:
        """Mark a batch as read."""
        self._database.run("UPDATE batches SET open = 0 WHERE account = ? AND id = ?", account, batch)


@dataclass(frozen=True)
class BatchEndpoint:
    """An endpoint that takes batches. `role` is for messages only."""

    config: LLMConfig
    key: str | None
    role: str
    batches: Batches

    async def fetch(
        self, requests: Mapping[str, ChatRequest], check: Callable[[], None]
    ) -> AsyncIterator[tuple[str, Response]]:
        """The responses to `requests`, by their keys, as their batches end; what a batch could not answer is absent.

        check: called before each submission; what it raises ends the fetch. Batches of a process that was stopped are
        read first. Raises EndpointError where the endpoint takes no batches, or refuses one.
        """
        left = dict(requests)
        async with open_session(self.config, self.key) as session:
            desk = _Desk(session, (self.config.api_base or OPENAI).rstrip("/"), self.role, self.key)
            for batch in [*self.batches.open(self._account), *await self._submit(desk, left, check)]:
                async for key, response in self._results(desk, batch):
                    if left.pop(key, None) is not None:
                        yield key, response
                self.batches.close(self._account, batch)

    @property
    def _account(self) -> str:
        return f"{self.config.api_base} {self.config.model} {self.config.api_key_env}"

    async def _submit(self, desk: "_Desk", requests: Mapping[str, ChatRequest], check: Callable[[], None]) -> list[str]:
        """Ids of the batches that were submitted for what is not under way already."""
        under_way = {batch: await desk.keys_of(batch) for batch in self.batches.open(self._account)}
        known = set().union(*under_way.values())
        keys = [key for key in requests if key not in known]
        submitted = []
        for start in range(0, len(keys), LARGEST):
            check()
            some = keys[start : start + LARGEST]
            batch = await desk.adopt(digest_of(some)) or await desk.submit(self._lines(requests, some), digest_of(some))
            self.batches.add(self._account, batch)
            submitted.append(batch)
        return submitted

    def _lines(self, requests: Mapping[str, ChatRequest], keys: Sequence[str]) -> bytes:
        """The file of a batch: one request a line, named by its key."""
        body_of = HttpTransport(self.config, None).body_of
        lines = (
            {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body_of(requests[key])}
            for key in keys
        )
        return "".join(json.dumps(line) + "\n" for line in lines).encode()

    async def _results(self, desk: "_Desk", batch: str) -> AsyncIterator[tuple[str, Response]]:
        output = await desk.wait_for(batch)
        if output is None:
            return
        async for line in desk.lines(output):
            response = line.get("response") or {}
            if response.get("status_code") == HTTPStatus.OK:
                yield line["custom_id"], read_completion(response["body"])


@dataclass(frozen=True)
class _Desk:
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
            "metadata": {TAG: digest},
        }
        batch = await self._call("POST", "batches", json=asked)
        return str(batch["id"])

    async def adopt(self, digest: str) -> str | None:
        """The batch of these keys that the provider has already and that did not fail."""
        listed = await self._call("GET", "batches", params={"limit": "100"})
        for batch in listed.get("data", []):
            if (batch.get("metadata") or {}).get(TAG) == digest and batch["status"] not in ENDED - {"completed"}:
                return str(batch["id"])
        return None

    async def keys_of(self, batch: str) -> frozenset[str]:
        """The keys of a submitted batch, out of its own file."""
        told = await self._call("GET", f"batches/{batch}")
        return frozenset([line["custom_id"] async for line in self.lines(told["input_file_id"])])

    async def wait_for(self, batch: str) -> str | None:
        """Wait until a batch has ended; the id of its results, None where it has none."""
        while (told := await self._call("GET", f"batches/{batch}"))["status"] not in ENDED:
            counts = told.get("request_counts") or {}
            console.print(
                f"{self.role}: batch {batch} is {told['status']}, {counts.get('completed', 0)} of "
                f"{counts.get('total', 0)} done; stop at will, the same command asks for it again",
                soft_wrap=True,
            )
            await asyncio.sleep(POLL_S)
        return told.get("output_file_id")

    async def lines(self, file: str) -> AsyncIterator[Json]:
        """The lines of a file at the provider, one at a time."""
        async with self.session.get(f"{self.base}/files/{file}/content") as response:
            if response.status != HTTPStatus.OK:
                raise self._refusal(f"files/{file}/content", response.status, await response.text())
            async for line in response.content:
                if line.strip():
                    yield json.loads(line)

    async def _call(self, method: str, path: str, **arguments: Any) -> Json:
        async with self.session.request(method, f"{self.base}/{path}", **arguments) as response:
            text = await response.text()
        try:
            told = json.loads(text)
        except ValueError:
            told = None
        if response.status != HTTPStatus.OK or not isinstance(told, dict):
            raise self._refusal(path, response.status, text)
        return told

    def _refusal(self, path: str, status: int, text: str) -> EndpointError:
        return EndpointError(
            f"{self.role}: {self.base}/{path} answered {status}: {short(text, self.key)}. Does this endpoint take "
            f"batches? If not, set batch: false; what is under way is asked for again by the same command."
        )


def digest_of(keys: Sequence[str]) -> str:
    """What tells a batch from others: 32 hex digits over its keys, whatever their order."""
    return sha256("\n".join(sorted(keys)).encode()).hexdigest()[:32]
