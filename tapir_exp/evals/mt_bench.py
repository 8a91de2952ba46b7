"""MT-Bench with single-answer grading: 80 two-turn questions, each turn rated from 1 to 10 by a judge.

Prompts, temperatures, parsing, means and files are FastChat's (fastchat/llm_judge, 0.2.36), so either tool can resume
the work of the other. FastChat's means drop unreadable judgments. Two further means show their effect.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tapir_exp.core.errors import EvaluationError, ReplyError
from tapir_exp.evals.mt_bench_files import Dialogue, JudgePrompt, Judgment, MTBenchQuestion
from tapir_exp.evals.resume import judge_missing
from tapir_exp.evals.statistics import Estimate, mean_and_error
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message
from tapir_exp.llm.executor import RequestResult

WITH_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")
"""Categories in which the judge also gets a reference answer."""
JUDGE_MAX_TOKENS = 2048
UNPARSED = -1
"""FastChat's score of a judgment without a rating."""
LOWEST, HIGHEST = 1, 10
"""Range of the ratings."""
_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")


@dataclass(frozen=True)
class GradingRequest:
    """One turn to judge.

    Attributes:
        question: The question.
        turn: Number of the turn, from 1.
        prompt: The prompt of the question's category and turn.
        user_prompt: The rendered prompt.
    """

    question: MTBenchQuestion
    turn: int
    prompt: JudgePrompt
    user_prompt: str


@dataclass(frozen=True)
class Score:
    """Mean rating of some turns, by three rules.

    Attributes:
        official: FastChat's mean, which drops unparsed judgments; None if all are unparsed.
        strict: Mean of the judgments that hold exactly one rating, from 1 to 10; None if there are none.
        failures_as_lowest: Like `strict`, with a 1 for all other judgments, so that a failure is never a gain.
        unparsed: Judgments in which FastChat finds no rating.
        doubtful: Judgments that FastChat reads and the strict rule rejects.
        n: All judgments.
    """

    official: Estimate | None
    strict: Estimate | None
    failures_as_lowest: float
    unparsed: int
    doubtful: int
    n: int


@dataclass(frozen=True)
class MTBenchFigures:
    """Scores of one model.

    Attributes:
        overall: Score of all turns.
        by_turn: Scores by number of the turn, from 1.
        by_category: Scores by category.
        by_category_and_turn: Scores by category and turn.
    """

    overall: Score
    by_turn: Mapping[int, Score]
    by_category: Mapping[str, Score]
    by_category_and_turn: Mapping[tuple[str, int], Score]

    def as_metrics(self) -> dict[str, Any]:
        """Return the figures by name; `average`, `first` and `second` are those of FastChat's show_result."""
        scores: dict[str, Score | None] = {
            "average": self.overall,
            "first": self.by_turn.get(1),
            "second": self.by_turn.get(2),
        }
        scores |= {f"category/{name}": score for name, score in self.by_category.items()}
        scores |= {f"category/{name}/{turn}": score for (name, turn), score in self.by_category_and_turn.items()}
        metrics = {name: _mean(None if score is None else score.official) for name, score in scores.items()}
        overall = self.overall
        return metrics | {
            "average_error": overall.official.error if overall.official else None,
            "average_strict": _mean(overall.strict),
            "average_with_failures_as_1": overall.failures_as_lowest,
            "unparsed": overall.unparsed,
            "doubtful": overall.doubtful,
            "judgments": overall.n,
        }


