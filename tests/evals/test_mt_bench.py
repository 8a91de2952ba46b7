"""MT-Bench: rendered prompts, parsed ratings, reused judgments and all means."""

import json
from pathlib import Path
from typing import Any

import pytest
from assets import asset
from fakes import ScriptedChat, completion_of, prompt_of
from standins import write_mt_bench

from tapir_exp.core.errors import EvaluationError, ReplyError, TooManyFailures
from tapir_exp.evals import mt_bench as mt
from tapir_exp.evals.mt_bench_files import (
    TEMPERATURES,
    Dialogue,
    JudgePrompt,
    Judgment,
    MTBenchQuestion,
    load_judge_prompts,
    load_judgments,
    load_questions,
    load_references,
)
from tapir_exp.evals.statistics import Estimate


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return write_mt_bench(tmp_path)


@pytest.fixture
def questions(files: dict[str, str]) -> list[MTBenchQuestion]:
    return load_questions(files["questions"])


@pytest.fixture
def requests(files: dict[str, str], questions: list[MTBenchQuestion]) -> list[mt.GradingRequest]:
    answers = {q.question_id: Dialogue(question_id=q.question_id, turns=("one {x}", "two")) for q in questions}
    references, prompts = load_references(files["references"]), load_judge_prompts(files["judge_prompts"])
    return mt.build_grading_requests(questions, answers, references, prompts)


def grade(
    requests: list[mt.GradingRequest],
    chat: ScriptedChat,
    known: list[Judgment] | None = None,
    *,
    judge: str = "j",
    max_failure_rate: float = 0,
) -> list[Judgment]:
    return mt.grade(requests, "student", known or [], judge, chat, concurrency=1, max_failure_rate=max_failure_rate)


def judgment(text: str, *, question: int = 1, turn: int = 1) -> Judgment:
    return Judgment(
        question_id=question,
        model="student",
        judge=("j", "single-v1"),
        user_prompt=None,
        judgment=text,
        score=mt.official_score(text),
        turn=turn,
    )


def test_prompt_name_math_reasoning_coding_use_the_reference() -> None:
    names = {category: mt.prompt_name(category, 1) for category in TEMPERATURES if category != "arena-hard-200"}
    assert {category for category, name in names.items() if name == "single-math-v1"} == {"math", "reasoning", "coding"}
    assert set(names.values()) == {"single-v1", "single-math-v1"}


def test_build_grading_requests_orders_turns_and_picks_prompts(requests: list[mt.GradingRequest]) -> None:
    names = [(request.question.question_id, request.turn, request.prompt.name) for request in requests]
    assert names == [
        (1, 1, "single-v1"),
        (2, 1, "single-math-v1"),
        (3, 1, "single-v1"),
        (4, 1, "single-math-v1"),
        (1, 2, "single-v1-multi-turn"),
        (2, 2, "single-math-v1-multi-turn"),
        (3, 2, "single-v1-multi-turn"),
        (4, 2, "single-math-v1-multi-turn"),
    ]


def test_build_grading_requests_fills_the_prompts(requests: list[mt.GradingRequest]) -> None:
    assert requests[0].user_prompt == "Rate this.\n\nQ: Describe {a} harbour.\nA: one {x}"
    assert requests[1].user_prompt == "Rate this.\n\nQ: What is 6 times 7?\nA: one {x}\nR: 42"
    both = "Q: What is 6 times 7?\nA: one {x}\nQ: And half of it?\nA: two\nR: 42, 21"
    assert requests[5].user_prompt == both


def test_build_grading_requests_single_turn_is_judged_once(
    files: dict[str, str], questions: list[MTBenchQuestion]
) -> None:
    single = [questions[0].model_copy(update={"turns": ("Only this.",)})]
    answers = {1: Dialogue(question_id=1, turns=("Yes.",))}
    prompts = load_judge_prompts(files["judge_prompts"])
    assert [request.turn for request in mt.build_grading_requests(single, answers, {}, prompts)] == [1]


