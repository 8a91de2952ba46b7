"""Real weights, if `tapir weights` has fetched them: a student to train, and a judge."""

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


def require_weights(name: str) -> Weights:
    try:
        return find_weights(name)
    except ConfigError as error:
        pytest.skip(str(error))


def test_gguf_student_becomes_trainable_directory(tmp_path: Path) -> None:
    from tapir_exp.student.generate import generate_responses
    from tapir_exp.student.gguf import convert_gguf
    from tapir_exp.student.response_loss import LossRow, response_losses

    convert_gguf(require_weights("smollm2_135m").path, tmp_path)
    student = StudentConfig(model=str(tmp_path), max_length=256, max_new_tokens=24)
    row = LossRow("a", "What is the capital of France?", "The capital of France is Paris.")
    (loss,) = response_losses(tmp_path, [row], student, "losses")
    assert loss.instructed is not None
    assert loss.instructed < 1.5  # wrongly assembled weights give about 10
    (response,) = generate_responses(tmp_path, [("a", "What is the capital of France?")], student, "responses")
    assert response.text is not None
    assert "Paris" in response.text


def test_gguf_judge_states_preference(call_store: CallStore, tmp_path: Path) -> None:
    weights = require_weights("qwen2_5_coder_1_5b")
    command = ["{python}", "-m", "tapir_exp.llm.serving.gguf_server", "--model", "{weights}", "--port", "{port}"]
    config = LLMConfig(model="openai/qwen", server=ServerConfig([*command, "--threads", "1"]), timeout_s=300.0)
    servers = ServerPool(tmp_path / "logs")
    client = Client(config, "judge", call_store, server=servers.open(config.server, weights.path, "judge"))

    async def complete(text: str) -> Completion:
        async with client.connected():
            message = Message(role="user", content=text)
            return await client.complete(ChatRequest(messages=(message,), max_tokens=1, top_logprobs=10))

    good, bad = "The sky is blue.", "Seven seven seven seven."
    question = "Which answers 'What colour is the sky?' better? Reply with the digit 1 or 2 and nothing else."
    try:
        good_first = parse_preference(asyncio.run(complete(f"{question}\n1: {good}\n2: {bad}")))
        good_last = parse_preference(asyncio.run(complete(f"{question}\n1: {bad}\n2: {good}")))
    finally:
        servers.close()
    assert sum(good_first) == pytest.approx(11.0)
    assert good_first[0] + good_last[1] > good_first[1] + good_last[0]  # summed over both orders, like a verdict
