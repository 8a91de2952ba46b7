"""The /files and /batches of the loopback server."""

import json
from typing import Any

from aiohttp import web
from loopback import PAID, Answer, completion

Json = dict[str, Any]


class BatchDesk:
    """Takes batches and answers them at the first question after their submission, or as it is told.

    held: whether batches stay under way. ends: how they end. failing: prompts that an answered batch leaves out.
    odd: bodies for single prompts. upsets: answers to the next questions about a batch, taken in order.
    """

    def __init__(self) -> None:
        self.open, self.held, self.ends = True, False, "completed"
        self.failing: set[str] = set()
        self.odd: dict[str, Any] = {}
        self.upsets: list[Answer] = []
        self.files: dict[str, list[Json]] = {}
        self.batches: list[Json] = []
        self.polls = 0

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._poll)

    def prompts(self) -> list[list[str]]:
        """What was asked, batch by batch."""
        return [[_prompt(line) for line in self.files[batch["input_file_id"]]] for batch in self.batches]

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        field = form["file"]
        assert isinstance(field, web.FileField)
        return web.json_response({"id": self._store([json.loads(line) for line in field.file.read().splitlines()])})

    async def _create(self, request: web.Request) -> web.Response:
        batch = {"id": f"batch-{len(self.batches)}", "status": "validating", **await request.json()}
        self.batches.append(batch)
        return web.json_response(batch)

    async def _list(self, request: web.Request) -> web.Response:
        if not self.open:
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.json_response({"object": "list", "data": self.batches[::-1]})

    async def _poll(self, request: web.Request) -> web.StreamResponse:
        self.polls += 1
        if self.upsets:
            answer = self.upsets.pop(0)(request)
            return answer if isinstance(answer, web.StreamResponse) else await answer
        batch = next(batch for batch in self.batches if batch["id"] == request.match_info["id"])
        if not self.held and batch["status"] == "validating":
            batch.update(self._end(batch))
        return web.json_response(batch)

    async def _content(self, request: web.Request) -> web.Response:
        lines = self.files[request.match_info["id"]]
        return web.Response(text="".join(json.dumps(line) + "\n" for line in lines))

    def _end(self, batch: Json) -> Json:
        lines = self.files[batch["input_file_id"]]
        good = [line for line in lines if _prompt(line) not in self.failing]
        if self.ends in ("failed", "cancelled"):
            return {"status": self.ends, "output_file_id": None}
        return {"status": self.ends, "output_file_id": self._store([self._answered(line) for line in reversed(good)])}

    def _answered(self, line: Json) -> Json:
        prompt = _prompt(line)
        body = self.odd.get(prompt, completion(f"batched: {prompt}", usage=PAID))
        return {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}

    def _store(self, lines: list[Json]) -> str:
        self.files[f"file-{len(self.files)}"] = lines
        return f"file-{len(self.files) - 1}"


def _prompt(line: Json) -> str:
    return str(line["body"]["messages"][-1]["content"])
