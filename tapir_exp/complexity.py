"""How complex an instruction is, in the judge's eyes: what keeps an expansion as difficult as its examples.

The paper wants new instructions of similar difficulty (P); that the judge rates each from 1 to 10 is ours.
"""

import re
from collections.abc import Sequence

from tapir_exp.config import JudgeConfig
from tapir_exp.errors import ReplyError
from tapir_exp.llm.ask import ask_all
from tapir_exp.llm.chat import ChatModel, ChatRequest, Message, Reply
from tapir_exp.prompts import load_prompt
from tapir_exp.records import Example

LOWEST, HIGHEST = 1.0, 10.0


def rate(examples: Sequence[Example], chat: ChatModel, config: JudgeConfig, label: str) -> list[float | None]:
    """The complexity of each instruction, from 1 to 10, in order; None where the judge gave no rating.

    Raises TooManyFailures where more than `config.max_failed` of them are missing.
    """
    outcomes = ask_all(
        chat,
        [rating_request(example.instruction, config) for example in examples],
        read_rating,
        label=label,
        concurrency=config.llm.concurrency,
        max_failed=config.max_failed,
    )
    return [outcome.value for outcome in outcomes]


def rating_request(instruction: str, config: JudgeConfig) -> ChatRequest:
    """The call that asks for the rating of one instruction."""
    text = load_prompt("complexity").fill(instruction=instruction)
    message = Message(role="user", content=text)
    return ChatRequest(messages=(message,), max_tokens=config.max_tokens, temperature=config.temperature)


def read_rating(reply: Reply) -> float:
    """The number that the reply consists of. Raises ReplyError where it holds anything else."""
    text = reply.text.strip()
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not LOWEST <= float(text) <= HIGHEST:
        raise ReplyError(f"It must be one number from 1 to 10 and nothing else, but it is {text[:80]!r}.")
    return float(text)
