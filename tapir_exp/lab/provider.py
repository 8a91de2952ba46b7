"""The oracles of the lab as a chat model: called directly, or as a provider of litellm like any other model.

`lab/teacher` is the oracle with the role `teacher`. Tokens are words, as `str.split` counts them, and the price is 0.
Both ways give the same replies. litellm takes nine tenths of the time of a call, so it is used only on request
(`llm.use_litellm`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import log
from typing import Any

from tapir_exp.config import LLMConfig
from tapir_exp.lab import oracle
from tapir_exp.llm.chat import ChatRequest, TokenLogprob
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.litellm_transport import load_litellm
from tapir_exp.llm.transport import RawCompletion

PROVIDER = "lab"
_CALL_PARAMS = frozenset({"temperature", "sample", "max_tokens", "max_retries", "stream", "logprobs", "top_logprobs"})
"""Parameters that litellm passes together with the options. Oracles ignore them, but for the
temperature, the sample and `top_logprobs`."""

TokenProbabilities = Sequence[Mapping[str, float]]
"""Probability of each possible token, by position."""
DIGITS_ASKED = " from 1 (worst) to 9 (best)"
"""Words of the prompts of expected scores."""

_FREE = {
    "litellm_provider": PROVIDER,
    "mode": "chat",
    "input_cost_per_token": 0.0,
    "output_cost_per_token": 0.0,
    "cache_creation_input_token_cost": 0.0,
    "cache_read_input_token_cost": 0.0,
}
"""Entry for litellm's price list. For a model without one, litellm searches the whole list several times a call."""


def register() -> None:
    """Register `lab/...` with litellm. Repeated calls are harmless, and other providers stay registered."""
    litellm = load_litellm()
    others = [entry for entry in litellm.custom_provider_map if entry["provider"] != PROVIDER]
    handler = type("LabProvider", (Oracles, litellm.CustomLLM), {})()
    litellm.custom_provider_map = [*others, {"provider": PROVIDER, "custom_handler": handler}]
    litellm.register_model({f"{PROVIDER}/{role}": _FREE for role in oracle.ROLES})


class OracleTransport:
    """Transport to the oracles of this process, without litellm."""

    def __init__(self, config: LLMConfig) -> None:
        """Set up the transport to the model of `config`, `lab/<role>`."""
        self._role = config.model.partition("/")[2]
        self._options = dict(config.extra_params)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Do nothing: an oracle is a function."""
        yield

    async def send(self, request: ChatRequest) -> RawCompletion:
        """Return the reply of the oracle.

        Raises:
            CallError: The oracle cannot reply.
        """
        messages = [message.model_dump() for message in request.messages]
        params = {"temperature": request.temperature, "sample": request.sample, "top_logprobs": request.top_logprobs}
        try:
            text, probabilities = _reply(self._role, messages, {**self._options, **params})
        except Exception as error:  # an oracle is a function of its request, so a retry fails too
            raise CallError(FailureKind.REFUSED, f"{type(error).__name__}: {error}") from error
        prompt_words, reply_words = _count_words(messages, text)
        top = tuple(
            tuple(TokenLogprob(token=token, logprob=log(value)) for token, value in tokens.items() if value)
            for tokens in probabilities
        )
        return RawCompletion(text, "stop", prompt_words, reply_words, top)


class Oracles:
    """The two methods of litellm's CustomLLM that return completions."""

    def completion(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        model_response: Any,
        optional_params: Mapping[str, Any],
        **_: Any,
    ) -> Any:
        """Fill litellm's `model_response` with the reply of an oracle.

        Args:
            model: role of the oracle.
            messages: the conversation.
            model_response: the object to fill.
            optional_params: options of the oracle and parameters of the call.
            **_: other arguments of litellm, which are ignored.

        Raises:
            BadRequestError: litellm's; the oracle cannot reply.
        """
        try:
            text, probabilities = _reply(model, messages, optional_params)
        except Exception as error:  # as in `OracleTransport.send`
            detail = f"{type(error).__name__}: {error}"
            raise load_litellm().BadRequestError(detail, model=f"{PROVIDER}/{model}", llm_provider=PROVIDER) from error
        prompt_words, reply_words = _count_words(messages, text)
        choice = model_response.choices[0]
        choice.message.content, choice.finish_reason = text, "stop"
        if probabilities:
            choice.logprobs = _token_logprobs(probabilities)
        usage = load_litellm().Usage(
            prompt_tokens=prompt_words, completion_tokens=reply_words, total_tokens=prompt_words + reply_words
        )
        model_response.model, model_response.usage = f"{PROVIDER}/{model}", usage
        model_response._hidden_params["response_cost"] = 0.0  # saves litellm the search in its price list
        return model_response

    async def acompletion(self, *, logging_obj: Any, **call: Any) -> Any:
        """Do the same as `completion`, without waiting.

        Args:
            logging_obj: litellm's logger of the call.
            **call: the arguments of `completion`.
        """
        claim = getattr(logging_obj, "claim_async_success_log", None)
        if claim is not None:  # otherwise litellm writes an unused log entry, a quarter of the time of the call
            claim()
        return self.completion(**call)


def _reply(
    role: str, messages: Sequence[Mapping[str, str]], params: Mapping[str, Any]
) -> tuple[str, TokenProbabilities]:
    """Return the oracle's reply and, if log-probabilities are requested from the judge, those of its tokens."""
    options = {name: value for name, value in params.items() if name not in _CALL_PARAMS}
    sampling = params.get("temperature", 0.0), params.get("sample", 0)
    if params.get("top_logprobs") and role == "judge":
        if DIGITS_ASKED in messages[0]["content"].rpartition(">")[2]:
            digits = oracle.score_digits(messages, options, *sampling)
            return " ".join(map(_likeliest, digits)), digits
        first = oracle.prefer(messages, options, *sampling)
        return ("1" if first >= 0.5 else "2"), [{"1": first, "2": 1 - first}]
    return oracle.respond(role, messages, options, *sampling), []


def _likeliest(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=probabilities.__getitem__)


def _count_words(messages: Sequence[Mapping[str, str]], reply: str) -> tuple[int, int]:
    """Return the words of the conversation and of the reply."""
    return sum(len(message["content"].split()) for message in messages), len(reply.split())


def _token_logprobs(probabilities: TokenProbabilities) -> Any:
    """Return the log-probabilities of the tokens, in the form of OpenAI's API."""
    types = load_litellm().types.utils
    content = []
    for tokens in probabilities:
        top = [{"token": token, "logprob": log(value)} for token, value in tokens.items() if value]
        chosen = _likeliest(tokens)
        content.append({"token": chosen, "logprob": log(tokens[chosen]), "top_logprobs": top})
    return types.ChoiceLogprobs(content=content)
