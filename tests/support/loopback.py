"""A server of the OpenAI protocol on the loopback interface that answers as it is told."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from tapir_exp.llm.chat import ChatRequest, Message

Answer = Callable[[web.Request], web.StreamResponse | Awaitable[web.StreamResponse]]
PAID = {"prompt_tokens": 5, "completion_tokens": 2}


def completion(
    content: str | None, finish_reason: str = "stop", usage: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": content}}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return {**body, **({} if usage is None else {"usage": {**usage, "total_tokens": sum(usage.values())}})}


def said(content: str | None, finish_reason: str = "stop", *, usage: bool = True) -> Answer:
    body = completion(content, finish_reason, PAID if usage else None)
    return lambda _: web.json_response(body)


def status(code: int, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: web.json_response({"error": {"message": f"told to say {code}"}}, status=code, headers=named)


def html(code: int) -> Answer:
    page = "<html>" + "<p>Sign in</p>" * 500
    return lambda _: web.Response(text=page, content_type="text/html", status=code)


def dropped(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


class Server:
    """An OpenAI-compatible endpoint: a prompt's answers are taken in order, the last one for ever."""

    def __init__(self) -> None:
        self.script: dict[str, list[Answer]] = {}
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
        answers = self.script.get(prompt, [said(f"re: {prompt}")])
        answer = (answers.pop(0) if len(answers) > 1 else answers[0])(request)
        return answer if isinstance(answer, web.StreamResponse) else await answer

    def times(self, prompt: str) -> list[float]:
        return [when for what, when in self.seen if what == prompt]


def request(prompt: str, **changes: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=prompt),), **{"max_tokens": 20, **changes})
