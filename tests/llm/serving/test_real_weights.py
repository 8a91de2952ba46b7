"""The weights themselves, where `tapir-local-weights` has fetched them: a student to train, and a judge."""

import asyncio
from pathlib import Path

import pytest

from tapir_exp.config import LLMConfig, ServerConfig, StudentConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.distillation.judge.parse import parse_preference
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.serving.pool import ServerPool
from tapir_exp.llm.serving.weights import Weights, find_weights

pytestmark = pytest.mark.slow


def fetched(name: str) -> Weights:
    try:
        return find_weights(name)
    except ConfigError as missing:
        pytest.skip(str(missing))


def test_the_student_becomes_an_ordinary_directory_that_can_be_trained(tmp_path: Path) -> None:
    from tapir_exp.student.generate import generate_responses
    from tapir_exp.student.gguf import convert_gguf
    from tapir_exp.student.response_loss import LossRow, response_losses

    convert_gguf(fetched("smollm2_135m").path, tmp_path)
    student = StudentConfig(model=str(tmp_path), max_length=256, max_new_tokens=24)
    taught = LossRow("a", "What is the capital of France?", "The capital of France is Paris.")
    (loss,) = response_losses(tmp_path, [taught], student, "losses")
    assert loss.instructed is not None
    assert loss.instructed < 1.5  # weights put together wrongly stand at 10
    (answer,) = generate_responses(tmp_path, [("a", "What is the capital of France?")], student, "answers")
    assert answer.text is not None
    assert "Paris" in answer.text


def test_the_teacher_answers_and_tells_its_preference(call_store: CallStore, tmp_path: Path) -> None:
    weights = fetched("qwen2_5_coder_1_5b")
    command = ["{python}", "-m", "tapir_exp.llm.serving.gguf_server", "--model", "{weights}", "--port", "{port}"]
    config = LLMConfig(model="openai/qwen", server=ServerConfig([*command, "--threads", "1"]), timeout_s=300.0)
    servers = ServerPool(tmp_path / "logs")
    client = Client(config, "judge", call_store, server=servers.open(config.server, weights.path, "judge"))

    async def ask(text: str) -> Completion:
        async with client.connected():
            message = Message(role="user", content=text)
            return await client.complete(ChatRequest(messages=(message,), max_tokens=1, top_logprobs=10))

    colour, number = "The sky is blue.", "Seven seven seven seven."
    question = "Which answers 'What colour is the sky?' better? Reply with the digit 1 or 2 and nothing else."
    try:
        right_first = parse_preference(asyncio.run(ask(f"{question}\n1: {colour}\n2: {number}")))
        right_last = parse_preference(asyncio.run(ask(f"{question}\n1: {number}\n2: {colour}")))
    finally:
        servers.close()
    assert sum(right_first) == pytest.approx(11.0)
    assert right_first[0] + right_last[1] > right_first[1] + right_last[0]  # over both orders, as verdicts are
