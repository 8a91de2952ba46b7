"""Task typing: a chat model names the type of each instruction."""

from collections.abc import Sequence

from tapir_exp.config import ClassifierConfig
from tapir_exp.errors import ReplyError
from tapir_exp.llm.ask import ask_all
from tapir_exp.llm.chat import ChatModel, ChatRequest, Message, Reply
from tapir_exp.prompts import load_prompt
from tapir_exp.records import Example, Label
from tapir_exp.taxonomy import TaskType

_BY_NAME = {task.casefold(): task for task in TaskType}


def classify(examples: Sequence[Example], chat: ChatModel, config: ClassifierConfig, label: str) -> list[Label]:
    """One label an example, in order; a reply that names no type leaves the row unlabelled, never "Others".

    Raises TooManyFailures where more than `config.max_failed` of the rows are unlabelled.
    """
    outcomes = ask_all(
        chat,
        [label_request(example.instruction, config) for example in examples],
        read_task,
        label=label,
        concurrency=config.llm.concurrency,
        max_failed=config.max_failed,
    )
    return [
        Label(id=example.id, task=outcome.value, raw=outcome.raw, failure=outcome.failure)
        for example, outcome in zip(examples, outcomes, strict=True)
    ]


def label_request(instruction: str, config: ClassifierConfig) -> ChatRequest:
    """The call that asks for the type of one instruction."""
    text = load_prompt("label").fill(types=", ".join(TaskType), instruction=instruction)
    return ChatRequest(messages=(Message(role="user", content=text),), max_tokens=config.max_tokens)


def read_task(reply: Reply) -> TaskType:
    """The type that the reply consists of. Raises ReplyError where it holds anything else."""
    name = reply.text.strip().rstrip(".").casefold()
    if name not in _BY_NAME:
        raise ReplyError(f"It must be the name of one type and nothing else, but it is {reply.text.strip()[:80]!r}.")
    return _BY_NAME[name]
