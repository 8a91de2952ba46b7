"""Stop before the judge is paid for responses that are nearly all empty or cut."""

from collections.abc import Callable, Sequence

from tapir_exp.config import Config
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Response

FIRST = 20
"""Responses that are held back until their share is known; a judge that runs at the same time gets them after that."""


class ResponseGate:
    """Passes responses to the judge once the first of them show that the student answers.

    Attributes:
        passed: Whether responses are handed over as they come: the first ones were checked, or any are accepted.
    """

    def __init__(self, config: Config, label: str, total: int, submit: Callable[[Response], None]) -> None:
        """Set up the gate.

        Args:
            config: The configuration of the run.
            label: Name of the student in messages.
            total: Number of responses to come.
            submit: Hands a response over to the judge.
        """
        self.passed = config.judge.max_unusable_responses >= 1
        self._config, self._label, self._submit = config, label, submit
        self._first = min(FIRST, total)
        self._held: list[Response] = []

    def add(self, response: Response) -> None:
        """Take the next response. Raise TapirError if too many of the first are empty or cut."""
        if self.passed:
            self._submit(response)
            return
        self._held.append(response)
        if len(self._held) >= self._first:
            check_responses(self._held, self._config, self._label)
            self.passed = True
            for held in self._held:
                self._submit(held)


def check_responses(responses: Sequence[Response], config: Config, label: str) -> None:
    """Check that a student answers, before the judge is asked.

    Args:
        responses: Responses of the student.
        config: The configuration of the run.
        label: Name of the student in messages.

    Raises:
        TapirError: If more of them are empty or cut than `judge.max_unusable_responses` allows.
    """
    empty = sum(not (response.text or "").strip() for response in responses)
    cut = sum(not response.finished and bool((response.text or "").strip()) for response in responses)
    limit = config.judge.max_unusable_responses
    if not responses or empty + cut <= limit * len(responses):
        return
    remedies = []
    if cut:
        remedies.append(
            f"for longer responses, raise student.max_new_tokens (now {config.student.max_new_tokens}); a model that "
            "never stops may need more epochs (sft.seed_stage.epochs)"
        )
    if empty:
        remedies.append(
            f"for empty ones, check student.chat_template (now {config.student.chat_template.name}) and the model's "
            "stop tokens; `tapir inspect` shows what it is trained on"
        )
    raise TapirError(
        f"{label}: {empty} of {len(responses)} responses are empty and {cut} are cut at the length limit; expected at "
        f"most {limit:.0%} (judge.max_unusable_responses). The judge was not asked about them. Either: "
        f"{'; '.join(remedies)}. With judge.max_unusable_responses=1, the run goes on."
    )
