"""The oracles of the lab as a provider of litellm, so that the default run goes the way of every other model.

`lab/teacher` is the oracle whose role is `teacher`. Tokens are words, as `str.split` counts them; the price is 0.
"""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

from tapir_exp.lab import oracle
from tapir_exp.llm.litellm_transport import load_litellm

PROVIDER = "lab"
_OF_THE_CALL = frozenset({"temperature", "sample", "max_tokens", "max_retries", "stream", "logprobs", "top_logprobs"})
"""What litellm hands over together with the options; an oracle's reply has its own length."""

Chances = Mapping[str, float]
"""Probability of each token that the first one may be."""

_FREE = {
    "litellm_provider": PROVIDER,
    "mode": "chat",
    "input_cost_per_token": 0.0,
    "output_cost_per_token": 0.0,
    "cache_creation_input_token_cost": 0.0,
    "cache_read_input_token_cost": 0.0,
}
"""An entry for litellm's price list, which it searches at length, several times a call, for a model not listed."""


def register() -> None:
    """Make litellm know `lab/...`. May be called again; leaves the providers of others as they are."""
    litellm = load_litellm()
    others = [entry for entry in litellm.custom_provider_map if entry["provider"] != PROVIDER]
    handler = type("LabProvider", (Oracles, litellm.CustomLLM), {})()
    litellm.custom_provider_map = [*others, {"provider": PROVIDER, "custom_handler": handler}]
    litellm.register_model({f"{PROVIDER}/{role}": _FREE for role in oracle.ROLES})


class Oracles:
    """The two methods of litellm's CustomLLM by which completions are asked for."""

    def completion(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        model_response: Any,
        optional_params: Mapping[str, Any],
        **_: Any,
    ) -> Any:
        """Fill litellm's `model_response`. Raises litellm's BadRequestError where the oracle cannot reply."""
        text, chances = _ask(model, messages, optional_params)
        words = sum(len(message["content"].split()) for message in messages), len(text.split())
        choice = model_response.choices[0]
        choice.message.content, choice.finish_reason = text, "stop"
        if chances:
            choice.logprobs = _first_token(text, chances)
        usage = load_litellm().Usage(prompt_tokens=words[0], completion_tokens=words[1], total_tokens=sum(words))
        model_response.model, model_response.usage = f"{PROVIDER}/{model}", usage
        model_response._hidden_params["response_cost"] = 0.0  # spares litellm the search through its price list
        return model_response

    async def acompletion(self, *, logging_obj: Any, **call: Any) -> Any:
        """As `completion`; an oracle never waits."""
        claim = getattr(logging_obj, "claim_async_success_log", None)
        if claim is not None:  # else litellm writes a log entry, for nobody, at a quarter of the call's cost
            claim()
        return self.completion(**call)


def _ask(role: str, messages: Sequence[Mapping[str, str]], params: Mapping[str, Any]) -> tuple[str, Chances]:
    """The oracle's reply and, where log-probabilities are asked of the judge, which digit it would write how surely."""
    options = {name: value for name, value in params.items() if name not in _OF_THE_CALL}
    draw = params.get("temperature", 0.0), params.get("sample", 0)
    try:
        if params.get("top_logprobs") and role == "judge":
            first = oracle.prefer(messages, options, *draw)
            return ("1" if first >= 0.5 else "2"), {"1": first, "2": 1 - first}
        return oracle.respond(role, messages, options, *draw), {}
    except Exception as error:  # an oracle is a function of its request: what failed once fails always
        detail = f"{type(error).__name__}: {error}"
        raise load_litellm().BadRequestError(detail, model=f"{PROVIDER}/{role}", llm_provider=PROVIDER) from error


def _first_token(text: str, chances: Chances) -> Any:
    """The likeliest tokens at the first place, in the form of OpenAI's API."""
    types = load_litellm().types.utils
    tokens = [{"token": token, "logprob": log(chance)} for token, chance in chances.items() if chance]
    return types.ChoiceLogprobs(content=[{"token": text, "logprob": log(chances[text]), "top_logprobs": tokens}])
