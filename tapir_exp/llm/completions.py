"""From a provider's reply to a completion: is it whole, what did it cost, and what becomes of its thoughts."""

from tapir_exp.config import Reasoning
from tapir_exp.llm.chat import ChatRequest, Completion, Usage
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.finish_reasons import FILTERED, LENGTH, STOP, read_finish_reason
from tapir_exp.llm.pricing import Price
from tapir_exp.llm.thoughts import join_thoughts, split_thoughts
from tapir_exp.llm.transport import RawCompletion
from tapir_exp.llm.usage import TOKENS_PER_MESSAGE, estimate_tokens


def estimate_prompt(request: ChatRequest) -> int:
    """Estimate the tokens of a prompt, rather too many than too few."""
    return sum(estimate_tokens(turn.content) + TOKENS_PER_MESSAGE for turn in request.messages)


def compute_usage(request: ChatRequest, response: RawCompletion, price: Price | None) -> Usage:
    """Return tokens and price. A count that the provider does not report is estimated, and marked as such."""
    prompt = response.prompt_tokens or estimate_prompt(request)
    completion = response.completion_tokens or estimate_tokens(response.text + response.reasoning)
    # A reply that was cut at the limit has as many tokens, whatever its text.
    if not response.completion_tokens and response.finish_reason == LENGTH:
        completion = max(completion, request.max_tokens)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        usd=price.cost(prompt, completion) if price else None,
        estimated=not response.prompt_tokens or (completion > 0 and not response.completion_tokens),
    )


def check_usable(text: str, finish_reason: str, reasoning: Reasoning) -> CallError | None:
    """Return the error of a reply that is no completion.

    An empty reply that was cut at the length limit is a completion: the stage that parses it retries with more room.

    Args:
        text: The text, as the provider returned it.
        finish_reason: The reason, as `read_finish_reason` returns it.
        reasoning: What becomes of thoughts.
    """
    if finish_reason == FILTERED:
        return CallError(FailureKind.FILTERED, "the provider's content filter stopped the reply", raw=text)
    if finish_reason not in {STOP, LENGTH}:
        return CallError(FailureKind.UNFINISHED, f"finish reason {finish_reason}: it may not be whole", raw=text)
    thoughts, answer = ("", text) if reasoning is Reasoning.keep else split_thoughts(text)
    if answer.strip() or finish_reason == LENGTH:
        return None
    only = "the reply holds thoughts and no answer, " if thoughts else ""
    return CallError(FailureKind.EMPTY, f"{only}finish reason {finish_reason}", raw=text)


def check_cached(completion: Completion, reasoning: Reasoning, room: int) -> bool:
    """Return True if a cached completion can be used.

    Args:
        completion: The completion, possibly of an earlier version, which kept replies that were not whole.
        reasoning: What becomes of thoughts.
        room: Tokens that the call may take now, if this is more than its stage requests; else 0. A reply that was cut
            with less room is requested again.
    """
    finish_reason = read_finish_reason(completion.finish_reason)
    if finish_reason == LENGTH and completion.usage.completion_tokens < room:
        return False
    return check_usable(completion.text, finish_reason, reasoning) is None


def present(completion: Completion, reasoning: Reasoning) -> Completion:
    """Return a completion as stages get it: its thoughts are removed, kept or refused.

    Raises:
        CallError: If it has thoughts, and they are refused.
    """
    finish_reason = read_finish_reason(completion.finish_reason)
    if finish_reason != completion.finish_reason:
        completion = completion.model_copy(update={"finish_reason": finish_reason})
    if reasoning is Reasoning.keep:
        if not completion.reasoning:
            return completion
        text = join_thoughts(completion.reasoning, completion.text)
        return completion.model_copy(update={"text": text, "top_logprobs": ()})
    thoughts, answer = split_thoughts(completion.text)
    if reasoning is Reasoning.refuse and (thoughts or completion.reasoning):
        detail = (
            "the model thinks before it replies, and llm.reasoning=refuse; set llm.reasoning=strip to remove thoughts"
        )
        raise CallError(FailureKind.THOUGHTS, detail, raw=completion.text)
    # The log-probabilities begin with those of the thoughts.
    return completion.model_copy(update={"text": answer, "top_logprobs": ()}) if thoughts else completion
