"""A scripted OpenAI-compatible server on the loopback interface."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from tapir_exp.llm.chat import ChatRequest, Message

Responder = Callable[[web.Request], web.StreamResponse | Awaitable[web.StreamResponse]]
USAGE = {"prompt_tokens": 5, "completion_tokens": 2}


def completion(
    content: str | None, finish_reason: str = "stop", usage: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": content}}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return {**body, **({} if usage is None else {"usage": {**usage, "total_tokens": sum(usage.values())}})}


def text(content: str | None, finish_reason: str = "stop", *, usage: bool = True) -> Responder:
    body = completion(content, finish_reason, USAGE if usage else None)
    return lambda _: web.json_response(body)


def status(code: int, **headers: str) -> Responder:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: web.json_response({"error": {"message": f"scripted status {code}"}}, status=code, headers=named)


def html(code: int) -> Responder:
    page = "<html>" + "<p>Sign in</p>" * 500
    return lambda _: web.Response(text=page, content_type="text/html", status=code)


def dropped(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


class Server:
    """An OpenAI-compatible endpoint. The responders of a prompt are used in order, the last one repeatedly.

    Attributes:
        script: Responders by prompt; a prompt without any is echoed.
        seen: Prompt and time of each request.
        bodies: Bodies of the requests.
        keys: Authorization headers of the requests.
        delay_s: Delay of the response by prompt.
        base: Address, with the path /v1.
    """

    def __init__(self) -> None:
        self.script: dict[str, list[Responder]] = {}
        self.seen: list[tuple[str, float]] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.delay_s: dict[str, float] = {}
        self.base = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        self.seen.append((prompt, time.monotonic()))
        self.bodies.append(body)
        self.keys.append(request.headers.get("Authorization"))
        await asyncio.sleep(self.delay_s.get(prompt, 0.0))
        responders = self.script.get(prompt, [text(f"re: {prompt}")])
        response = (responders.pop(0) if len(responders) > 1 else responders[0])(request)
        return response if isinstance(response, web.StreamResponse) else await response

    def times(self, prompt: str) -> list[float]:
        return [time_s for seen, time_s in self.seen if seen == prompt]


def request(prompt: str, **changes: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=prompt),), **{"max_tokens": 20, **changes})
