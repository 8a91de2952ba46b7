"""What can go wrong, each error saying what, where and what to do."""

from collections.abc import Sequence


class TapirError(Exception):
    """Base of every error that the user, not the developer, can mend."""


class ConfigError(TapirError):
    """The configuration holds one or more mistakes; all of them are listed."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "one mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        super().__init__("\n".join([f"The configuration holds {count}:", *(f"  - {p}" for p in self.problems)]))


class PromptError(TapirError):
    """A prompt template is missing, or does not fit the values it is given."""


class ReplyError(TapirError):
    """A model's reply does not hold what the prompt asked for; the message says what is missing."""


class TooManyFailures(TapirError):
    """More rows of a stage failed than the configuration allows."""


class BudgetSpent(TapirError):
    """The run, or its sweep, has spent what it may."""


class StoreError(TapirError):
    """An artifact is missing or damaged."""


class SourceError(TapirError):
    """A file or hub dataset cannot be read."""


class EvaluationError(TapirError):
    """A benchmark lacks a file or a package that it needs, or its data do not fit together."""


class SeedError(TapirError):
    """The seed data cannot be used."""