def test_build_grading_requests_missing_dialogues_fail(files: dict[str, str], questions: list[MTBenchQuestion]) -> None:
    prompts = load_judge_prompts(files["judge_prompts"])
    answers = {q.question_id: Dialogue(question_id=q.question_id, turns=("one", "two")) for q in questions}
    with pytest.raises(EvaluationError, match="references are missing for 2 of 2 questions: 2, 4"):
        mt.build_grading_requests(questions, answers, {}, prompts)
    with pytest.raises(EvaluationError, match="answers are missing for 1 of 4 questions: 3"):
        mt.build_grading_requests(questions, {n: a for n, a in answers.items() if n != 3}, {}, prompts)
    short = {**answers, 1: Dialogue(question_id=1, turns=("one",))}
    with pytest.raises(EvaluationError, match="answers are missing for 1 of 4 questions: 1"):
        mt.build_grading_requests(questions, short, {}, prompts)


@pytest.mark.parametrize(
    ("text", "official", "strict"),
    [
        ("Good.\n\nRating: [[7]]", 7, 7),
        ("Rating: [[8.5]]", 8.5, 8.5),
        ("Rating: [[10]], I repeat [[10]]", 10, 10),
        ("Rating: [6]", 6, None),
        ("It says [[10]] itself. Rating: [[2]]", 10, None),
        ("Rating: [[95]]", 95, None),
        ("Rating: [[0]]", 0, None),
        ("Rating: [[-1]]", -1, None),
        ("Rating: [[8/10]]", -1, None),
        ("Rating: 8", -1, None),
        ("I cannot rate this.", -1, None),
        ("Rating: [[05]]", 5, 5),
        ("", -1, None),
    ],
)
def test_official_and_strict_score_parse_ratings(text: str, official: float, strict: float | None) -> None:
    assert mt.official_score(text) == official
    assert mt.strict_score(text) == strict


def test_grade_unparsable_completion_is_retried_once(requests: list[mt.GradingRequest]) -> None:
    def script(request: Any) -> str:
        return "No number." if "harbour" in prompt_of(request) or "harbour" in request.messages[1].content else "[[8]]"

    chat = ScriptedChat(script)
    rows = grade(requests, chat, max_failure_rate=0.5)
    assert [row.score for row in rows] == [-1, 8, 8, 8, -1, 8, 8, 8]
    assert [row.judgment for row in rows][:2] == ["No number.", "[[8]]"]
    assert "holds no rating" in (rows[0].failure or "")
    assert len(chat.requests) == 10


def test_grade_too_many_failures_stop_the_suite(requests: list[mt.GradingRequest]) -> None:
    with pytest.raises(TooManyFailures, match="j rates"):
        grade(requests, ScriptedChat(lambda _: "No."), max_failure_rate=0.1)


def test_parse_rating_keeps_the_text_sent_to_the_judge() -> None:
    """The retry repeats this text, so a change would invalidate cached completions."""
    with pytest.raises(ReplyError) as error:
        mt.parse_rating(completion_of("No."))
    assert str(error.value) == 'It holds no rating in the form "[[rating]]", for example: "Rating: [[5]]".'


def test_grade_uses_the_official_settings(requests: list[mt.GradingRequest]) -> None:
    chat = ScriptedChat(lambda _: "[[5]]")
    grade(requests, chat)
    system, user = chat.requests[4].messages
    assert (system.role, system.content) == ("system", "Rate the last.\n\n")
    assert (user.role, user.content) == ("user", requests[4].user_prompt)
    assert {(request.temperature, request.max_tokens) for request in chat.requests} == {(0.0, 2048)}


def test_grade_reuses_known_ratings_of_the_same_prompt(requests: list[mt.GradingRequest]) -> None:
    rows = grade(requests, ScriptedChat(lambda _: "[[5]]"))
    assert grade(requests, ScriptedChat([]), rows) == rows
    changed = [
        rows[0].model_copy(update={"user_prompt": "of another answer"}),
        rows[1].model_copy(update={"score": -1}),
    ]
    chat = ScriptedChat(lambda _: "[[6]]")
    grade(requests, chat, [*changed, *rows[2:]])
    assert len(chat.requests) == 2
    grade(requests, chat, rows, judge="another judge")
    assert len(chat.requests) == 10


