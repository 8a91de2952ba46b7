"""Ask an endpoint for one token, so that a wrong host, port, scheme, model or key is known within seconds."""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from tapir_exp.config import LLMConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.event_loop import run_coroutine
from tapir_exp.llm.chat import ChatRequest, Message, Usage
from tapir_exp.llm.completions import compute_usage
from tapir_exp.llm.failures import CallError, EndpointError, FailureKind, Policy
from tapir_exp.llm.litellm_transport import LitellmTransport
from tapir_exp.llm.openai_transport import HttpTransport, base_of, is_openai_compatible
from tapir_exp.llm.pricing import get_price
from tapir_exp.llm.reactions import Reactions
from tapir_exp.llm.transport import RawCompletion

TIMEOUT_S = 60.0
"""Seconds that an endpoint may take for one token; a slower one is no mistake, but it is reported."""
MAX_ATTEMPTS = 4
"""Attempts, each after an error that named another parameter."""
REQUEST = ChatRequest(messages=(Message(role="user", content="Reply with OK."),), max_tokens=1)
TEMPORARY = frozenset({FailureKind.RATE_LIMIT, FailureKind.LOADING, FailureKind.SERVER, FailureKind.TIMEOUT})
"""Failures that may be over when the run begins; its calls are repeated."""


@dataclass(frozen=True)
class Probe:
    """Result of one call.

    Attributes:
        seconds: Time that it took.
        problem: What is wrong, and what to do about it; empty if calls will succeed.
        note: What else is worth knowing, such as a server that is busy.
        usage: What was paid; None if nothing was.
    """

    seconds: float
    problem: str = ""
    note: str = ""
    usage: Usage | None = None


def address_of(config: LLMConfig) -> str:
    """Return host and port of an endpoint, or the provider's name."""
    if config.api_base is None and not is_openai_compatible(config.model):
        return config.model.partition("/")[0]
    parts = urlsplit(base_of(config))
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def probe_all(models: Sequence[tuple[str, LLMConfig]]) -> list[Probe]:
    """Ask every model at once, and return the results in order.

    Args:
        models: The models with the role that messages name.
    """

    async def gather() -> list[Probe]:
        return await asyncio.gather(*(_probe(role, config) for role, config in models))

    return run_coroutine(gather())


async def _probe(role: str, config: LLMConfig) -> Probe:
    config = replace(config, timeout_s=min(config.timeout_s, TIMEOUT_S), batch=False)
    key, missing = _read_key(config)
    if missing:
        return Probe(0.0, f"the environment variable {missing} ({role}.llm.api_key_env) is not set")
    started = time.monotonic()
    try:
        raw = await _ask(role, config, key)
    except (CallError, EndpointError, ConfigError) as error:
        problem, note = _explain(role, config, error)
        return Probe(time.monotonic() - started, problem, note)
    return Probe(time.monotonic() - started, usage=compute_usage(REQUEST, raw, get_price(config)))


async def _ask(role: str, config: LLMConfig, key: str | None) -> RawCompletion:
    """Send the request, again if an error names another parameter. Raises CallError and EndpointError."""
    direct = is_openai_compatible(config.model) and not config.use_litellm
    transport = HttpTransport(config, key) if direct else LitellmTransport(config, key, None)
    reactions = Reactions(config, role, is_served=False)
    async with transport.connected():
        for attempt in range(MAX_ATTEMPTS):
            parameters = getattr(transport, "parameters", None)
            dialect = parameters.dialect if parameters else None
            try:
                return await transport.send(REQUEST)
            except CallError as error:
                if attempt + 1 == MAX_ATTEMPTS or not reactions.adapt(error, parameters, dialect, REQUEST):
                    raise
    raise AssertionError("the last attempt returns or raises")


def _read_key(config: LLMConfig) -> tuple[str | None, str]:
    """Return the key, and the name of its variable if it is not set."""
    if config.api_key_env is None:
        return ("none" if config.api_base is not None else None), ""
    key = os.environ.get(config.api_key_env, "").strip()
    return key or None, "" if key else config.api_key_env


def _explain(role: str, config: LLMConfig, error: Exception) -> tuple[str, str]:
    """Return the problem of a failed call, which stops the run, and a note about anything that does not."""
    if not isinstance(error, CallError):
        return str(error), ""
    where, detail, text = address_of(config), error.detail, f"{error.detail} {error.text}".lower()
    setting = f"{role}.llm.api_base"
    if error.unreachable:
        return f"{_explain_address(where, text)}; check {setting} = {config.api_base} ({detail})", ""
    if error.kind is FailureKind.CONNECTION:
        return f"{where} closes the connection without a reply: check the scheme (http or https) in {setting}", ""
    if error.kind is FailureKind.MALFORMED:
        expected = f"an address such as http://{where}/v1"
        return f"{where} replies, but with no completion: {setting} = {config.api_base}, expected {expected}", ""
    if error.kind.policy is Policy.ABORT_RUN:
        return f"{where} refuses the call: {_explain_refusal(role, config, error, text)} ({detail})", ""
    if error.kind in TEMPORARY:
        return "", f"{error.kind} at the moment: {detail}"
    return "", f"one token was refused ({detail})" if error.kind is FailureKind.REFUSED else ""


def _explain_address(where: str, text: str) -> str:
    """Return which part of an address is wrong."""
    host, _, port = where.rpartition(":")
    if "dns" in text or "name or service" in text or "getaddrinfo" in text or "nodename" in text:
        return f"the host {host} is not known"
    if "ssl" in text or "certificate" in text or "tls" in text:
        return f"{where} speaks no TLS, or has no valid certificate: the scheme may have to be http://"
    if "connectiontimeout" in text or "timed out" in text or "timeout" in text:
        return f"{where} accepts no connection within seconds: a firewall, a proxy, or a wrong host or port"
    return f"nothing listens on port {port} of {host}: start the server, or correct the port"


def _explain_refusal(role: str, config: LLMConfig, error: CallError, text: str) -> str:
    """Return what a refusal is about: the account, a parameter, the key, the model or the path."""
    if error.kind is FailureKind.QUOTA:
        return "the account or its quota is used up; top it up, or wait until its limit is reset"
    if error.kind is FailureKind.PARAMETER:
        return f"it does not know a parameter of {role}.llm.extra_params; remove it"
    status = error.detail.partition(" ")[0]
    if status in ("401", "403", "407") or "api key" in text or "api_key" in text:
        given = f"the key in {config.api_key_env}" if config.api_key_env else "no key; set llm.api_key_env"
        return f"it does not accept {given} for {config.model}"
    if "model" in text:
        return f"it does not know {role}.llm.model = {config.model}; expected PROVIDER/NAME with a name that it serves"
    return f"the path of {role}.llm.api_base = {config.api_base} does not exist there; most end in /v1"
