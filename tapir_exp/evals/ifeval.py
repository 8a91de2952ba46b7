"""IFEval (Zhou et al., arXiv 2311.07911): instructions such as "no commas", checked by programs instead of a judge.

The programs are lm_eval's, EleutherAI's evaluation harness; here are only the questions and the four means.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from tapir_exp.core.errors import EvaluationError
from tapir_exp.core.json_rows import read_json_objects
from tapir_exp.core.records import Record
from tapir_exp.evals.statistics import proportion

HUB = "google/IFEval"


class IFEvalQuestion(Record):
    """A row of google/IFEval: a prompt, the instructions in it, and their arguments in the same order."""

    key: int
    prompt: str
    instruction_id_list: tuple[str, ...]
    kwargs: tuple[dict[str, Any], ...]


class CheckedResponse(Record):
    """Whether each instruction of a prompt was followed: strictly, and with leeway for markdown and an opening line."""

    key: int
    response: str
    instructions: tuple[str, ...]
    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


@dataclass(frozen=True)
class Checker:
    """lm_eval's checks of one response, and its version."""

    run: Callable[[Mapping[str, Any], Sequence[str]], Mapping[str, Any]]
    version: str


def load_checker() -> Checker:
    """lm_eval's checks. Raises EvaluationError, which says what to install, where they cannot be loaded."""
    try:
        return Checker(import_module("lm_eval.tasks.ifeval.utils").process_results, version("lm_eval"))
    except (ImportError, AssertionError) as error:
        raise EvaluationError(f"IFEval needs lm_eval: pip install 'tapir-exp[ifeval]' ({error}).") from error


def load_questions(path: str | None) -> list[IFEvalQuestion]:
    """The questions of a file, or of the hub. Raises EvaluationError where they cannot be had."""
    rows = _hub_rows() if path is None else read_json_objects(Path(path), EvaluationError)
    try:
        return [
            IFEvalQuestion.model_validate({name: row.get(name) for name in IFEvalQuestion.model_fields}) for row in rows
        ]
    except ValidationError as error:
        raise EvaluationError(f"{path or HUB}: a row is not one of IFEval's: {error}") from error


def _hub_rows() -> list[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        return list(load_dataset(HUB, split="train"))
    except Exception as error:  # of a dozen kinds
        raise EvaluationError(
            f"{HUB} cannot be read ({error.__cause__ or repr(error)}); set evals.ifeval.questions to a file."
        ) from error


def check(question: IFEvalQuestion, response: str, checker: Checker) -> CheckedResponse:
    """What the programs make of a response. Raises EvaluationError where they lack the instruction, or their data."""
    try:
        found = checker.run(question.model_dump(), [response])
    except KeyError as error:
        raise EvaluationError(
            f"IFEval, question {question.key}: lm_eval {checker.version} knows no {error}."
        ) from error
    except LookupError as error:  # nltk's data is not part of its package
        raise EvaluationError(
            "IFEval counts sentences with data of nltk: python -m nltk.downloader punkt_tab"
        ) from error
    return CheckedResponse(
        key=question.key,
        response=response,
        instructions=question.instruction_id_list,
        strict=tuple(found["inst_level_strict_acc"]),
        loose=tuple(found["inst_level_loose_acc"]),
    )


def figures(rows: Sequence[CheckedResponse]) -> dict[str, Any]:
    """The four accuracies in per cent, and the standard error of the first; names are lm_eval's."""
    strict = proportion(sum(all(row.strict) for row in rows), len(rows))
    return {
        "prompt_level_strict_acc": 100 * strict.mean,
        "prompt_level_strict_error": None if strict.error is None else 100 * strict.error,
        "inst_level_strict_acc": 100 * fmean(followed for row in rows for followed in row.strict),
        "prompt_level_loose_acc": 100 * fmean(all(row.loose) for row in rows),
        "inst_level_loose_acc": 100 * fmean(followed for row in rows for followed in row.loose),
        "prompts": len(rows),
    }