def test_figures_match_means_computed_by_hand(questions: list[MTBenchQuestion]) -> None:
    rows = [
        judgment("[[4]]"),
        judgment("[[8]]", turn=2),
        judgment("no", question=2),
        judgment("[[95]]", question=2, turn=2),
    ]
    results = mt.figures(rows, questions)
    assert results.overall.official is not None
    assert results.overall.official.mean == pytest.approx((4 + 8 + 95) / 3)  # FastChat accepts a rating of 95
    assert results.overall.strict is not None
    assert results.overall.strict.mean == 6
    assert results.overall.failures_as_lowest == pytest.approx((4 + 8 + 1 + 1) / 4)
    assert (results.overall.unparsed, results.overall.doubtful, results.overall.n) == (1, 1, 4)
    assert results.by_category["writing"].official == Estimate(6.0, 2.0, 2)
    assert results.by_category_and_turn["math", 1].official is None
    metrics = results.as_metrics()
    assert metrics["category/math/1"] is None
    assert metrics["category/writing"] == 6.0
    assert metrics["first"] == 4.0


def test_figures_unknown_question_or_no_judgments_fail(questions: list[MTBenchQuestion]) -> None:
    with pytest.raises(EvaluationError, match=r"unknown questions \[999\]"):
        mt.figures([judgment("[[4]]", question=999)], questions)
    with pytest.raises(EvaluationError, match="no judgments"):
        mt.figures([], questions)


def test_figures_reproduce_the_published_averages() -> None:
    questions = load_questions(str(asset("mtbench/question.jsonl")))
    rows = load_judgments(asset("mtbench/medusa_2f64e05.jsonl"))
    assert [mt.official_score(row.judgment) for row in rows] == [row.score for row in rows]
    assert len(rows) == 640
    expected = json.loads(asset("mtbench/expected_medusa_2f64e05.json").read_text())
    for model, published in expected["models"].items():
        metrics = mt.figures([row for row in rows if row.model == model], questions).as_metrics()
        assert {name: metrics[name] for name in ("first", "second", "average")} == pytest.approx(
            {name: published[name] for name in ("first", "second", "average")}, abs=1e-9
        )
        for name, value in {**published["per_category"], **published["per_category_turn"]}.items():
            assert metrics[f"category/{name.replace('|', '/')}"] == pytest.approx(value, abs=1e-9)
        assert metrics["average_strict"] == metrics["average"]


def test_render_is_byte_identical_to_fastchat() -> None:
    questions = load_questions(str(asset("mtbench/question.jsonl")))
    references = load_references(str(asset("mtbench/reference_answer_gpt-4.jsonl")))
    prompts = load_judge_prompts(str(asset("mtbench/judge_prompts.jsonl")))
    answers = {q.question_id: Dialogue(question_id=q.question_id, turns=("{ref_answer_1}", "b\n")) for q in questions}
    requests = mt.build_grading_requests(questions, answers, references, prompts)
    assert len(requests) == 160
    raw = {row["name"]: row for row in map(json.loads, asset("mtbench/judge_prompts.jsonl").read_text().splitlines())}
    for request in requests:  # filled as by run_judge_single of FastChat 0.2.36
        reference = references.get(request.question.question_id)
        extra = {} if reference is None else {f"ref_answer_{n}": text for n, text in enumerate(reference.turns, 1)}
        name = ("single-math-v1" if reference else "single-v1") + ("-multi-turn" if request.turn == 2 else "")
        one = {"question": request.question.turns[0], "answer": "{ref_answer_1}"}
        two = {"question_1": request.question.turns[0], "question_2": request.question.turns[-1]}
        two |= {"answer_1": "{ref_answer_1}", "answer_2": "b\n"}
        expected = raw[name]["prompt_template"].format(**(one if request.turn == 1 else two), **extra)
        assert (request.user_prompt, request.prompt.system_prompt) == (expected, raw[name]["system_prompt"])


@pytest.mark.parametrize("template", ["{unknown}", "{}", "{question", "{question.x}", "{question[9999]}"])
def test_render_rejects_a_prompt_that_cannot_be_filled_in(template: str) -> None:
    question = MTBenchQuestion(question_id=1, category="writing", turns=("a",))
    prompt = JudgePrompt(name="single-v1", system_prompt="", prompt_template=template)
    with pytest.raises(EvaluationError, match="the judge prompt single-v1 cannot be filled in"):
        mt.render(prompt, question, Dialogue(question_id=1, turns=("b",)), None, 1)
