"""Files of MT-Bench in the formats of FastChat (fastchat/llm_judge, 0.2.36): questions, answers, prompts, judgments."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from tapir_exp.core.errors import EvaluationError
from tapir_exp.core.json_rows import read_whole_rows, validate_row
from tapir_exp.core.records import Record

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
    "arena-hard-200": 0.0,
}
"""Temperature of the student's answers by category."""
OTHER_TEMPERATURE = 0.7
"""Temperature of categories that FastChat does not list."""
SINGLE_PROMPTS = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
"""Names of the prompts that single-answer grading needs."""
FLEXEVAL_DATA = "core/chat_dataset/chatbot_bench_datasets"
"""Directory of MT-Bench's questions and references within the package flexeval."""

R = TypeVar("R", bound=Record)


class MTBenchQuestion(Record):
    """A line of question.jsonl, without the fields that are not used here.

    Attributes:
        question_id: Id of the question.
        category: One of eight categories, such as "math".
        turns: Texts of the user's turns.
    """

    question_id: int
    category: str
    turns: tuple[str, ...] = Field(min_length=1)

    @property
    def temperature(self) -> float:
        """Temperature at which the question is answered."""
        return TEMPERATURES.get(self.category, OTHER_TEMPERATURE)


class Dialogue(Record):
    """A model's answers to one question.

    Attributes:
        question_id: Id of the question.
        turns: The answers in the order of the turns; a failed answer is an empty text.
    """

    question_id: int
    turns: tuple[str, ...]


class Judgment(Record):
    """Judgment of one turn: a line of FastChat's model_judgment files.

    Attributes:
        question_id: Id of the question.
        model: Name of the judged model.
        judge: Names of the judge's model and of the prompt.
        user_prompt: The prompt as it was sent.
        judgment: The judge's text.
        score: Rating by FastChat's rule; -1 if the text holds none.
        turn: Number of the turn, from 1.
        failure: Reason why there is no rating; None if there is one.
    """

    question_id: int
    model: str
    judge: tuple[str, str]
    user_prompt: str | None = None
    judgment: str
    score: int | float
    turn: int
    failure: str | None = None


class JudgePrompt(Record):
    """A prompt of judge_prompts.jsonl.

    Attributes:
        name: Name, such as "single-v1".
        system_prompt: System prompt; may be empty.
        prompt_template: Format string of the user prompt.
    """

    name: str
    system_prompt: str
    prompt_template: str


def load_questions(path: str | None) -> list[MTBenchQuestion]:
    """Read the questions from a file, or from an installed flexeval if `path` is None.

    Raises:
        EvaluationError: If there is no file, or a line is not a question.
    """
    return _read_records(MTBenchQuestion, _data_file(path, "questions", "mt-en.jsonl"))


def load_references(path: str | None) -> dict[int, Dialogue]:
    """Read reference answers by question from a file, or GPT-4's from an installed flexeval if `path` is None.

    Raises:
        EvaluationError: If there is no file, or a line is not an answer.
    """
    return load_dialogues(_data_file(path, "references", "mt-en-ref-gpt4.jsonl"))


def load_dialogues(path: Path) -> dict[int, Dialogue]:
    """Read the first choice of each question from a model_answer file; of repeated questions the last line counts.

    Raises:
        EvaluationError: If a line is not an answer in FastChat's format.
    """
    dialogues = {}
    for name, line in read_whole_rows(path, EvaluationError):
        try:
            row = {"question_id": line["question_id"], "turns": line["choices"][0]["turns"]}
        except (KeyError, IndexError, TypeError) as error:
            raise EvaluationError(
                f"{name} is not a line of a model_answer file, it fails with {error!r}. "
                "Expected `question_id` and `choices[0].turns`, as FastChat writes them."
            ) from error
        dialogue = validate_row(Dialogue, row, EvaluationError, name)
        dialogues[dialogue.question_id] = dialogue
    return dialogues


def load_judgments(path: Path) -> list[Judgment]:
    """Read a model_judgment file of single-answer grading. Fields that only FastChat uses are dropped.

    Raises:
        EvaluationError: If a line is not a judgment.
    """
    return _read_records(Judgment, path)


def load_judge_prompts(path: str | None) -> dict[str, JudgePrompt]:
    """Read the prompts of single-answer grading from judge_prompts.jsonl, by name.

    Raises:
        EvaluationError: If there is no file, or one of the four prompts is missing in it.
    """
    if path is None or not Path(path).is_file():
        raise EvaluationError(
            f"MT-Bench's judge prompts are missing, got {path}: set evals.mt_bench.judge_prompts to "
            "judge_prompts.jsonl from fastchat/llm_judge/data of FastChat's repository."
        )
    rows = [
        validate_row(JudgePrompt, row, EvaluationError, name)
        for name, row in read_whole_rows(Path(path), EvaluationError)
        if row.get("type") == "single"
    ]
    prompts = {row.name: row for row in rows}
    missing = sorted(set(SINGLE_PROMPTS) - prompts.keys())
    if missing:
        raise EvaluationError(f"{path}: the judge prompts {missing} are missing. Use FastChat's file unchanged.")
    return prompts


def read_model_id(path: Path) -> str:
    """Return the model_id of a model_answer file.

    Raises:
        EvaluationError: If its lines do not share one model_id.
    """
    ids = [row.get("model_id") for _, row in read_whole_rows(path, EvaluationError)]
    name = ids[0] if ids else None
    if not isinstance(name, str) or any(other != name for other in ids):
        raise EvaluationError(
            f"{path}: its lines do not have the same model_id. Use a file with the answers of one model."
        )
    return name


def to_answer_lines(model: str, dialogues: Sequence[Dialogue]) -> str:
    """Format answers as a model_answer file. It has no timestamps, so equal answers give equal bytes."""
    return _to_json_lines([_answer_line(model, dialogue) for dialogue in dialogues])


def to_judgment_lines(judgments: Sequence[Judgment]) -> str:
    """Format judgments as a model_judgment file, without timestamps."""
    return _to_json_lines([row.model_dump() for row in judgments])


def _data_file(path: str | None, setting: str, name: str) -> Path:
    """Return a configured file, or the one of this name in an installed flexeval."""
    if path is not None:
        return Path(path)
    # find_spec locates the package without importing it; flexeval imports torch.
    spec = find_spec("flexeval")
    file = None if spec is None or spec.origin is None else Path(spec.origin).parent / FLEXEVAL_DATA / name
    if file is None or not file.is_file():
        raise EvaluationError(
            f"MT-Bench's {setting} are missing: set evals.mt_bench.{setting} to FastChat's file (fastchat/llm_judge/"
            "data in its repository), or run `pip install flexeval`, which contains it."
        )
    return file


def _read_records(record: type[R], path: Path) -> list[R]:
    # FastChat's lines have more fields, such as `tstamp`, and records reject unknown ones.
    return [validate_row(record, row, EvaluationError, name) for name, row in read_whole_rows(path, EvaluationError)]


def _answer_line(model: str, dialogue: Dialogue) -> dict[str, Any]:
    # FastChat draws a random id of 22 characters. A hash of the content has the same form and is reproducible.
    digest = sha256(json.dumps([model, dialogue.question_id, dialogue.turns]).encode()).hexdigest()
    return {
        "question_id": dialogue.question_id,
        "answer_id": digest[:22],
        "model_id": model,
        "choices": [{"index": 0, "turns": list(dialogue.turns)}],
    }


def _to_json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
