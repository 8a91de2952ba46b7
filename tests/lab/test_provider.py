"""The lab's oracles through the real litellm: what reaches them, what comes back, and what it costs."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from tapir_exp.config import LLMConfig
from tapir_exp.lab import oracle, provider
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.ledger import Spend
from tapir_exp.llm.litellm_transport import load_litellm

Call = tuple[str, list[dict[str, str]], dict[str, Any], float, int]
OPTIONS = {"error_rate": 0.05, "expansion_error_rate": 0.1, "noise": 0.5, "position_bias": 0.0}


class Recorder:
    """Stands in for `oracle.respond`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.error: Exception | None = None

    def respond(
        self,
        role: str,
        messages: Sequence[Mapping[str, str]],
        options: Mapping[str, Any],
        temperature: float,
        sample: int,
    ) -> str:
        self.calls.append((role, [dict(message) for message in messages], dict(options), temperature, sample))
        if self.error is not None:
            raise self.error
        return f"{role} says four words"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(oracle, "respond", recorder.respond)
    return recorder


@pytest.fixture
def providers() -> Iterator[Any]:
    """litellm, whose list of providers is put back afterwards."""
    litellm = load_litellm()
    before = litellm.custom_provider_map
    yield litellm
    litellm.custom_provider_map = before


def chat_with(model: str, call_store: CallStore) -> Client:
    config = LLMConfig(model=model, extra_params=dict(OPTIONS), usd_per_million_input=0.0, usd_per_million_output=0.0)
    return Client(config, "the role", call_store, prepare=provider.register)


def ask(chat: Client, **changes: Any) -> Completion:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="Why is  that\nso?"))
    request = ChatRequest(messages=messages, **{"max_tokens": 2, **changes})

    async def within() -> Completion:
        async with chat.connected():
            return await chat.complete(request)

    return asyncio.run(within())


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("sample", [0, 3])
def test_the_oracle_gets_exactly_its_arguments(
    heard: Recorder, call_store: CallStore, temperature: float, sample: int
) -> None:
    ask(chat_with("lab/teacher", call_store), temperature=temperature, sample=sample)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is  that\nso?"}]
    assert heard.calls == [("teacher", messages, OPTIONS, temperature, sample)]


def test_the_reply_is_the_oracles_with_words_for_tokens_and_free(heard: Recorder, call_store: CallStore) -> None:
    reply = ask(chat_with("lab/judge", call_store))
    assert (reply.text, reply.finish_reason) == ("judge says four words", "stop")
    assert reply.usage.model_dump() == {"prompt_tokens": 6, "completion_tokens": 4, "usd": 0.0}
    assert call_store.ledger.spent_by_scope() == Spend(calls=1, prompt_tokens=6, completion_tokens=4, usd=0.0)


@pytest.mark.parametrize("error", [ValueError("no such role"), KeyError("noise"), AttributeError("a bug")])
def test_what_an_oracle_cannot_answer_is_refused_at_once(
    heard: Recorder, call_store: CallStore, error: Exception
) -> None:
    heard.error = error
    with pytest.raises(CallError) as caught:
        ask(chat_with("lab/teacher", call_store))
    assert caught.value.kind is FailureKind.REFUSED
    assert type(error).__name__ in str(caught.value)
    assert str(error) in str(caught.value)
    assert len(heard.calls) == 1


def test_a_role_that_the_lab_does_not_have_is_named(call_store: CallStore) -> None:
    with pytest.raises(CallError, match="lab/prophet"):
        ask(chat_with("lab/prophet", call_store))


def test_registering_twice_leaves_one_entry_and_those_of_others(providers: Any) -> None:
    other = {"provider": "other", "custom_handler": providers.CustomLLM()}
    providers.custom_provider_map = [other]
    provider.register()
    provider.register()
    assert [entry["provider"] for entry in providers.custom_provider_map] == ["other", "lab"]
    assert providers.custom_provider_map[0] is other
    assert isinstance(providers.custom_provider_map[1]["custom_handler"], providers.CustomLLM)


def test_others_may_register_afterwards(heard: Recorder, call_store: CallStore, providers: Any) -> None:
    chat = chat_with("lab/teacher", call_store)
    ask(chat)
    providers.custom_provider_map.append({"provider": "other", "custom_handler": providers.CustomLLM()})
    assert ask(chat, sample=1).text == "teacher says four words"


def test_litellms_own_callers_get_the_same_without_a_loop(heard: Recorder, providers: Any) -> None:
    provider.register()
    turns = [{"role": "user", "content": "Why?"}]
    response = providers.completion(model="lab/teacher", messages=turns, temperature=0.5, sample=2, noise=0.5)
    assert response.choices[0].message.content == "teacher says four words"
    assert heard.calls == [("teacher", turns, {"noise": 0.5}, 0.5, 2)]
    assert response.model == "lab/teacher"
