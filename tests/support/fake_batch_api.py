"""The /files and /batches endpoints of the loopback server."""

import json
from typing import Any

from aiohttp import web
from loopback import USAGE, Responder, completion

Json = dict[str, Any]


class FakeBatchApi:
    """Accepts batches and completes them at the first status request.

    Attributes:
        enabled: Whether the endpoint has a batch API.
        held: Whether batches stay in progress.
        final_status: Final status of the batches.
        missing: Prompts without a result in a completed batch.
        bodies: Response bodies of single prompts, instead of a completion.
        status_responders: Responders of the next status requests, used in order.
        files: Lines of the uploaded files and of the results.
        batches: The batches, oldest first.
        polls: Number of status requests.
    """

    def __init__(self) -> None:
        self.enabled, self.held, self.final_status = True, False, "completed"
        self.missing: set[str] = set()
        self.bodies: dict[str, Any] = {}
        self.status_responders: list[Responder] = []
        self.files: dict[str, list[Json]] = {}
        self.batches: list[Json] = []
        self.polls = 0

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._poll)

    def prompts(self) -> list[list[str]]:
        """Return the prompts of each batch."""
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
        if not self.enabled:
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.json_response({"object": "list", "data": self.batches[::-1]})

    async def _poll(self, request: web.Request) -> web.StreamResponse:
        self.polls += 1
        if self.status_responders:
            response = self.status_responders.pop(0)(request)
            return response if isinstance(response, web.StreamResponse) else await response
        batch = next(batch for batch in self.batches if batch["id"] == request.match_info["id"])
        if not self.held and batch["status"] == "validating":
            batch.update(self._end(batch))
        return web.json_response(batch)

    async def _content(self, request: web.Request) -> web.Response:
        lines = self.files[request.match_info["id"]]
        return web.Response(text="".join(json.dumps(line) + "\n" for line in lines))

    def _end(self, batch: Json) -> Json:
        if self.final_status in ("failed", "cancelled"):
            return {"status": self.final_status, "output_file_id": None}
        lines = [line for line in self.files[batch["input_file_id"]] if _prompt(line) not in self.missing]
        # In reverse, because providers do not keep the order of the requests.
        results = [self._result(line) for line in reversed(lines)]
        return {"status": self.final_status, "output_file_id": self._store(results)}

    def _result(self, line: Json) -> Json:
        prompt = _prompt(line)
        body = self.bodies.get(prompt, completion(f"batched: {prompt}", usage=USAGE))
        return {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}

    def _store(self, lines: list[Json]) -> str:
        self.files[f"file-{len(self.files)}"] = lines
        return f"file-{len(self.files) - 1}"


def _prompt(line: Json) -> str:
    return str(line["body"]["messages"][-1]["content"])