def _mean(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.mean


def prompt_name(category: str, turn: int) -> str:
    """Return the name of the prompt for a category and turn, such as "single-math-v1-multi-turn"."""
    return f"single{'-math' if category in WITH_REFERENCE else ''}-v1{'-multi-turn' if turn > 1 else ''}"


def build_grading_requests(
    questions: Sequence[MTBenchQuestion],
    answers: Mapping[int, Dialogue],
    references: Mapping[int, Dialogue],
    prompts: Mapping[str, JudgePrompt],
) -> list[GradingRequest]:
    """Return the turns to judge: all first turns, then the second turns of two-turn questions.

    Args:
        questions: The questions.
        answers: The model's answers by question.
        references: Reference answers by question; only the categories of WITH_REFERENCE need them.
        prompts: The judge's prompts by name.

    Raises:
        EvaluationError: If an answer or a reference is missing.
    """
    with_reference = [question for question in questions if question.category in WITH_REFERENCE]
    _check_complete("answers", questions, answers)
    _check_complete("references", with_reference, references)
    # FastChat writes the turns in this order.
    turns = [(question, 1) for question in questions]
    turns += [(question, 2) for question in questions if len(question.turns) == 2]
    requests = []
    for question, turn in turns:
        prompt = prompts[prompt_name(question.category, turn)]
        reference = references[question.question_id] if question.category in WITH_REFERENCE else None
        user_prompt = render(prompt, question, answers[question.question_id], reference, turn)
        requests.append(GradingRequest(question, turn, prompt, user_prompt))
    return requests


def _check_complete(name: str, questions: Sequence[MTBenchQuestion], dialogues: Mapping[int, Dialogue]) -> None:
    """Check that each question has a dialogue with a text for each of its turns."""
    turns = {question_id: len(dialogue.turns) for question_id, dialogue in dialogues.items()}
    missing = [str(q.question_id) for q in questions if turns.get(q.question_id, 0) < len(q.turns)]
    if missing:
        shown = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
        raise EvaluationError(
            f"MT-Bench: {name} are missing for {len(missing)} of {len(questions)} questions: {shown}. "
            f"Use a file with {name} to all turns of all questions."
        )


def render(
    prompt: JudgePrompt, question: MTBenchQuestion, answer: Dialogue, reference: Dialogue | None, turn: int
) -> str:
    """Return the judge's user prompt for one turn, byte for byte FastChat's.

    Args:
        prompt: The prompt of the question's category and turn.
        question: The question.
        answer: The model's answers.
        reference: The reference answers, if the prompt has fields for them.
        turn: Number of the turn, from 1.
    """
    if turn == 1:
        values = {"question": question.turns[0], "answer": answer.turns[0]}
    else:
        values = {f"question_{n}": text for n, text in enumerate(question.turns, 1)}
        values |= {f"answer_{n}": text for n, text in enumerate(answer.turns, 1)}
    if reference is not None:
        values |= {f"ref_answer_{n}": text for n, text in enumerate(reference.turns, 1)}
    try:
        return prompt.prompt_template.format(**values)
    except (LookupError, ValueError, AttributeError) as error:
        raise EvaluationError(
            f"MT-Bench: the judge prompt {prompt.name} cannot be filled in, it fails with {error!r}. It may have the "
            f"fields {', '.join(values)}. Use FastChat's judge_prompts.jsonl unchanged."
        ) from error


def official_score(judgment: str) -> int | float:
    """Return the rating by FastChat's rule: the first [[n]], else the first [n], in any range; UNPARSED without one."""
    match = _RATING.search(judgment) or _RATING_BACKUP.search(judgment)
    if match is None:
        return UNPARSED
    return float(match[1]) if "." in match[1] else int(match[1])


def strict_score(judgment: str) -> int | float | None:
    """Return the rating if the judgment holds exactly one [[n]], from 1 to 10; otherwise None."""
    ratings = {float(rating) for rating in _RATING.findall(judgment)}
    if len(ratings) != 1 or not LOWEST <= min(ratings) <= HIGHEST:
        return None
    return official_score(judgment)


def parse_rating(completion: Completion) -> int | float:
    """Return the official score of a completion.

    Raises:
        ReplyError: If there is no rating, so that the request is sent once more.
    """
    score = official_score(completion.text)
    if score == UNPARSED:
        # This text is sent to the judge, so it is part of the cache key of paid completions: do not rephrase it.
        raise ReplyError('It holds no rating in the form "[[rating]]", for example: "Rating: [[5]]".')
    return score


def grade(
    requests: Sequence[GradingRequest],
    model: str,
    known: Sequence[Judgment],
    judge_name: str,
    chat: ChatModel | None,
    *,
    concurrency: int,
    max_failure_rate: float,
) -> list[Judgment]:
    """Return one judgment for each turn, in order. A known judgment with a rating of the same prompt is reused.

    Args:
        requests: The turns to judge.
        model: Name of the judged model.
        known: Judgments of an earlier evaluation.
        judge_name: Name of the judge in files.
        chat: The judge; None makes no calls, so that a turn without a known judgment has none.
        concurrency: Number of calls in flight.
        max_failure_rate: Share of the calls that may fail.

    Raises:
        TooManyFailures: If more calls fail or return no rating.
    """
    rated = {
        (row.question_id, row.turn, row.model, row.judge, row.user_prompt): row
        for row in known
        if row.score != UNPARSED
    }

    # The prompt is part of the key: a changed answer, reference or template needs a new judgment.
    def find_known(request: GradingRequest) -> Judgment | None:
        judge = (judge_name, request.prompt.name)
        return rated.get((request.question.question_id, request.turn, model, judge, request.user_prompt))

    return judge_missing(
        requests,
        find_known,
        _chat_request,
        parse_rating,
        lambda request, result: _judgment(request, result, model, judge_name),
        chat,
        label=f"{judge_name} rates",
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
    )


def _chat_request(request: GradingRequest) -> ChatRequest:
    system = [Message(role="system", content=request.prompt.system_prompt)] if request.prompt.system_prompt else []
    user = Message(role="user", content=request.user_prompt)
    return ChatRequest(messages=(*system, user), max_tokens=JUDGE_MAX_TOKENS)


def _judgment(request: GradingRequest, result: RequestResult[int | float], model: str, judge_name: str) -> Judgment:
    return Judgment(
        question_id=request.question.question_id,
        model=model,
        judge=(judge_name, request.prompt.name),
        user_prompt=request.user_prompt,
        judgment=result.raw,
        score=UNPARSED if result.value is None else result.value,
        turn=request.turn,
        failure=result.failure,
    )


def figures(judgments: Sequence[Judgment], questions: Sequence[MTBenchQuestion]) -> MTBenchFigures:
    """Return the scores of one model.

    Raises:
        EvaluationError: If there are no judgments, or one is of an unknown question.
    """
    categories = {question.question_id: question.category for question in questions}
    unknown = sorted({row.question_id for row in judgments} - categories.keys())
    if not judgments:
        raise EvaluationError("MT-Bench: there are no judgments. Expected one for each turn of each question.")
    if unknown:
        raise EvaluationError(
            f"MT-Bench: judgments of unknown questions {unknown[:10]}. Use judgments of the configured questions."
        )

    def score_by(key: Callable[[Judgment], Any]) -> dict[Any, Score]:
        groups: defaultdict[Any, list[Judgment]] = defaultdict(list)
        for row in judgments:
            groups[key(row)].append(row)
        return {name: score(groups[name]) for name in sorted(groups)}

    return MTBenchFigures(
        overall=score(judgments),
        by_turn=score_by(lambda row: row.turn),
        by_category=score_by(lambda row: categories[row.question_id]),
        by_category_and_turn=score_by(lambda row: (categories[row.question_id], row.turn)),
    )


def score(judgments: Sequence[Judgment]) -> Score:
    """Return the means of some judgments.

    Raises:
        ValueError: If there are none.
    """
    official = [row.score for row in judgments if row.score != UNPARSED]
    ratings = [strict_score(row.judgment) for row in judgments]
    strict = [rating for rating in ratings if rating is not None]
    n_failed = len(judgments) - len(strict)
    n_both_failed = sum(r is None and row.score == UNPARSED for r, row in zip(ratings, judgments, strict=True))
    return Score(
        official=mean_and_error(official) if official else None,
        strict=mean_and_error(strict) if strict else None,
        failures_as_lowest=(sum(strict) + LOWEST * n_failed) / len(judgments),
        unparsed=len(judgments) - len(official),
        doubtful=n_failed - n_both_failed,
        n=len(judgments),
    )
