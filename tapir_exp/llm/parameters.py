"""Names of call parameters that differ between endpoints: the length limit, and whether a temperature is accepted.

They come from a setting, or from an error of the endpoint that names the parameter. What was found holds for the
endpoint and the model as long as the process runs.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tapir_exp.config import LLMConfig
from tapir_exp.llm.chat import ChatRequest

OLD_LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
TINY_TEMPERATURE = 0.01
"""Stands for greedy decoding at endpoints that accept positive temperatures only."""
_REFUSED = re.compile(
    r"unsupported|not supported|n[o']t support|unrecogni[sz]ed|unknown|unexpected|extra_forbidden|not permitted"
    r"|not allowed|deprecated|additional propert|only the default|only .{0,40}(1|default).{0,40}(allowed|supported)"
    r"|must be (set to )?1\b|invalid temperature|drop_params",
    re.IGNORECASE,
)
_POSITIVE_ONLY = re.compile(
    r"strictly positive|greater than 0\b|> ?0(?!\.\d*[1-9])|\(0(\.0)?,|must be positive|larger than 0\b", re.IGNORECASE
)
_TOO_LARGE = re.compile(r"too large|at most|exceed|maximum|less than|<=|out of range", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """Names of the parameters at one endpoint.

    Attributes:
        limit: Name of the length limit.
        temperature: Whether a temperature is sent.
        least_temperature: Lowest temperature that is sent.
    """

    limit: str = OLD_LIMIT
    temperature: bool = True
    least_temperature: float = 0.0


_learnt: dict[tuple[str | None, str], Dialect] = {}


class EndpointParameters:
    """Parameters of the calls of one model at one endpoint."""

    def __init__(self, config: LLMConfig, limit: str = OLD_LIMIT) -> None:
        """Set up the parameters; `limit` is the name of the length limit if neither a setting nor an error names it."""
        self._config = config
        self._key = (config.api_base, config.model)
        named = None if config.max_tokens_param is None else config.max_tokens_param.value
        self._start = Dialect(named or limit, config.send_temperature)

    @property
    def dialect(self) -> Dialect:
        """Return the present names."""
        return _learnt.get(self._key, self._start)

    def of(self, request: ChatRequest) -> dict[str, Any]:
        """Return length limit, temperature and log-probabilities of a request under the endpoint's names."""
        dialect = self.dialect
        limit = {dialect.limit: request.max_tokens + self._config.reasoning_tokens}
        temperature = max(request.temperature, dialect.least_temperature)
        return {
            **limit,
            **({"temperature": temperature} if dialect.temperature else {}),
            **({"logprobs": True, "top_logprobs": request.top_logprobs} if request.top_logprobs else {}),
        }

    def learn(self, sent: Dialect, text: str) -> str | None:
        """Adapt the names to an error that rejects one.

        Args:
            sent: The names that the failed call had.
            text: The whole text of the refusal.

        Returns:
            A sentence about the change, empty if another call has made it already; None if the error is about something
            else.
        """
        if self.dialect != sent:
            return ""
        changed, sentence = self._change(sent, text)
        if changed is None:
            return None
        _learnt[self._key] = changed
        return sentence

    def _change(self, sent: Dialect, text: str) -> tuple[Dialect | None, str]:
        where = f"{self._config.model} at {self._config.api_base or 'its provider'}"
        other = NEW_LIMIT if sent.limit == OLD_LIMIT else OLD_LIMIT
        advised = _names(text, other) and re.search(r"\binstead\b|\buse\b", text, re.IGNORECASE)
        unknown = _names(text, sent.limit) and _REFUSED.search(text) and not _TOO_LARGE.search(text)
        # An endpoint that rejects both names must not get calls forever.
        if (advised or unknown) and sent.limit == self._start.limit:
            return replace(sent, limit=other), (
                f"{where} takes {other} in place of {sent.limit}, by its own message; llm.max_tokens_param={other} "
                "sets it from the start"
            )
        if sent.temperature and _names(text, "temperature"):
            if _POSITIVE_ONLY.search(text) and sent.least_temperature == 0.0:
                changed = replace(sent, least_temperature=TINY_TEMPERATURE)
                return changed, f"{where} takes positive temperatures only: {TINY_TEMPERATURE} stands for 0"
            if _REFUSED.search(text):
                return replace(sent, temperature=False), (
                    f"{where} takes no temperature, by its own message: its replies are sampled as its provider likes; "
                    "llm.send_temperature=false sets it from the start"
                )
        return None, ""


def refused_parameter(sent: Iterable[str], text: str) -> str | None:
    """Return the name of a sent parameter that an error calls unknown or unsupported, or None.

    Args:
        sent: Names of the parameters that the configuration or the stage has set.
        text: The whole text of the refusal.
    """
    if not _REFUSED.search(text) or _TOO_LARGE.search(text):
        return None
    return next((name for name in sent if _names(text, name)), None)


def _names(text: str, parameter: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(parameter)}(?![\w-])", text) is not None
