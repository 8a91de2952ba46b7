"""Failures: the policy of each kind, the kind of each status, and messages without secrets."""

import pytest

from tapir_exp.llm.failures import MAX_DETAIL_CHARS, POLICIES, CallError, FailureKind, Policy, error_from_status, redact


def test_policies_cover_all_kinds() -> None:
    assert set(POLICIES) == set(FailureKind)
    assert {kind.policy for kind in FailureKind} == set(Policy)


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        (FailureKind.RATE_LIMIT, Policy.RETRY),
        (FailureKind.SERVER, Policy.RETRY),
        (FailureKind.TIMEOUT, Policy.RETRY),
        (FailureKind.CONNECTION, Policy.RETRY),
        (FailureKind.MALFORMED, Policy.RETRY),
        (FailureKind.EMPTY, Policy.RETRY),
        (FailureKind.CUT, Policy.RETRY_LONGER),
        (FailureKind.UNREADABLE, Policy.RETRY_WITH_FEEDBACK),
        (FailureKind.FILTERED, Policy.FAIL_REQUEST),
        (FailureKind.REFUSED, Policy.FAIL_REQUEST),
        (FailureKind.NO_ACCESS, Policy.ABORT_RUN),
        (FailureKind.QUOTA, Policy.ABORT_RUN),
    ],
)
def test_kind_has_expected_policy(kind: FailureKind, policy: Policy) -> None:
    assert kind.policy is policy


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (429, "slow down", FailureKind.RATE_LIMIT),
        (429, "You exceeded your current quota, please check your plan", FailureKind.QUOTA),
        (429, "code: insufficient_quota", FailureKind.QUOTA),
        (408, "", FailureKind.TIMEOUT),
        (409, "", FailureKind.SERVER),
        (500, "", FailureKind.SERVER),
        (503, "insufficient_quota", FailureKind.SERVER),
        (529, "overloaded", FailureKind.SERVER),
        (400, "too long", FailureKind.REFUSED),
        (403, "we dislike this prompt", FailureKind.REFUSED),
        (413, "", FailureKind.REFUSED),
        (422, "", FailureKind.REFUSED),
        (302, "", FailureKind.REFUSED),
        (401, "", FailureKind.NO_ACCESS),
        (404, "no such model", FailureKind.NO_ACCESS),
    ],
)
def test_error_from_status_returns_kind(status: int, message: str, kind: FailureKind) -> None:
    error = error_from_status(status, message, wait_s=3.0)
    assert (error.kind, error.wait_s, error.raw) == (kind, 3.0, "")
    assert str(error) == f"{kind.value}: {status} {message}"


def test_quota_is_found_in_long_message() -> None:
    assert error_from_status(429, "x" * 10_000 + " insufficient_quota").kind is FailureKind.QUOTA


def test_redact_returns_one_short_line() -> None:
    assert redact(" two\n\tlines ") == "two lines"
    assert len(redact("word " * 10_000)) == MAX_DETAIL_CHARS


@pytest.mark.parametrize(
    "secret",
    [
        "sk-abcdef1234567890",
        "sk-proj-abc_DEF-123",
        "sk-abcd****wxyz",
        "hf_AbCdEfGh",
        "ghp_AbCdEfGh",
        "xoxb-12345678",
        "Bearer eyJhbGciOi.J9",
    ],
)
def test_redact_removes_known_key_formats(secret: str) -> None:
    assert redact(f"Incorrect API key provided: {secret} sorry") == "Incorrect API key provided: *** sorry"


def test_redact_removes_given_key() -> None:
    assert redact("no such key: Tr0ub4dor&3!", "Tr0ub4dor&3!") == "no such key: ***"
    assert "hunter2" not in str(error_from_status(401, "hunter2 is wrong", key="hunter2"))


def test_redact_removes_keys_before_shortening() -> None:
    for length in range(MAX_DETAIL_CHARS - 20, MAX_DETAIL_CHARS + 1):
        message = "." * length + " sk-abcdef1234567890abcdef "
        assert "sk-" not in redact(message)
        assert "hunter" not in redact("." * length + "hunter2000", "hunter2000")


def test_redact_keeps_ordinary_words() -> None:
    for message in ("the risk-averse ask-me task_force", "sk- is how keys begin", "half_done"):
        assert redact(message) == message


def test_call_error_has_kind_detail_and_raw() -> None:
    error = CallError(FailureKind.FILTERED, "stopped", raw="I sh")
    assert (str(error), error.detail, error.raw, error.wait_s) == ("content filter: stopped", "stopped", "I sh", 0.0)
