"""`tapir chat`: chat with a student beside the model that it was trained from."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tapir_exp.config import StudentConfig
from tapir_exp.core.errors import TapirError

if TYPE_CHECKING:
    from tapir_exp.core.console import Terminal
    from tapir_exp.student.chat_session import ChatSession, Reply

BEFORE, AFTER = "before", "after"
NEW, QUIT = "/new", "/quit"
SIDE_BY_SIDE = 80
"""Columns of a terminal from which replies are shown side by side."""


class ChatError(TapirError):
    """There is no student to chat with."""


@dataclass(frozen=True)
class Speaker:
    """A model that replies.

    Attributes:
        source: Its directory or hub id.
        student: The settings that it is opened with.
        tokenizer: Directory of the tokenizer, if it is not its own.
    """

    source: Path
    student: StudentConfig
    tokenizer: Path | None = None


def main(arguments: Sequence[str]) -> None:
    """Chat with the student of a run, or with any student, beside the model it was trained from."""
    from tapir_exp.core.console import Terminal, console

    options = _parser().parse_args(arguments)
    speakers = find_speakers(options.student, options.base, only=options.only)
    limit = options.max_new_tokens
    with ExitStack() as stack:
        from tapir_exp.student.chat_session import open_session

        sessions = {}
        for name, speaker in speakers.items():
            student = speaker.student if limit is None else replace(speaker.student, max_new_tokens=limit)
            console.print(f"{name}: {speaker.source}", soft_wrap=True)
            session = open_session(speaker.source, student, options.temperature, options.seed, speaker.tokenizer)
            sessions[name] = stack.enter_context(session)
        with suppress(KeyboardInterrupt):
            converse(sessions, [options.prompt] if options.prompt is not None else _turns(), Terminal())


def find_speakers(path: Path, base: str | None = None, *, only: bool = False) -> Mapping[str, Speaker]:
    """Return the student, and the model before its training first, if it is on this machine.

    Args:
        path: Directory of a run or of a student.
        base: Directory or hub id of another model to compare with.
        only: Whether the student replies alone.

    Raises:
        ChatError: If there is no student.
        StoreError: If the run is not finished, or its files have changed.
    """
    from tapir_exp.config.stored import read_stored_student
    from tapir_exp.core.manifest import MANIFEST, Manifest
    from tapir_exp.core.store import check_if_artifact

    tokenizer = None
    if (path / MANIFEST).is_file():
        manifest = Manifest.load(path)
        directory = manifest.open_last_student(path).path
        student = read_stored_student(path, StudentConfig(model=""))
        built = manifest.open(path).get("base_student")
        before: Path | None = Path(student.model) if built is None else built.path
    else:
        directory = path
        if not any((directory / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise ChatError(
                f"{path} is neither a student nor a finished run; give the directory of either, or repeat the command "
                "of an unfinished run."
            )
        check_if_artifact(directory)
        # Only the student's tokenizer has the template of the training.
        student, before, tokenizer = _settings_of(directory), _base_of(directory), directory
    speakers = {AFTER: Speaker(directory, student)}
    if only:
        return speakers
    if base is not None:
        return {BEFORE: Speaker(Path(base), replace(student, revision=None)), **speakers}
    return speakers if before is None else {BEFORE: Speaker(before, student, tokenizer), **speakers}


def converse(sessions: "Mapping[str, ChatSession]", turns: Iterator[str] | Sequence[str], terminal: "Terminal") -> None:
    """Print the replies of every model to each turn; `/new` begins a new conversation, and `/quit` ends all."""
    from tapir_exp.student.chat_session import ConversationTooLong

    for turn in turns:
        text = turn.strip()
        if text == QUIT:
            return
        if text == NEW:
            for session in sessions.values():
                session.forget()
        elif text:
            try:
                _print_replies({name: session.reply(text) for name, session in sessions.items()}, terminal)
            except ConversationTooLong as error:
                terminal.print(f"{error}: {NEW}", soft_wrap=True)


def _print_replies(replies: "Mapping[str, Reply]", terminal: "Terminal") -> None:
    from rich.table import Table
    from rich.text import Text

    if len(replies) > 1 and terminal.is_terminal and terminal.width >= SIDE_BY_SIDE:
        table = Table(*(_headline(name, reply) for name, reply in replies.items()), expand=True)
        table.add_row(*(Text(_shown(reply)) for reply in replies.values()))
        terminal.print(table)
        return
    for name, reply in replies.items():
        terminal.print(Text(_headline(name, reply), "bold"))
        terminal.print(Text(_shown(reply)), soft_wrap=True)


def _headline(name: str, reply: "Reply") -> str:
    cut = "" if reply.finished else ", cut at the length limit"
    return f"{name} ({reply.tokens} tokens, {reply.seconds:.1f} s{cut})"


def _shown(reply: "Reply") -> str:
    return reply.text or "(empty)"


def _turns() -> Iterator[str]:
    """Yield the lines of the user until the end of the input; a terminal gets a sign to type at."""
    asked = sys.stdin.isatty()
    if asked:
        sys.stderr.write(f"One line is one turn. {NEW} begins a new conversation, {QUIT} or Ctrl-D ends.\n")
    while True:
        try:
            yield input("> " if asked else "")
        except EOFError:
            return


def _settings_of(directory: Path) -> StudentConfig:
    """Return the settings of a student's directory; its tokenizer has the template of the training."""
    from tapir_exp.student.model_card import Provenance

    provenance = Provenance.load(directory)
    student = StudentConfig(model=str(directory))
    return student if provenance is None else replace(student, precision=provenance.precision)


def _base_of(directory: Path) -> Path | None:
    """Return the model that a student was trained from; None if it is not known, or not on this machine."""
    from tapir_exp.student.model_card import ModelLocation, Provenance

    provenance = Provenance.load(directory)
    if provenance is None:
        return None
    match provenance.base.location:
        case ModelLocation.STORE:
            # A student of a store lies at STORE/stage/key; an exported one has left it.
            path = directory.resolve().parent.parent / provenance.base.name
        case ModelLocation.DIRECTORY:
            path = Path(provenance.base.name)
        case ModelLocation.HUB:
            return Path(provenance.base.name)
    return path if path.is_dir() else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tapir chat",
        description=f"{main.__doc__} Replies are greedy, with the template and the limits of the run.",
    )
    parser.add_argument("student", type=Path, metavar="RUN_OR_STUDENT", help="directory of a run or of a student")
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="one prompt; without it, each line is a turn")
    parser.add_argument("--only", action="store_true", help="without the model before the training")
    parser.add_argument("--base", metavar="MODEL", help="another model to compare with: a directory or a hub id")
    parser.add_argument("--temperature", type=_parse_temperature, default=0.0, help="0 is greedy, the default")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampled replies; default: 0")
    parser.add_argument(
        "--max-new-tokens", type=_parse_tokens, metavar="N", help="limit of a reply; default: the run's"
    )
    return parser


def _parse_temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 2, such as 0.7")
    return value


def _parse_tokens(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of tokens, at least 1")
    return int(text)
