"""Clean the log records and warnings of libraries, which write to stderr past the console.

Their text quotes paths, names and replies. It may hold characters that control a terminal, or a key.
"""

import logging
import sys
import warnings
from contextlib import suppress
from typing import TextIO

from tapir_exp.core.secrets import redact_secrets
from tapir_exp.core.text import escape_controls


class CleanRecord(logging.LogRecord):
    """Log record whose message and traceback are clean, whichever handler and formatter a library has."""

    _exc_text: str | None = None

    def getMessage(self) -> str:  # noqa: N802  # a name of logging
        """Return the message with its arguments, cleaned."""
        return clean(super().getMessage())

    @property
    def exc_text(self) -> str | None:
        """Traceback as text; the first formatter of the record sets it."""
        return self._exc_text

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self._exc_text = text and clean(text)


def clean_library_messages() -> None:
    """Clean all further log records and warnings of this process; repeated calls change nothing."""
    logging.setLogRecordFactory(CleanRecord)
    warnings.showwarning = _show_warning


def clean(text: str) -> str:
    """Replace secrets, and write control characters as escapes."""
    return escape_controls(redact_secrets(text))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning as the standard library does. `formatwarning` is looked up late, since Lightning replaces it."""
    stream = file or sys.stderr
    # A closed terminal is no reason to stop, and a process without a console has no stream.
    with suppress(OSError, AttributeError):
        stream.write(clean(warnings.formatwarning(message, category, filename, lineno, line)))
