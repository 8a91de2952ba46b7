"""OpenAI-compatible endpoint on the loopback interface that replies to every prompt of a run after a fixed latency.

A reply is a function of the prompt and of the number of times it came, so that repeated expansion calls differ.
"""

import argparse
import asyncio
import json
import re
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

from aiohttp import web
from varied_seeds import Texts, task_of

sys.path.append(str(Path(__file__).parents[1]))
from local_endpoint import completion, serve

COUNT = re.compile(r"<count>(\d+)</count>")
TASK = re.compile(r"<task>(.*?)</task>")
INSTRUCTION = re.compile(r"<instruction>\n(.*?)\n</instruction>", re.DOTALL)


def reply(prompt: str, number: int) -> str:
    """Return the reply of teacher, judge or classifier; the form of the prompt shows which is asked."""
    texts = Texts((sha256(prompt.encode()).hexdigest(), number))
    if "<assistant_1>" in prompt:
        first, second = (int(sha256(f"{number} {part}".encode()).hexdigest(), 16) % 10 + 1 for part in _answers(prompt))
        return f"{first} {second}\n{texts.words(20)}"
    if prompt.startswith("Name the type"):
        (instruction,) = INSTRUCTION.findall(prompt)
        return str(task_of(instruction))
    if count := COUNT.search(prompt):
        task = next(task for task in [*map(task_of, INSTRUCTION.findall(prompt))] or [task_of("")])
        return "\n\n".join(_pair(texts.instruction(task), texts.response()) for _ in range(int(count[1])))
    return f"<response>\n{texts.response()}\n</response>" if TASK.search(prompt) else texts.response()


def _answers(prompt: str) -> tuple[str, str]:
    first = prompt.partition("<assistant_1>")[2].partition("</assistant_1>")[0]
    return first, prompt.partition("<assistant_2>")[2].partition("</assistant_2>")[0]


def _pair(instruction: str, response: str) -> str:
    return f"<pair>\n<instruction>\n{instruction}\n</instruction>\n<response>\n{response}\n</response>\n</pair>"


class Endpoint:
    """Replies after a latency, and counts the requests that it answered."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._seen: Counter[bytes] = Counter()
        self.answered = 0

    async def complete(self, request: web.Request) -> web.Response:
        """Answer a chat completion."""
        body = json.loads(await request.read())
        prompt = body["messages"][-1]["content"]
        # Only expansions are drawn more than once, at a temperature above 0.
        key = sha256(prompt.encode()).digest()
        number = self._seen[key] if "<count>" in prompt else 0
        self._seen[key] += 1
        await asyncio.sleep(self._latency_s)
        text = reply(prompt, number)
        self.answered += 1
        return web.json_response(completion(body["model"], text, len(prompt) // 4, len(text) // 4))

    async def count(self, _: web.Request) -> web.Response:
        """Return the number of requests that were answered."""
        return web.json_response(self.answered)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=2)
    endpoint = Endpoint(parser.parse_args().latency_ms / 1000)
    asyncio.run(serve(endpoint.complete, endpoint.count))
