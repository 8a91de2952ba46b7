"""Log records and warnings of libraries reach stderr without control characters and without keys."""

import errno
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from tapir_exp.core.library_messages import clean_library_messages

FOREIGN = "model \x1b]0;title\x07\x1b[2J of \u202ename"
SHOWN = r"model \x1b]0;title\x07\x1b[2J of \u202ename"
KEY = "q7Zk_planted_Wv93xT"


@pytest.fixture(autouse=True)
def cleaned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clean the messages of this test."""
    factory = logging.getLogRecordFactory()
    monkeypatch.setenv("PLANTED_API_KEY", KEY)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        clean_library_messages()
        clean_library_messages()
        yield
    logging.setLogRecordFactory(factory)


def logger_of_a_library() -> logging.Logger:
    """Return a logger with a handler and a formatter of its own, as transformers, litellm and W&B have."""
    logger = logging.Logger("library")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    return logger


@pytest.mark.parametrize(
    "arguments", [(FOREIGN,), ("%s", FOREIGN), ("%(a)s", {"a": FOREIGN})], ids=["text", "positional", "named"]
)
def test_log_message_is_shown_and_does_nothing(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    logger_of_a_library().warning(*arguments)
    assert capsys.readouterr().err == f"WARNING {SHOWN}\n"


def test_traceback_in_the_log_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError(f"{FOREIGN} {KEY}")
    except ValueError:
        logger_of_a_library().exception("failed")
    shown = capsys.readouterr().err
    assert f"ValueError: {SHOWN} (value not shown)\n" in shown
    assert "Traceback" in shown


def test_logger_without_a_handler_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    logging.Logger("bare").error(FOREIGN)
    assert capsys.readouterr().err == f"{SHOWN}\n"


def test_warning_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    warnings.warn_explicit(FOREIGN, UserWarning, "a\x1bb.py", 3)
    assert capsys.readouterr().err == rf"a\x1bb.py:3: UserWarning: {SHOWN}" + "\n"


def test_warning_in_a_format_of_a_library_is_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warnings, "formatwarning", lambda message, *_: f"theirs: {message}")
    warnings.warn(FOREIGN, stacklevel=1)
    assert capsys.readouterr().err == f"theirs: {SHOWN}"


def test_key_in_a_message_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    logger_of_a_library().warning("sent %s", KEY)
    warnings.warn(f"sent {KEY}", stacklevel=1)
    shown = capsys.readouterr().err
    assert KEY not in shown
    assert shown.count("(value not shown)") == 2


def test_warning_without_a_stream_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    warnings.warn("nobody reads this", stacklevel=1)


def end_thread(error: BaseException) -> None:
    """Let an error end a thread."""

    def run() -> None:
        raise error

    thread = threading.Thread(target=run, name="writer")
    thread.start()
    thread.join()


def test_full_disk_ends_a_thread_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    end_thread(OSError(errno.ENOSPC, FOREIGN))
    assert capsys.readouterr().err == f"warning: writer ended: OSError: [Errno {errno.ENOSPC}] {SHOWN}\n"


def test_bug_in_a_thread_has_a_clean_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    end_thread(ValueError(f"{FOREIGN} {KEY}"))
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert f"ValueError: {SHOWN} (value not shown)\n" in shown


def test_orderly_end_of_a_thread_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    end_thread(SystemExit(1))
    assert capsys.readouterr().err == ""
