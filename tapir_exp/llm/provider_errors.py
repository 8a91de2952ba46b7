"""One table of what a provider's error means: this row, this minute, this account or this configuration.

The first rule that fits counts. The dialects are those of the providers' error pages and public issue threads;
`docs/guides/llm_endpoints.md` shows the table.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tapir_exp.llm.failures import CallError, FailureKind, redact
from tapir_exp.llm.waits import told_wait_s

MAX_TEXT_CHARS = 20_000
"""Characters of an error that are read; a code at the end of a longer page is not found."""
MAX_DEPTH = 8
"""Levels of an error's JSON that are read."""
LOADING_WAIT_S = 3.0
"""Pause of all calls while a server loads its model, if it gives no time."""
_MESSAGES = ("message", "msg", "detail", "error", "error_description", "error_msg", "status_msg", "title", "raw")
_CODES = ("code", "type", "status", "reason", "reasons", "quotaId", "error_code", "param", "loc", "blockReason")
_NESTED = ("errors", "details", "violations", "innererror", "metadata", "base_resp", "response")


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Attributes:
        kind: What the error means.
        pattern: Text that the message or a code must contain, in any case; empty for any.
        statuses: Statuses of the rule, as words of digits with x for any digit; empty for any.
        waits: Whether the provider must name the time after which a retry may succeed.
    """

    kind: FailureKind
    pattern: str = ""
    statuses: str = ""
    waits: bool = False

    def fits(self, status: int, text: str, wait_s: float) -> bool:
        """Return True if the rule applies to this error."""
        if self.waits and not wait_s:
            return False
        known = not self.statuses or re.fullmatch(self.statuses.replace("x", r"\d").replace(" ", "|"), str(status))
        return bool(known) and re.search(self.pattern, text, re.IGNORECASE) is not None


_NOT_SERVER = "200 4xx"
RULES = (
    # This account: money or a quota that no wait of minutes brings back. Gateways use many statuses for it.
    Rule(
        FailureKind.QUOTA,
        r"billing_hard_limit|billing_not_active|insufficient[_ ](balance|credits?|funds)|insufficient_user_quota"
        r"|credit balance is too low|requires more credits|out of credits|can only afford"
        r"|credits? (are|is|has been|have been) (depleted|exhausted|used)|exceeded_current_quota_error"
        r"|(credit|spend|spending|budget|billing|key|usage) limit (was |has been |is )?(exceeded|reached)"
        r"|reached your specified .*usage limit|exceeded your .*(monthly|spend)\S* .*limit|budget has been exceeded",
        _NOT_SERVER,
    ),
    Rule(
        FailureKind.QUOTA,
        r"Arrearage|overdue|欠费|余额不足|in good standing|FreeTierOnly|Free allocated quota exceeded",
        _NOT_SERVER,
    ),
    Rule(FailureKind.QUOTA, statuses="402"),
    # DashScope says "insufficient_quota" of a limit on tokens per minute; OpenAI says it of an empty account.
    Rule(FailureKind.RATE_LIMIT, r"#token-limit|Allocated quota exceeded|Throttling\.(Allocation|Rate|Burst)", "4xx"),
    Rule(FailureKind.QUOTA, r"\binsufficient_quota\b|PerDay|free-models-per-day|\bdaily\b", "200 403 429"),
    # This row: a filter has rejected the prompt or its reply.
    Rule(
        FailureKind.FILTERED,
        r"content[_ ]?filter|ResponsibleAIPolicy|content_policy_violation|ContentPolicyViolation|content management"
        r"|data_?inspection_?failed|Content Exists Risk|inappropriate content|PROHIBITED_CONTENT|\binvalid_prompt\b"
        r"|(input|prompt|content|text|message)s?\b.{0,40}\bflagged|flagged_input|usage polic"
        r"|moderation|sensitive (content|word)",
        "200 400 403 422 451",
    ),
    Rule(FailureKind.FILTERED, statuses="451"),
    # This row: too long for the model.
    Rule(
        FailureKind.REFUSED,
        r"context[_ ](length|size|window)|ContextWindowExceeded|exceed_context|too long|too many tokens|prompt is too"
        r"|max_new_tokens|maximum context|longer than the model",
        "400 403 413 422",
    ),
    # OpenAI and Groq say "rate_limit_exceeded" of one request that is larger than the limit of a minute.
    Rule(FailureKind.REFUSED, r"request too large", "413 429"),
    Rule(FailureKind.REFUSED, r"context shift|exceed_context|exceeds? the available context", "500"),
    # This configuration: key, model, region or server.
    Rule(
        FailureKind.NO_ACCESS,
        r"API_KEY_INVALID|(API key|subscription key|token)s? (is |was )?(not valid|invalid|incorrect|expired|disabled)"
        r"|incorrect API key|invalid[_ ]?api[_ ]?key|reported as leaked|authentication_error|unsupported_country"
        r"|location is not supported|SERVICE_DISABLED|CONSUMER_SUSPENDED|PERMISSION_DENIED|AccessDenied|Unpurchased"
        r"|model_not_found|model_not_available|invalid_model|invalid model\b|valid model ID|DeploymentNotFound"
        r"|model\b.{0,120}\b(does not exist|not found|not exist|decommissioned)|access to (the )?model"
        r"|No endpoints found|LLM Provider NOT provided|api_key client option must be set|not support (chat|generate)",
        "200 400 403 404 422 500",
    ),
    Rule(FailureKind.NO_ACCESS, r"requires more system memory|try pulling it|unable to load model", "500"),
    Rule(FailureKind.NO_ACCESS, statuses="401 404 405 407 410 501 30x"),
    # This minute: a server that loads its model, a limit per minute, an overload.
    Rule(FailureKind.LOADING, r"loading|not ready|warming up|cold start|model is starting", "425 503"),
    Rule(FailureKind.RATE_LIMIT, "", "429", waits=True),
    Rule(FailureKind.RATE_LIMIT, r"PerMinute|per[ -]min|requests per second", "200 403 429"),
    Rule(
        FailureKind.QUOTA, r"per day|exceeded your current quota|billing details|quota (is )?(exhausted|used up)", "429"
    ),
    Rule(FailureKind.RATE_LIMIT, statuses="429"),
    Rule(
        FailureKind.RATE_LIMIT,
        r"rate[_ -]?limit|too many requests|Throttling|limit_(requests|burst_rate)|RESOURCE_EXHAUSTED|concurrency",
        "200 400 403 422",
    ),
    Rule(FailureKind.TIMEOUT, statuses="408"),
    # Conflicts (409) and all server errors (5xx) are transient; so is an error in a reply with status 200.
    Rule(FailureKind.SERVER, statuses="200 409 423 425 499 5xx"),
    # 403 is no matter of the key only: some providers return it for a single rejected prompt.
    Rule(FailureKind.REFUSED),
)


def read_error(status: int, text: str, headers: Mapping[str, str], key: str | None = None) -> CallError:
    """Convert an error of a provider.

    Args:
        status: The HTTP status; 200 if an error came with it and names no status of its own.
        text: The body, of any length and form.
        headers: The response headers.
        key: The API key, which is removed from the message.
    """
    message = error_text(text)
    wait_s = told_wait_s(headers, message, limited=status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.OK})
    kind = next(rule.kind for rule in RULES if rule.fits(status, message, wait_s))
    if kind is FailureKind.LOADING:
        wait_s = wait_s or LOADING_WAIT_S
    return CallError(kind, f"{status} {redact(message, key)}", wait_s, text=message)


def read_embedded_error(body: Any, headers: Mapping[str, str], key: str | None = None) -> CallError | None:
    """Return the error that a reply with status 200 holds instead of a completion, or None.

    OpenRouter and some gateways answer 200 before the model has started, and put a later error into the body or into
    the choice.
    """
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    choices = body.get("choices")
    if not error and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        error = choices[0].get("error")
    flat = not choices and (body.get("object") == "error" or _status_of(body) is not None)
    if not error and not flat:
        return None
    source = error if error else body
    return read_error(_status_of(source) or HTTPStatus.OK, json.dumps({"error": source}, default=str), headers, key)


def error_text(text: str) -> str:
    """Return messages and codes of a JSON error in one line; any other text shortened, otherwise unchanged."""
    text = text[:MAX_TEXT_CHARS]
    try:
        found = list(dict.fromkeys(_texts(json.loads(text), 0)))
    except (ValueError, RecursionError):
        return text
    return " ".join(found)[:MAX_TEXT_CHARS] if found else text


def _texts(value: Any, depth: int) -> Iterator[str]:
    """Yield the messages of an error, then its codes. Echoes of the prompt, such as `input`, are left out."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, list):
        for inner in value[:20]:
            yield from _texts(inner, depth + 1)
    if not isinstance(value, Mapping):
        return
    for name in _MESSAGES:
        inner = value.get(name)
        if isinstance(inner, str):
            # Gateways pass the error of the provider on as text.
            yield from _nested_text(inner, depth)
        else:
            yield from _texts(inner, depth + 1)
    for name in _CODES:
        inner = value.get(name)
        parts = inner if isinstance(inner, list) else [inner]
        yield from (str(part) for part in parts if isinstance(part, str | int) and not isinstance(part, bool))
    if isinstance(delay := value.get("retryDelay"), str):
        yield f"retryDelay {delay}"
    for name in _NESTED:
        yield from _texts(value.get(name), depth + 1)


def _nested_text(text: str, depth: int) -> Iterator[str]:
    found: list[str] = []
    if text.lstrip().startswith(("{", "[")):
        with suppress(ValueError, RecursionError):
            found = list(_texts(json.loads(text), depth + 1))
    yield from found or [text]


def _status_of(error: Any) -> int | None:
    """Return the HTTP status that an error names, or None."""
    if not isinstance(error, Mapping):
        return None
    for name in ("code", "status", "status_code", "http_code", "http_status"):
        value = str(error.get(name))
        if re.fullmatch(r"[45]\d\d", value):
            return int(value)
    return None
