"""The lab's oracles, called directly and through the real litellm: their arguments, replies and costs."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from fakes import completion_of

from tapir_exp.config import JudgeConfig, JudgeProtocol, LLMConfig
from tapir_exp.distillation.judge.parse import PARSERS
from tapir_exp.distillation.judge.requests import ResponsePair, requests_for
from tapir_exp.lab import oracle, provider
from tapir_exp.lab.world import natural_problems
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message, Usage
from tapir_exp.llm.client import Client
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.ledger import Spend
from tapir_exp.llm.litellm_transport import LitellmTransport, load_litellm

Call = tuple[str, list[dict[str, str]], dict[str, Any], float, int]
OPTIONS = {"error_rate": 0.05, "expansion_error_rate": 0.1, "noise": 0.5, "position_bias": 0.0}


class Recorder:
    """Replace `oracle.respond` and record its calls."""

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
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    replacement = Recorder()
    monkeypatch.setattr(oracle, "respond", replacement.respond)
    return replacement


@pytest.fixture
def providers() -> Iterator[Any]:
    """Return litellm, and restore its list of providers afterwards."""
    litellm = load_litellm()
    before = litellm.custom_provider_map
    yield litellm
    litellm.custom_provider_map = before


BOTH_WAYS = pytest.mark.parametrize("direct", [True, False], ids=["direct", "litellm"])


def chat_with(model: str, call_store: CallStore, *, direct: bool = False) -> Client:
    config = LLMConfig(model=model, extra_params=dict(OPTIONS), usd_per_million_input=0.0, usd_per_million_output=0.0)
    transport = provider.OracleTransport(config) if direct else None
    return Client(config, "the role", call_store, prepare=provider.register, transport=transport)


def complete(chat: Client, **changes: Any) -> Completion:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="Why is  that\nso?"))
    request = ChatRequest(messages=messages, **{"max_tokens": 2, **changes})

    async def run() -> Completion:
        async with chat.connected():
            return await chat.complete(request)

    return asyncio.run(run())


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("sample", [0, 3])
@BOTH_WAYS
def test_oracle_gets_its_exact_arguments(
    recorder: Recorder, call_store: CallStore, temperature: float, sample: int, direct: bool
) -> None:
    complete(chat_with("lab/teacher", call_store, direct=direct), temperature=temperature, sample=sample)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is  that\nso?"}]
    assert recorder.calls == [("teacher", messages, OPTIONS, temperature, sample)]


@BOTH_WAYS
def test_completion_counts_words_and_is_free(recorder: Recorder, call_store: CallStore, direct: bool) -> None:
    reply = complete(chat_with("lab/judge", call_store, direct=direct))
    assert (reply.text, reply.finish_reason) == ("judge says four words", "stop")
    assert reply.usage == Usage(prompt_tokens=6, completion_tokens=4, usd=0.0)
    assert call_store.ledger.spent_by_scope() == Spend(calls=1, prompt_tokens=6, completion_tokens=4, usd=0.0)


@pytest.mark.parametrize("error", [ValueError("no such role"), KeyError("noise"), AttributeError("a bug")])
@BOTH_WAYS
def test_oracle_error_is_refused_without_retry(
    recorder: Recorder, call_store: CallStore, error: Exception, direct: bool
) -> None:
    recorder.error = error
    with pytest.raises(CallError) as caught:
        complete(chat_with("lab/teacher", call_store, direct=direct))
    assert caught.value.kind is FailureKind.REFUSED
    assert type(error).__name__ in str(caught.value)
    assert str(error) in str(caught.value)
    assert len(recorder.calls) == 1


@BOTH_WAYS
def test_unknown_role_is_named(call_store: CallStore, direct: bool) -> None:
    with pytest.raises(CallError, match="lab/prophet"):
        complete(chat_with("lab/prophet", call_store, direct=direct))


@pytest.mark.parametrize("role", ["teacher", "judge", "labeller"])
@pytest.mark.parametrize("top_logprobs", [0, 2])
def test_both_ways_give_the_same_completion(call_store: CallStore, role: str, top_logprobs: int) -> None:
    pair = "<instruction>\nWhich is the heaviest: ant or ship?\n</instruction>"
    pair += "<assistant_1>\nship\n</assistant_1><assistant_2>\nant\n</assistant_2>"
    request = ChatRequest(
        messages=(Message(role="user", content=pair),),
        max_tokens=9,
        temperature=0.7,
        sample=5,
        top_logprobs=top_logprobs,
    )
    config = LLMConfig(model=f"lab/{role}", extra_params={**OPTIONS, "seed": 3})
    provider.register()
    ways = (provider.OracleTransport(config), LitellmTransport(config, None, provider.register))
    direct, through_litellm = (asyncio.run(way.send(request)) for way in ways)
    assert direct == through_litellm
    assert bool(direct.top_logprobs) is (role == "judge" and top_logprobs > 0)


def test_register_twice_keeps_other_providers(providers: Any) -> None:
    other = {"provider": "other", "custom_handler": providers.CustomLLM()}
    providers.custom_provider_map = [other]
    provider.register()
    provider.register()
    assert [entry["provider"] for entry in providers.custom_provider_map] == ["other", "lab"]
    assert providers.custom_provider_map[0] is other
    assert isinstance(providers.custom_provider_map[1]["custom_handler"], providers.CustomLLM)


def test_other_providers_may_register_later(recorder: Recorder, call_store: CallStore, providers: Any) -> None:
    chat = chat_with("lab/teacher", call_store)
    complete(chat)
    providers.custom_provider_map.append({"provider": "other", "custom_handler": providers.CustomLLM()})
    assert complete(chat, sample=1).text == "teacher says four words"


def test_litellm_completion_works_without_event_loop(recorder: Recorder, providers: Any) -> None:
    provider.register()
    turns = [{"role": "user", "content": "Why?"}]
    response = providers.completion(model="lab/teacher", messages=turns, temperature=0.5, sample=2, noise=0.5)
    assert response.choices[0].message.content == "teacher says four words"
    assert recorder.calls == [("teacher", turns, {"noise": 0.5}, 0.5, 2)]
    assert response.model == "lab/teacher"


@pytest.mark.parametrize("protocol", [JudgeProtocol.pair_expected, JudgeProtocol.single_expected])
def test_judge_gives_expected_scores_without_rounding(protocol: JudgeProtocol) -> None:
    """Without noise, the probabilities of the digits give the scores that the judge writes as numbers elsewhere."""
    llm = LLMConfig(model="lab/judge", extra_params={"noise": 0.0, "position_bias": 0.0})
    (_, problem), *_ = natural_problems(1, seed=5)
    pair = ResponsePair("a", problem.instruction, problem.refined, problem.slip)

    def scores(way: JudgeProtocol) -> list[float]:
        requests = requests_for(pair, JudgeConfig(llm, protocol=way))
        transports = [provider.OracleTransport(llm), LitellmTransport(llm, None, provider.register)]
        raw = [asyncio.run(transports[way.reads_logprobs].send(each.request)) for each in requests]
        replies = [completion_of(each.text).model_copy(update={"top_logprobs": each.top_logprobs}) for each in raw]
        return [score for each in replies for score in PARSERS[way](each)]

    provider.register()
    assert scores(protocol) == pytest.approx(
        scores(JudgeProtocol.single_score if protocol.alone else JudgeProtocol.pair_scores)
    )
