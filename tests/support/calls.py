"""Single calls of a client."""

import asyncio
from typing import Any

import pytest
from loopback import request

from tapir_exp.llm.chat import Completion
from tapir_exp.llm.client import Client
from tapir_exp.llm.failures import CallError


def one(chat: Client, prompt: str, **changes: Any) -> Completion:
    """Return the completion of one request."""

    async def within() -> Completion:
        async with chat.connected():
            return await chat.complete(request(prompt, **changes))

    return asyncio.run(within())


def failure(chat: Client, prompt: str) -> CallError:
    """Return the error of one request that fails."""
    with pytest.raises(CallError) as caught:
        one(chat, prompt)
    return caught.value
