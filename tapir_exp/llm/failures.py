"""Kinds of failure of a call, and the retry policy of each kind."""

import re
from enum import StrEnum
from http import HTTPStatus

from tapir_exp.core.errors import TapirError

MAX_DETAIL_CHARS = 200
"""Length of a provider's message in an error; some providers send whole HTML pages."""


class Policy(StrEnum):
    """Reaction to a failure; the values are shown in the report."""

    RETRY = "retried with growing pauses"
    RETRY_LONGER = "retried once with twice the length limit"
    RETRY_WITH_FEEDBACK = "retried once with an error message"
    FAIL_REQUEST = "request fails: a retry would fail again"
    ABORT_RUN = "run stops: every call would fail"


class FailureKind(StrEnum):
    """Reason why a call has no usable completion; the values are stored in the ledger."""

    RATE_LIMIT = "rate limit"
    SERVER = "server error"
    TIMEOUT = "time-out"
    CONNECTION = "connection lost"
    MALFORMED = "malformed response"
    EMPTY = "empty reply"
    CUT = "cut at the length limit"
    UNREADABLE = "unreadable reply"
    FILTERED = "content filter"
    REFUSED = "request refused"
    NO_ACCESS = "no access"
    QUOTA = "quota used up"

    @property
    def policy(self) -> Policy:
        """Return the reaction to this kind of failure."""
        return POLICIES[self]


POLICIES = {
    FailureKind.RATE_LIMIT: Policy.RETRY,
    FailureKind.SERVER: Policy.RETRY,
    FailureKind.TIMEOUT: Policy.RETRY,
    FailureKind.CONNECTION: Policy.RETRY,
    FailureKind.MALFORMED: Policy.RETRY,
    FailureKind.EMPTY: Policy.RETRY,
    FailureKind.CUT: Policy.RETRY_LONGER,
    FailureKind.UNREADABLE: Policy.RETRY_WITH_FEEDBACK,
    FailureKind.FILTERED: Policy.FAIL_REQUEST,
    FailureKind.REFUSED: Policy.FAIL_REQUEST,
    FailureKind.NO_ACCESS: Policy.ABORT_RUN,
    FailureKind.QUOTA: Policy.ABORT_RUN,
}

_NO_ACCESS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND}
"""Statuses of a wrong key or model. 403 is not one: some providers return it for a single rejected prompt."""
_QUOTA = re.compile("insufficient_quota|exceeded your current quota", re.IGNORECASE)
_SECRET = re.compile(r"\b(sk|hf|ghp|xox[a-z])[-_][\w*-]{4,}|Bearer \S+")
"""API keys of well-known providers, which providers quote in their messages, in part or whole."""


class CallError(TapirError):
    """A call without a usable completion.

    Attributes:
        kind: The kind of failure.
        detail: The provider's message, without secrets.
        wait_s: Seconds that the provider asks to wait before a retry; 0 if it does not ask.
        raw: The text of the reply, if there is one.
    """

    def __init__(self, kind: FailureKind, detail: str, wait_s: float = 0.0, raw: str = "") -> None:
        self.kind, self.detail, self.wait_s, self.raw = kind, detail, wait_s, raw
        super().__init__(f"{kind}: {detail}")


class EndpointError(TapirError):
    """An endpoint that refuses every call: wrong key, unknown model or exhausted quota."""


def error_from_status(status: int, message: str, wait_s: float = 0.0, key: str | None = None) -> CallError:
    """Convert an HTTP status other than 200 into an error.

    Args:
        status: The HTTP status.
        message: The body, of any length.
        wait_s: Seconds of the Retry-After header; 0 without one.
        key: The API key, which is removed from the message.
    """
    detail = redact(message, key)
    # Providers answer 429 both for a short rate limit and for an exhausted quota; only the message distinguishes them.
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = FailureKind.QUOTA if _QUOTA.search(message) else FailureKind.RATE_LIMIT
    elif status == HTTPStatus.REQUEST_TIMEOUT:
        kind = FailureKind.TIMEOUT
    elif status == HTTPStatus.CONFLICT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # Conflicts (409) and all server errors (5xx) are transient.
        kind = FailureKind.SERVER
    else:
        kind = FailureKind.NO_ACCESS if status in _NO_ACCESS else FailureKind.REFUSED
    return CallError(kind, f"{status} {detail}", wait_s)


def redact(message: str, key: str | None = None) -> str:
    """Shorten a provider's message to one line without secrets."""
    line = " ".join(message.split())
    # Secrets are removed before the cut, so that no part of one is left at the end.
    if key:
        line = line.replace(key, "***")
    return _SECRET.sub("***", line)[:MAX_DETAIL_CHARS]
