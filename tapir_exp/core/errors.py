"""Errors that a user can fix. Each message names what is wrong, what was given, and what was expected."""

from collections.abc import Sequence


class TapirError(Exception):
    """Base class of every error that the user, not the developer, can fix."""


class ConfigError(TapirError):
    """The configuration holds one or more mistakes, all of which are listed."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "one mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        super().__init__("\n".join([f"The configuration holds {count}:", *(f"  - {p}" for p in self.problems)]))


class PromptError(TapirError):
    """A prompt template is missing, or its fields do not match the given values."""


class ReplyError(TapirError):
    """A completion lacks what the prompt asked for; the message names what is missing."""


class TooManyFailures(TapirError):
    """More rows of a stage failed than the configuration allows."""


class JudgeRejected(TapirError):
    """The judge is right less often than the configuration demands."""


class BudgetSpent(TapirError):
    """The run, or its sweep, has reached its spend limit."""


class StoreError(TapirError):
    """An artifact is missing or damaged."""


class SourceError(TapirError):
    """A file or hub dataset cannot be read."""


class EvaluationError(TapirError):
    """A benchmark lacks a file or a package, or its files contradict each other."""


class SeedError(TapirError):
    """The seed data cannot be used."""
