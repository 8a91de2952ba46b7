"""Judging resumes: known rows are reused in place, and only the others are sent."""

import pytest
from fakes import ScriptedChat, prompt_of, timeout_error

from tapir_exp.core.errors import TooManyFailures
from tapir_exp.evals.resume import NOT_ASKED, judge_missing
from tapir_exp.llm.chat import ChatRequest, Completion, Message
from tapir_exp.llm.executor import RequestResult


def judge(items: list[str], known: dict[str, str], chat: ScriptedChat | None, max_failure_rate: float = 0) -> list[str]:
    def request(item: str) -> ChatRequest:
        return ChatRequest(messages=(Message(role="user", content=item),), max_tokens=1)

    def parse(completion: Completion) -> str:
        return completion.text.upper()

    def to_row(item: str, result: RequestResult[str]) -> str:
        return f"{item}={result.value or result.failure if chat is None else result.value}"

    return judge_missing(
        items, known.get, request, parse, to_row, chat, label="judge", concurrency=2, max_failure_rate=max_failure_rate
    )


def test_judge_missing_sends_only_unknown_items_in_order() -> None:
    chat = ScriptedChat(lambda request: f"<{prompt_of(request)}>")
    assert judge(["a", "b", "c"], {"b": "known"}, chat) == ["a=<A>", "known", "c=<C>"]
    assert [prompt_of(request) for request in chat.requests] == ["a", "c"]


def test_judge_missing_all_known_sends_nothing() -> None:
    chat = ScriptedChat([])
    assert judge(["a", "a"], {"a": "known"}, chat) == ["known", "known"]
    assert chat.requests == []


def test_judge_missing_without_a_judge_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("tapir_exp.evals.resume.console.print", lambda text, **_: lines.append(text))
    assert judge(["a", "b", "c"], {"b": "known"}, None) == [f"a={NOT_ASKED}", "known", f"c={NOT_ASKED}"]
    judge(["a", "b", "c"], {"b": "known"}, ScriptedChat(["x", "y"]))
    assert lines == [
        "judge: reused 1 of 3 judgments; 2 are missing, and no judge is asked",
        "judge: reused 1 of 3 judgments; 2 are missing",
    ]


def test_judge_missing_failed_request_becomes_a_row() -> None:
    chat = ScriptedChat(lambda request: timeout_error() if prompt_of(request) == "a" else "x")
    assert judge(["a", "b", "c"], {}, chat, max_failure_rate=0.4) == ["a=None", "b=X", "c=X"]


def test_judge_missing_failure_rate_counts_calls_only() -> None:
    """Nine known rows do not make two failures of two calls tolerable."""
    items = [*"abcdefghi", "x", "y"]
    with pytest.raises(TooManyFailures, match="judge"):
        judge(items, dict.fromkeys(items[:9], "known"), ScriptedChat(lambda _: timeout_error()), max_failure_rate=0.3)
