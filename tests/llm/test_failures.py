"""Failures: policy and scope of each kind, and messages without secrets."""

import pytest

from tapir_exp.llm.failures import MAX_DETAIL_CHARS, POLICIES, REMEDIES, CallError, FailureKind, Policy, Scope, redact
from tapir_exp.llm.provider_errors import read_error


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
        (FailureKind.LOADING, Policy.RETRY),
        (FailureKind.UNFINISHED, Policy.RETRY),
        (FailureKind.THOUGHTS, Policy.FAIL_REQUEST),
        (FailureKind.PARAMETER, Policy.ABORT_RUN),
        (FailureKind.NO_USAGE, Policy.ESTIMATE),
    ],
)
def test_kind_has_expected_policy(kind: FailureKind, policy: Policy) -> None:
    assert kind.policy is policy


@pytest.mark.parametrize(
    ("kind", "scope"),
    [
        (FailureKind.FILTERED, Scope.ROW),
        (FailureKind.RATE_LIMIT, Scope.MINUTE),
        (FailureKind.QUOTA, Scope.ACCOUNT),
        (FailureKind.NO_ACCESS, Scope.CONFIGURATION),
    ],
)
def test_kind_has_expected_scope(kind: FailureKind, scope: Scope) -> None:
    assert kind.scope is scope


def test_kinds_that_stop_have_a_remedy() -> None:
    assert set(REMEDIES) == {kind for kind in FailureKind if kind.policy is Policy.ABORT_RUN}


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
    assert "hunter2" not in str(read_error(401, "hunter2 is wrong", {}, "hunter2"))


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
