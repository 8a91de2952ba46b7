"""Reasons why a reply ended: natural ends and cuts under any name, and everything else."""

from typing import Any

import pytest
from calls import failure, one
from loopback import Server, request, text

from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import Completion
from tapir_exp.llm.client import Client
from tapir_exp.llm.failures import FailureKind
from tapir_exp.llm.finish_reasons import read_finish_reason
from tapir_exp.llm.ledger import Ledger
from tapir_exp.llm.response_cache import cache_key

WHOLE = [
    "stop",
    "STOP",
    "end_turn",
    "eos",
    "eos_token",
    "stop_sequence",
    "FINISH_REASON_STOP",
    "COMPLETE",
    "FinishReason.STOP",
]
CUT = ["length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens"]
FILTERED = ["content_filter", "SAFETY", "RECITATION", "PROHIBITED_CONTENT", "refusal"]
BROKEN = [
    None,
    "",
    "error",
    "insufficient_system_resource",
    "OTHER",
    "abort",
    "network_error",
    "tool_calls",
    "load",
    "x" * 500,
]


@pytest.mark.parametrize(("reasons", "meaning"), [(WHOLE, "stop"), (CUT, "length"), (FILTERED, "content_filter")])
def test_known_reasons_have_one_meaning(reasons: list[str], meaning: str) -> None:
    assert {read_finish_reason(reason) for reason in reasons} == {meaning}


@pytest.mark.parametrize("reason", [*BROKEN, 3, {"type": "error"}])
def test_other_reasons_are_no_end(reason: object) -> None:
    assert read_finish_reason(reason) not in {"stop", "length", "content_filter"}
    assert 0 < len(read_finish_reason(reason)) <= 80


@pytest.mark.parametrize("reason", BROKEN[:6])
def test_broken_reply_is_paid_and_never_kept(make: Any, server: Server, ledger: Ledger, reason: Any) -> None:
    server.script["a"] = [text("It was a", reason), text("It was a dark night.", "end_turn")]
    server.script["b"] = [text("It was a", reason)]
    chat = make()
    whole = one(chat, "a")
    assert (whole.text, whole.finish_reason) == ("It was a dark night.", "stop")
    error = failure(chat, "b")
    assert (error.kind, error.raw) == (FailureKind.UNFINISHED, "It was a")
    assert ledger.spent_by_scope().calls == 5


def test_broken_reply_of_earlier_version_is_replaced(make: Any, server: Server, call_store: CallStore) -> None:
    chat: Client = make()
    old = one(chat, "a")
    key = cache_key(chat.identity(), asked := request("a"))
    broken = Completion(text="It was a", finish_reason="error", usage=old.usage)
    call_store.cache.put(key, "openai/m", asked, broken, replace=True)
    assert chat.count_cached([asked]) == 0
    assert one(chat, "a").text == "re: a"
    assert chat.count_cached([asked]) == 1
    assert one(chat, "a").text == "re: a"
    assert len(server.seen) == 2
