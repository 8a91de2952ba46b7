"""Datasette over the database of a run, read-only, behind a check of every request."""

import os

# Plugins of other projects must neither change these pages nor run code in this process.
os.environ.setdefault("DATASETTE_LOAD_PLUGINS", "")

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
from datasette.app import Datasette
from datasette.plugins import pm

from tapir_exp.core.errors import TapirError
from tapir_exp.report.view.listing import LISTINGS, Query

DATABASE_NAME = "data"
EXPORT_PAGE = 2000
"""Lines of an export that are read at a time."""
HOSTS = ("127.0.0.1", "localhost")
PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Our pages have no script at all."""
SQL_POLICY = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Pages of Datasette have scripts in the page."""
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class EngineError(TapirError):
    """Datasette has rejected a query."""


class Engine:
    """Queries over one database.

    Args:
        path: The database.
        plugin: Object whose hooks add the pages.
    """

    def __init__(self, path: Path, plugin: object | None = None) -> None:
        if plugin is not None:
            pm.register(plugin)
        self._plugin = plugin
        searched = {one.table: {"fts_table": "rows_fts", "fts_pk": one.search_key} for one in LISTINGS.values()}
        tables = {name: {"size": 50, **({} if of["fts_pk"] is None else of)} for name, of in searched.items()}
        hidden = {name: {"hidden": True} for name in ("rows_fts", "meta")}
        self.datasette = Datasette(
            immutables=[str(path)],
            metadata={"title": "tapir view", "databases": {path.stem: {"tables": {**tables, **hidden}}}},
            settings={
                "sql_time_limit_ms": 10_000,
                "facet_time_limit_ms": 5_000,
                "max_returned_rows": EXPORT_PAGE,
                "suggest_facets": False,
                "allow_download": False,
                "allow_csv_stream": False,
                "default_cache_ttl": 0,
                "cache_size_kb": 64_000,
            },
        )
        self.database = self.datasette.get_database(path.stem)
        self._prefix = f"/{path.stem}"
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.datasette.app()), base_url="http://localhost", trust_env=False
        )
        self._counts: dict[str, Mapping[str, Any]] = {}

    @property
    def sql_page(self) -> str:
        """Return the path of Datasette's own page of the database."""
        return self._prefix

    async def close(self) -> None:
        """Remove the pages from the plugins of this process, and close the database and its threads."""
        if self._plugin is not None:
            pm.unregister(self._plugin)
        await self._client.aclose()
        # Connections belong to threads, and an open file would outlive its replacement.
        self.datasette.executor.shutdown(wait=True)
        self.database.close()

    async def select(self, sql: str, **params: object) -> list[dict[str, Any]]:
        """Run a query and return its rows."""
        result = await self.database.execute(sql, params)
        return [dict(row) for row in result.rows]

    async def page(self, query: Query, size: int) -> Mapping[str, Any]:
        """Return the lines of a page (`rows`) and where the next one begins (`next`)."""
        return await self._get(query.listing.table, query.page_parameters(size))

    async def counts(self, query: Query) -> Mapping[str, Any]:
        """Return the number of lines, and the values of each facet with their lines; both are kept."""
        parameters = query.count_parameters(query.listing.facets)
        key = f"{query.listing.table}?{urlencode(parameters)}"
        if key not in self._counts:
            if len(self._counts) > 500:
                self._counts.clear()
            self._counts[key] = await self._get(query.listing.table, parameters)
        return self._counts[key]

    async def _get(self, table: str, parameters: Sequence[tuple[str, str]]) -> Mapping[str, Any]:
        response = await self._client.get(f"{self._prefix}/{table}.json?{urlencode(parameters)}")
        data = response.json()
        if response.status_code != 200:
            raise EngineError(str(data.get("error") or response.status_code))
        content: Mapping[str, Any] = data
        return content


def guard(app: App, is_page: Callable[[str], bool]) -> App:
    """Return the application behind a check of each request, with headers that allow no content of other sites.

    The name in the `Host` header must be that of this machine. Otherwise a page of another site could give its own name
    the address 127.0.0.1 and read the rows (DNS rebinding). Only reading methods are passed on.

    Args:
        app: The application.
        is_page: Whether a path belongs to our own pages.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        problem = _refusal(scope)
        if problem is None and scope["path"].endswith(".csv") and not is_page(scope["path"]):
            problem = 404, "Export a listing instead: no spreadsheet runs its cells as formulas."
        if problem is not None:
            await _refuse(send, *problem)
            return
        policy = PAGE_POLICY if is_page(scope["path"]) else SQL_POLICY

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_headers(policy)]
            await send(message)

        await app(scope, receive, send_with_headers)

    return guarded


def _refusal(scope: Scope) -> tuple[int, str] | None:
    """Return status and reason if a request must not be answered."""
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get(b"host", "")
    if host.rpartition(":")[0 if ":" in host else 2] not in HOSTS:
        return 421, "This page is served to 127.0.0.1 and localhost only."
    # A browser says where a request comes from; pages of other sites have no business here.
    if headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin"):
        mode = headers.get(b"sec-fetch-mode")
        if mode != "navigate":
            return 403, "Pages of other sites may link here, but not read."
    if scope["method"] not in ("GET", "HEAD"):
        return 405, "This page only reads."
    return None


def _headers(policy: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
    ]


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_headers(PAGE_POLICY)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
