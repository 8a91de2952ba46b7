"""The command `tapir-inspect`: rows of the first fit, token by token, with what the loss counts. It trains nothing."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

from tapir_exp.commands.hydra_app import HELP, exit_with_error, jobs_of_command
from tapir_exp.commands.plan import SeedReader
from tapir_exp.config import Config
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.llm.serving.weights import find_weights, is_gguf
from tapir_exp.pipeline.students import LAB_STUDENT, lab_corpus
from tapir_exp.student.inspection import Inspection, legend, render_row, summary_lines

SAMPLED = 3
"""Rows shown where --rows says nothing."""


def inspect_seeds(config: Config, sampled: int) -> Inspection:
    """All seeds as S_0 would be trained on them, and some of them token by token.

    The seeds are read as `tapir-plan` reads them: before near duplicates and leaks are left out. Raises ConfigError
    where the student's tokenizer cannot be read, and what reading seeds raises.
    """
    from tapir_exp.student.chat_template import load_chat
    from tapir_exp.student.inspect_rows import inspect_rows
    from tapir_exp.student.training.encoding import TrainingRow

    rows = [TrainingRow(seed.instruction, seed.response) for seed in SeedReader()(config.seeds)]
    with _student_directory(config) as source:
        chat = load_chat(source, config.student)
        return inspect_rows(rows, chat, config.student.max_length, sampled, config.seed)


@contextmanager
def _student_directory(config: Config) -> Iterator[Path]:
    """Where the base model's tokenizer is; the lab's is built for the occasion, as is that of a GGUF file."""
    if is_gguf(config.student.model):
        from tapir_exp.student.gguf import convert_tokenizer

        with TemporaryDirectory() as directory:
            convert_tokenizer(find_weights(config.student.model).path, Path(directory))
            yield Path(directory)
        return
    if config.student.model != LAB_STUDENT:
        yield Path(config.student.model)
        return
    from tapir_exp.lab.base_student import build_base_student

    with TemporaryDirectory() as directory:
        build_base_student(Path(directory), config.lab.student, lab_corpus(config.lab.student))
        yield Path(directory)


def print_inspection(inspection: Inspection, console: Console) -> None:
    """The sampled rows, then the figures of all; in colour on a terminal, unless NO_COLOR is set."""
    coloured = console.color_system is not None and not console.no_color
    console.print(legend(coloured=coloured), soft_wrap=True)
    for row in inspection.sample:
        console.print()
        console.print(render_row(row, coloured=coloured), soft_wrap=True)
    console.print()
    for line in summary_lines(inspection):
        console.print(Text(line), soft_wrap=True)


def main() -> None:
    """Print the rows; exit code 2 for a wrong configuration, 1 for what else the user can mend."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(f"{__doc__}\n\n  --rows N   rows shown, {SAMPLED} by default\n\nElse as tapir.\n\n{HELP}")
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sampled, sys.argv[1:] = _take_rows(sys.argv[1:])
    try:
        jobs = jobs_of_command()
        if len(jobs) != 1:
            raise ConfigError([f"tapir-inspect: one job at a time, and this is a sweep of {len(jobs)}"])
        inspection = inspect_seeds(jobs[0], sampled)
    except TapirError as error:
        exit_with_error(error, "tapir-inspect")
    print_inspection(inspection, Console())


def _take_rows(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """The command's own option, and the arguments that are tapir's."""
    parser = argparse.ArgumentParser(prog="tapir-inspect", add_help=False, allow_abbrev=False)
    parser.add_argument("--rows", type=_count, default=SAMPLED)
    taken, others = parser.parse_known_args(arguments)
    return taken.rows, others


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)
