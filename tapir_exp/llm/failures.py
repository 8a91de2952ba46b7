"""Kinds of failure of a call, and the reaction to each kind.

`provider_errors` has the table that maps the error of a provider to a kind.
"""

import re
from enum import StrEnum

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
    ESTIMATE = "reply is used: its tokens are estimated"
    RESEND = "sent again by the next start: the first one may have been paid"


class Scope(StrEnum):
    """What an error is about."""

    ROW = "this row"
    MINUTE = "this minute"
    ACCOUNT = "this account"
    CONFIGURATION = "this configuration"


class FailureKind(StrEnum):
    """Reason why a call has no usable completion; the values are stored in the ledger."""

    RATE_LIMIT = "rate limit"
    LOADING = "model loading"
    SERVER = "server error"
    TIMEOUT = "time-out"
    CONNECTION = "connection lost"
    MALFORMED = "malformed response"
    EMPTY = "empty reply"
    UNFINISHED = "unfinished reply"
    CUT = "cut at the length limit"
    UNREADABLE = "unreadable reply"
    FILTERED = "content filter"
    REFUSED = "request refused"
    THOUGHTS = "thoughts in the reply"
    NO_ACCESS = "no access"
    PARAMETER = "parameter refused"
    QUOTA = "quota used up"
    NO_USAGE = "usage not reported"
    LOST = "in flight when stopped"

    @property
    def policy(self) -> Policy:
        """Return the reaction to this kind of failure."""
        return POLICIES[self]

    @property
    def scope(self) -> Scope:
        """Return what this kind of failure is about."""
        if self is FailureKind.QUOTA:
            return Scope.ACCOUNT
        return {Policy.RETRY: Scope.MINUTE, Policy.ABORT_RUN: Scope.CONFIGURATION}.get(self.policy, Scope.ROW)


POLICIES = {
    FailureKind.RATE_LIMIT: Policy.RETRY,
    FailureKind.LOADING: Policy.RETRY,
    FailureKind.SERVER: Policy.RETRY,
    FailureKind.TIMEOUT: Policy.RETRY,
    FailureKind.CONNECTION: Policy.RETRY,
    FailureKind.MALFORMED: Policy.RETRY,
    FailureKind.EMPTY: Policy.RETRY,
    FailureKind.UNFINISHED: Policy.RETRY,
    FailureKind.CUT: Policy.RETRY_LONGER,
    FailureKind.UNREADABLE: Policy.RETRY_WITH_FEEDBACK,
    FailureKind.FILTERED: Policy.FAIL_REQUEST,
    FailureKind.REFUSED: Policy.FAIL_REQUEST,
    FailureKind.THOUGHTS: Policy.FAIL_REQUEST,
    FailureKind.NO_ACCESS: Policy.ABORT_RUN,
    FailureKind.PARAMETER: Policy.ABORT_RUN,
    FailureKind.QUOTA: Policy.ABORT_RUN,
    FailureKind.NO_USAGE: Policy.ESTIMATE,
    FailureKind.LOST: Policy.RESEND,
}
REMEDIES = {
    FailureKind.NO_ACCESS: (
        "Check llm.model, llm.api_base and the key in llm.api_key_env, then run the same command again."
    ),
    FailureKind.PARAMETER: (
        "Remove the parameter from llm.extra_params, or set llm.max_tokens_param or llm.send_temperature, then run the "
        "same command again."
    ),
    FailureKind.QUOTA: (
        "No row is lost, and all completions are cached: top up the account, or wait until its limit is reset, then "
        "run the same command again."
    ),
}
"""What to do about the kinds that stop a run."""

_SECRET = re.compile(r"\b(sk|hf|ghp|xox[a-z])[-_][\w*-]{4,}|Bearer \S+")
"""API keys of well-known providers, which providers quote in their messages, in part or whole."""


class CallError(TapirError):
    """A call without a usable completion.

    Attributes:
        kind: The kind of failure.
        detail: The provider's message, without secrets.
        wait_s: Seconds that the provider asks to wait before a retry; 0 if it does not ask.
        raw: The text of the reply, if there is one.
        text: The provider's whole message, for the search for names of parameters; never shown.
        unreachable: Whether there was no connection at all, such as a closed port or an unknown host.
    """

    def __init__(
        self,
        kind: FailureKind,
        detail: str,
        wait_s: float = 0.0,
        raw: str = "",
        *,
        text: str = "",
        unreachable: bool = False,
    ) -> None:
        self.kind, self.detail, self.wait_s, self.raw = kind, detail, wait_s, raw
        self.text, self.unreachable = text, unreachable
        super().__init__(f"{kind}: {detail}")


class EndpointError(TapirError):
    """An endpoint that refuses every call: wrong key, unknown model, exhausted quota or no connection."""


def redact(message: str, key: str | None = None) -> str:
    """Shorten a provider's message to one line without secrets."""
    line = " ".join(message.split())
    # Secrets are removed before the cut, so that no part of one is left at the end.
    if key:
        line = line.replace(key, "***")
    return _SECRET.sub("***", line)[:MAX_DETAIL_CHARS]
