"""IFEval (Zhou et al., arXiv 2311.07911): verifiable instructions such as "no commas", checked without a judge.

The checks are those of lm_eval, EleutherAI's evaluation harness. This module holds the questions and the accuracies.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from tapir_exp.core.errors import EvaluationError
from tapir_exp.core.json_rows import read_whole_rows, validate_row
from tapir_exp.core.json_values import contains_unreadable
from tapir_exp.core.records import Record
from tapir_exp.evals.statistics import proportion

HUB = "google/IFEval"
LANGUAGE_DATA = "punkt_tab"
"""Data by which lm_eval counts sentences; nltk downloads it separately from the package."""
NO_LANGUAGE_DATA = (
    "IFEval counts sentences with data of nltk that is not installed. "
    f"Install it: python -m nltk.downloader {LANGUAGE_DATA}"
)


class IFEvalQuestion(Record):
    """A row of google/IFEval.

    Attributes:
        key: Id of the prompt.
        prompt: The prompt.
        instruction_id_list: Ids of the instructions in it.
        kwargs: Arguments of the instructions, in the same order.
    """

    key: int
    prompt: str
    instruction_id_list: tuple[str, ...]
    kwargs: tuple[dict[str, Any], ...]


class CheckedResponse(Record):
    """A response and the instructions that it follows.

    Attributes:
        key: Id of the prompt.
        response: The response.
        instructions: Ids of the instructions.
        strict: Whether each instruction is followed.
        loose: The same after markdown and an opening or closing line may be removed.
    """

    key: int
    response: str
    instructions: tuple[str, ...]
    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


@dataclass(frozen=True)
class Checker:
    """The checks of lm_eval.

    Attributes:
        run: Checks one question's responses; `process_results` of lm_eval.
        version: Version of lm_eval.
    """

    run: Callable[[Mapping[str, Any], Sequence[str]], Mapping[str, Any]]
    version: str


def load_checker() -> Checker:
    """Import lm_eval's checks.

    Raises:
        EvaluationError: If lm_eval or one of its dependencies is not installed.
    """
    try:
        return Checker(import_module("lm_eval.tasks.ifeval.utils").process_results, version("lm_eval"))
    except (ImportError, AssertionError) as error:  # the module asserts the version of nltk
        raise EvaluationError(
            f"IFEval cannot import lm_eval ({error}). Install it: pip install 'tapir-exp[ifeval]'"
        ) from error


def check_language_data() -> None:
    """Check that the data of nltk is installed, before responses are written that could not be checked.

    Raises:
        EvaluationError: The data is not installed.
    """
    try:
        import_module("nltk").data.find(f"tokenizers/{LANGUAGE_DATA}")
    except LookupError as error:
        raise EvaluationError(NO_LANGUAGE_DATA) from error
    except ImportError as error:
        raise EvaluationError(
            f"IFEval cannot import nltk ({error}). Install it: pip install 'tapir-exp[ifeval]'"
        ) from error


def load_questions(path: str | None) -> list[IFEvalQuestion]:
    """Read the questions from a file, or from the Hugging Face Hub if `path` is None.

    Raises:
        EvaluationError: If they cannot be read, or a row is not a question.
    """
    rows = _load_hub_rows() if path is None else read_whole_rows(Path(path), EvaluationError)
    questions = [validate_row(IFEvalQuestion, row, EvaluationError, name) for name, row in rows]
    if not questions:
        raise EvaluationError(f"{path or HUB} has no rows, expected the questions of IFEval.")
    for question in questions:
        if contains_unreadable([list(arguments.values()) for arguments in question.kwargs]):
            raise EvaluationError(f"{path or HUB}, question {question.key}: kwargs hold a value that cannot be read.")
    return questions


def _load_hub_rows() -> list[tuple[str, Mapping[str, Any]]]:
    from datasets import load_dataset

    try:
        return [(f"{HUB}, row {number}", row) for number, row in enumerate(load_dataset(HUB, split="train"), 1)]
    except Exception as error:  # `datasets` passes on the exceptions of a dozen libraries
        raise EvaluationError(
            f"{HUB} cannot be loaded ({error.__cause__ or repr(error)}). Set evals.ifeval.questions to a local copy "
            "of the file."
        ) from error


def check(question: IFEvalQuestion, response: str, checker: Checker) -> CheckedResponse:
    """Check which instructions a response follows.

    Raises:
        EvaluationError: If lm_eval has no check for an instruction, or nltk's data is not installed.
    """
    try:
        results = checker.run(question.model_dump(), [response])
    except KeyError as error:
        raise EvaluationError(
            f"IFEval, question {question.key}: lm_eval {checker.version} has no check for the instruction {error}. "
            "Use the questions of google/IFEval, or a newer lm_eval."
        ) from error
    except LookupError as error:  # nltk downloads its data separately from the package
        raise EvaluationError(NO_LANGUAGE_DATA) from error
    return CheckedResponse(
        key=question.key,
        response=response,
        instructions=question.instruction_id_list,
        strict=tuple(results["inst_level_strict_acc"]),
        loose=tuple(results["inst_level_loose_acc"]),
    )


def figures(rows: Sequence[CheckedResponse]) -> dict[str, Any]:
    """Return the four accuracies and the standard error of the first, in per cent, under lm_eval's names."""
    strict = proportion(sum(all(row.strict) for row in rows), len(rows))
    return {
        "prompt_level_strict_acc": 100 * strict.mean,
        "prompt_level_strict_error": None if strict.error is None else 100 * strict.error,
        "inst_level_strict_acc": 100 * fmean(followed for row in rows for followed in row.strict),
        "prompt_level_loose_acc": 100 * fmean(all(row.loose) for row in rows),
        "inst_level_loose_acc": 100 * fmean(followed for row in rows for followed in row.loose),
        "prompts": len(rows),
    }
