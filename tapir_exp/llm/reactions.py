"""Reactions to errors of one endpoint: stop the run, change a parameter's name, or report what the calls wait for."""

import time
from collections.abc import Mapping

from tapir_exp.config import LLMConfig
from tapir_exp.core import events
from tapir_exp.core.console import console
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.llm.failures import REMEDIES, CallError, EndpointError, FailureKind, Policy
from tapir_exp.llm.parameters import NEW_LIMIT, OLD_LIMIT, Dialect, EndpointParameters, refused_parameter
from tapir_exp.llm.rate_limit import RateLimiter

TOLD_WAIT_S = 3.0
"""Waits from this length on are printed."""
TELL_INTERVAL_S = 30.0
"""Shortest time between two lines about short waits."""

_answered: set[str] = set()
"""Endpoints that have answered a call of this process."""


class Reactions:
    """Reactions to the errors of one model's endpoint.

    Attributes:
        pause_reason: Why the provider asked for the last pause.
    """

    def __init__(self, config: LLMConfig, role: str, *, is_served: bool) -> None:
        """Set up the reactions.

        Args:
            config: The model and its endpoint.
            role: Name in messages.
            is_served: Whether the run starts the server, so that a lost connection is no wrong address.
        """
        self._config, self._role, self._is_served = config, role, is_served
        self._endpoint = config.api_base or config.model.partition("/")[0]
        self._told_until = 0.0
        self._limit_told, self._limit_told_at = 0, float("-inf")
        self.pause_reason = ""

    def note_answer(self) -> None:
        """Record that the endpoint answers."""
        _answered.add(self._endpoint)

    def stop_if_lasting(self, error: CallError) -> None:
        """Raise EndpointError if every further call would fail, too."""
        # After a first answer a lost connection is an outage; before it, a wrong address.
        if error.unreachable and not self._is_served and self._endpoint not in _answered:
            raise EndpointError(
                f"{self._role}: {error.detail}. Check {self._role}.llm.api_base (scheme, host and port), the server, "
                "and the proxies of the environment; then run the same command again."
            ) from None
        if error.kind.policy is Policy.ABORT_RUN:
            raise self.refusal(error.kind, error) from None

    def refusal(self, kind: FailureKind, error: CallError) -> EndpointError:
        """Return the error that stops the run, with its remedy."""
        return EndpointError(f"{self._role}: {self._config.model} refuses every call: {error}. {REMEDIES[kind]}")

    def adapt(
        self, error: CallError, parameters: EndpointParameters | None, sent: Dialect | None, request: ChatRequest
    ) -> bool:
        """Adapt the names of parameters to an error. Return True if the call can be repeated at once.

        Args:
            error: The error of the call.
            parameters: The endpoint's names of parameters; None for a model without an endpoint.
            sent: The names that the call had.
            request: The request of the call.

        Raises:
            EndpointError: If the endpoint rejects a parameter that cannot be renamed or left out.
        """
        if error.kind not in {FailureKind.CONNECTION, FailureKind.TIMEOUT}:
            self.note_answer()
        if error.kind is not FailureKind.REFUSED or parameters is None or sent is None:
            return False
        sentence = parameters.learn(sent, error.text)
        if sentence:
            console.print(f"{self._role}: {sentence}", markup=False, soft_wrap=True)
        if sentence is not None:
            return True
        body = self._config.extra_params.get("extra_body")
        names = [*self._config.extra_params, *(body if isinstance(body, Mapping) else ())]
        names += [OLD_LIMIT, NEW_LIMIT, "temperature", *(["top_logprobs", "logprobs"] if request.top_logprobs else [])]
        if refused_parameter(names, error.text) is not None:
            raise self.refusal(FailureKind.PARAMETER, CallError(FailureKind.PARAMETER, error.detail)) from None
        return False

    def tell_limit(self, limit: int, reason: str) -> None:
        """Record how many calls in flight `concurrency: auto` has found, and print it now and then.

        Args:
            limit: The number.
            reason: Why it was reduced; empty at the end of a stream of calls.
        """
        events.record(events.Kind.CONCURRENCY, role=self._role, limit=limit, reason=reason)
        now = time.monotonic()
        if now - self._limit_told_at < TELL_INTERVAL_S if reason else limit == self._limit_told:
            return
        self._limit_told, self._limit_told_at = limit, now
        console.print(
            f"{self._role}: {limit} calls of {self._config.model} in flight{f', after: {reason}' if reason else ''}",
            markup=False,
            soft_wrap=True,
        )

    def tell_wait(self, wait_s: float, limiter: RateLimiter) -> None:
        """Print that calls wait, for which limit and until when; once for all calls."""
        now = time.monotonic()
        if wait_s < TOLD_WAIT_S or now + wait_s <= self._told_until + TOLD_WAIT_S:
            return
        self._told_until = max(now + wait_s, now + TELL_INTERVAL_S)
        reason = f" ({self.pause_reason})" if limiter.paused and self.pause_reason else ""
        # For the eye only: the wait itself does not depend on the clock.
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + wait_s))
        console.print(
            f"{self._role}: calls of {self._config.model} wait {wait_s:.0f} s, until {until}, for "
            f"{limiter.limit}{reason}",
            markup=False,
            soft_wrap=True,
        )
