"""`tapir run`: run an experiment, or every job of a sweep."""

import os
import sys
from collections.abc import Sequence

from tapir_exp.commands.command_line import CLASSIFY_GROUPS, format_choices, wants_help
from tapir_exp.commands.main import COMMANDS
from tapir_exp.config.compose import PRIMARY

HELP = """\
tapir run: run an experiment or a sweep. The word `run` is optional.

  tapir                                  the lab, end to end: no key, no GPU, no download
  tapir debug=tiny                       the same in seconds, to see that everything works
  tapir arm=no_refinement seed=3         choices of groups and values of keys, in any order
  tapir -m arm=tapir,lion seed=1,2,3     every combination, one after the other
  tapir --config-name lab_ablation       a sweep of sweeps/; your own: --config-dir DIR --config-name NAME

The same command resumes an interrupted run. Results are written to outputs/; outputs/latest is the last run.

  --cfg job [--resolve]                  print the configuration instead of running it
  --info defaults-tree                   print which file each part comes from
  --hydra-help                           print the other flags of Hydra
  eval "$(tapir -sc install=bash)"       shell completion of commands, choices and keys (or zsh, fish)

Groups and their choices (tapir_exp/config documents every key):
"""


def main(arguments: Sequence[str]) -> None:
    """Run the jobs of a command line."""
    if wants_help(arguments):
        sys.stdout.write(HELP + format_choices(exclude=CLASSIFY_GROUPS))
        return
    if {"-sc", "--shell-completion"} & set(arguments):
        _complete_commands()

    from tapir_exp.commands.hydra_app import start

    start(PRIMARY, arguments)


def _complete_commands() -> None:
    """Complete names of commands; remove one that is complete from the line that Hydra completes.

    The shell passes its line as the variable COMP_LINE. Hydra completes overrides only.
    """
    # Only the line counts: Hydra ignores the position of the cursor, and so does this.
    program, _, rest = os.environ.get("COMP_LINE", "").partition(" ")
    word, space, overrides = rest.lstrip().partition(" ")
    if space and word in COMMANDS:
        os.environ["COMP_LINE"] = f"{program} {overrides}"
    elif program and not space:
        sys.stdout.write("".join(f"{name}\n" for name in COMMANDS if name.startswith(word)))
