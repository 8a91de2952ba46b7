"""Whole replies, kept beside what is read from them."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message
from tapir_exp.llm.failures import CallError


class Listener:
    """A chat model that remembers the last reply in every conversation whole; an Outcome keeps its text alone."""

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat
        self._heard: dict[Message, Completion] = {}

    def last_reply(self, request: ChatRequest) -> Completion | None:
        """What was said last to a request or, once it was refused, to the same request again."""
        return self._heard.get(request.messages[0])

    def identity(self) -> dict[str, Any]:
        """That of the model."""
        return self._chat.identity()

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        """That of the model."""
        return self._chat.count_cached(requests)

    def connected(self, requests: Sequence[ChatRequest]) -> AbstractAsyncContextManager[None]:
        """That of the model."""
        return self._chat.connected(requests)

    async def complete(self, request: ChatRequest) -> Completion:
        """The model's reply, remembered."""
        reply = await self._chat.complete(request)
        self._heard[request.messages[0]] = reply
        return reply

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        """That of the model."""
        self._chat.record_failed(request, error)
