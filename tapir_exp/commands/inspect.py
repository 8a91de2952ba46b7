"""`tapir inspect`: show training rows token by token, with the tokens that the loss counts. It trains nothing."""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tapir_exp.commands.command_line import CLASSIFY_GROUPS, format_choices, read_job, rows_parser, wants_help
from tapir_exp.config import Config

if TYPE_CHECKING:
    from rich.console import Console

    from tapir_exp.student.chat_template import Chat
    from tapir_exp.student.render_rows import Inspection

DEFAULT_ROWS = 3
HELP = f"""\
tapir inspect: show rows of the first fit token by token, with the tokens that the loss counts. It trains nothing.

  tapir inspect                          rows of the lab
  tapir inspect student=llama2_7b student.model=DIR --rows 5

  --rows N                               number of rows to show; default: {DEFAULT_ROWS}

The other arguments are those of `tapir run`, for one job.

Groups and their choices (tapir_exp/config documents every key):
"""


def main(arguments: Sequence[str]) -> None:
    """Print rows and their figures."""
    if wants_help(arguments):
        sys.stdout.write(HELP + format_choices(exclude=CLASSIFY_GROUPS))
        return
    # Rows are only shown, so the parts that were not chosen may stay those of the lab.
    options, config = read_job(rows_parser("tapir inspect", DEFAULT_ROWS), arguments, "allow_lab_parts=true")

    from tapir_exp.core.console import Terminal

    print_inspection(inspect_seeds(config, options.rows), Terminal())


def inspect_seeds(config: Config, num_sampled: int) -> "Inspection":
    """Encode all seeds as S_0 is trained on them, and sample some of them token by token.

    The seeds are read as `tapir plan` reads them: before near duplicates and leaks are dropped.

    Args:
        config: The configuration of the job.
        num_sampled: Number of rows to show.

    Raises:
        ConfigError: If the student's tokenizer cannot be read.
        SeedError: If the seeds cannot be read.
    """
    from tapir_exp.data.seeds import skim_seeds
    from tapir_exp.student.row_inspection import inspect_rows
    from tapir_exp.student.training.encoding import TrainingRow

    rows = [TrainingRow(seed.instruction, seed.response) for seed in skim_seeds(config.seeds)]
    return inspect_rows(rows, _load_chat(config), config.student.max_length, num_sampled, config.seed)


def _load_chat(config: Config) -> "Chat":
    """Load the base model's tokenizer with its template; for the lab or a GGUF file, make it."""
    from tapir_exp.config.lab_parts import LAB_STUDENT
    from tapir_exp.llm.serving.weights import find_weights, is_gguf
    from tapir_exp.student.chat_template import chat_of, load_chat

    model = config.student.model
    if model != LAB_STUDENT and not is_gguf(model):
        return load_chat(Path(model), config.student)
    with TemporaryDirectory() as name:
        directory = Path(name)
        if is_gguf(model):
            # Imported here, since it loads the classes of models.
            from tapir_exp.student.gguf import convert_gguf_tokenizer

            convert_gguf_tokenizer(find_weights(model).path, directory)
            return load_chat(directory, config.student)
        from tapir_exp.lab.base_student import build_base_tokenizer
        from tapir_exp.pipeline.students import lab_corpus

        corpus = lab_corpus(config.lab.student, config.lab.world)
        return chat_of(build_base_tokenizer(directory, config.lab.student, corpus), directory, config.student)


def print_inspection(inspection: "Inspection", console: "Console") -> None:
    """Print the sampled rows, then the figures of all rows; in colour on a terminal, unless NO_COLOR is set."""
    from rich.text import Text

    from tapir_exp.student.render_rows import legend, render_row, summary_lines

    # Without colour, brackets and marks show what colour would.
    coloured = console.color_system is not None and not console.no_color
    console.print(legend(coloured=coloured), soft_wrap=True)
    for row in inspection.sample:
        console.print()
        console.print(render_row(row, coloured=coloured), soft_wrap=True)
    console.print()
    for line in summary_lines(inspection):
        console.print(Text(line), soft_wrap=True)
