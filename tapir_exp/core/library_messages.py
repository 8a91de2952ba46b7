"""Clean the log records, warnings and thread errors of libraries, which write to stderr past the console.

Their text quotes paths, names and replies. It may hold characters that control a terminal, or a key.
"""

import logging
import sys
import threading
import traceback
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
    """Clean all further log records, warnings and thread errors of this process; repeated calls change nothing."""
    logging.setLogRecordFactory(CleanRecord)
    warnings.showwarning = _show_warning
    threading.excepthook = _show_thread_error


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
    _write(warnings.formatwarning(message, category, filename, lineno, line), file)


def _show_thread_error(error: threading.ExceptHookArgs) -> None:
    """Write the error that ended a thread: in one line if the system is the cause, such as a full disk."""
    if issubclass(error.exc_type, SystemExit):
        return
    name = "a thread" if error.thread is None else error.thread.name
    if isinstance(error.exc_value, OSError):
        _write(f"warning: {name} ended: {error.exc_type.__name__}: {error.exc_value}\n")
        return
    lines = traceback.format_exception(error.exc_type, error.exc_value, error.exc_traceback)
    _write(f"Exception in thread {name}:\n{''.join(lines)}")


def _write(text: str, file: TextIO | None = None) -> None:
    # A closed terminal is no reason to stop, and a process without a console has no stream.
    with suppress(OSError, AttributeError):
        (file or sys.stderr).write(clean(text))
