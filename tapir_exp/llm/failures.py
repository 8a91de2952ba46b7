"""How a call can fail, and what follows from each way of failing: the one table of the retry policy."""

import re
from enum import StrEnum
from http import HTTPStatus

from tapir_exp.core.errors import TapirError

MAX_DETAIL_CHARS = 200
"""Characters of a provider's message that are kept; some send whole HTML pages."""


class Policy(StrEnum):
    """What is done about a failure."""

    RETRY = "retried with growing pauses"
    RETRY_LONGER = "retried once with twice the length limit"
    RETRY_WITH_FEEDBACK = "retried once with an error message"
    FAIL_REQUEST = "request fails: a retry would fail again"
    ABORT_RUN = "run stops: every call would fail"


class FailureKind(StrEnum):
    """Why a call brought nothing that can be used."""

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
        """What is done about it."""
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
"""No such key, no such model. 403 is not among them: some providers say so of a single prompt that they dislike."""
_QUOTA = re.compile("insufficient_quota|exceeded your current quota", re.IGNORECASE)
_SECRET = re.compile(r"\b(sk|hf|ghp|xox[a-z])[-_][\w*-]{4,}|Bearer \S+")
"""What keys of well-known providers look like; providers quote them, in part or whole, in their messages."""


class CallError(TapirError):
    """A call that brought no usable reply.

    wait_s: seconds that the provider asks to wait before another try; 0 where it asks for nothing.
    raw: what it did send, where that is a reply.
    """

    def __init__(self, kind: FailureKind, detail: str, wait_s: float = 0.0, raw: str = "") -> None:
        self.kind, self.detail, self.wait_s, self.raw = kind, detail, wait_s, raw
        super().__init__(f"{kind}: {detail}")


class EndpointError(TapirError):
    """An endpoint that refuses every call: a wrong key, an unknown model, a quota that is used up."""


def error_from_status(status: int, message: str, wait_s: float = 0.0, key: str | None = None) -> CallError:
    """What an HTTP status other than 200 means.

    message: the body, of any length, from which `key` is cut out; wait_s: of the Retry-After header, 0 without one.
    """
    detail = redact(message, key)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = FailureKind.QUOTA if _QUOTA.search(message) else FailureKind.RATE_LIMIT
    elif status == HTTPStatus.REQUEST_TIMEOUT:
        kind = FailureKind.TIMEOUT
    elif status == HTTPStatus.CONFLICT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = FailureKind.SERVER
    else:
        kind = FailureKind.NO_ACCESS if status in _NO_ACCESS else FailureKind.REFUSED
    return CallError(kind, f"{status} {detail}", wait_s)


def redact(message: str, key: str | None = None) -> str:
    """Enough of a provider's message to tell the cause, on one line and without any secret."""
    line = " ".join(message.split())
    if key:
        line = line.replace(key, "***")
    return _SECRET.sub("***", line)[:MAX_DETAIL_CHARS]
