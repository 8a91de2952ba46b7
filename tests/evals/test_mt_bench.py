"""MT-Bench: the prompts rendered, the ratings read, both means, and FastChat's files."""

import json
from pathlib import Path
from typing import Any

import pytest
from assets import asset
from fakes import ScriptedChat, reply_of, said_to
from standins import JUDGE_PROMPTS, QUESTIONS, REFERENCES, write_lines, write_mt_bench

from tapir_exp.core.errors import EvaluationError, ReplyError, TooManyFailures
from tapir_exp.evals import mt_bench as mt


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return write_mt_bench(tmp_path)


@pytest.fixture
def questions(files: dict[str, str]) -> list[mt.MTBenchQuestion]:
    return mt.load_questions(files["questions"])


@pytest.fixture
def matches(files: dict[str, str], questions: list[mt.MTBenchQuestion]) -> list[mt.GradingRequest]:
    answers = {q.question_id: mt.Dialogue(question_id=q.question_id, turns=("one {x}", "two")) for q in questions}
    references, prompts = mt.load_references(files["references"]), mt.load_judge_prompts(files["judge_prompts"])
    return mt.build_grading_requests(questions, answers, references, prompts)


def judged(text: str, *, question: int = 1, turn: int = 1) -> mt.Judgment:
    return mt.Judgment(
        question_id=question,
        model="student",
        judge=("j", "single-v1"),
        user_prompt=None,
        judgment=text,
        score=mt.official_score(text),
        turn=turn,
    )


def test_every_category_has_its_official_temperature(questions: list[mt.MTBenchQuestion]) -> None:
    assert [question.temperature for question in questions] == [0.7, 0.0, 0.1, 0.0]
    assert mt.TEMPERATURES["roleplay"] == 0.7
    assert mt.TEMPERATURES["humanities"] == 0.1
    assert questions[0].model_copy(update={"category": "new"}).temperature == 0.7  # as FastChat does


def test_math_reasoning_and_coding_are_judged_by_reference() -> None:
    named = {category: mt.prompt_name(category, 1) for category in mt.TEMPERATURES if category != "arena-hard-200"}
    assert {category for category, name in named.items() if name == "single-math-v1"} == {"math", "reasoning", "coding"}
    assert set(named.values()) == {"single-v1", "single-math-v1"}


def test_each_turn_has_the_prompt_of_its_category(matches: list[mt.GradingRequest]) -> None:
    named = [(match.question.question_id, match.turn, match.prompt.name) for match in matches]
    assert named == [
        (1, 1, "single-v1"),
        (2, 1, "single-math-v1"),
        (3, 1, "single-v1"),
        (4, 1, "single-math-v1"),
        (1, 2, "single-v1-multi-turn"),
        (2, 2, "single-math-v1-multi-turn"),
        (3, 2, "single-v1-multi-turn"),
        (4, 2, "single-math-v1-multi-turn"),
    ]


def test_prompts_are_filled_with_questions_answers_and_references(matches: list[mt.GradingRequest]) -> None:
    assert matches[0].user_prompt == "Rate this.\n\nQ: Describe {a} harbour.\nA: one {x}"
    assert matches[1].user_prompt == "Rate this.\n\nQ: What is 6 times 7?\nA: one {x}\nR: 42"
    both = "Q: What is 6 times 7?\nA: one {x}\nQ: And half of it?\nA: two\nR: 42, 21"
    assert matches[5].user_prompt == both


def test_questions_of_one_turn_are_judged_once(files: dict[str, str], questions: list[mt.MTBenchQuestion]) -> None:
    single = [questions[0].model_copy(update={"turns": ("Only this.",)})]
    answers = {1: mt.Dialogue(question_id=1, turns=("Yes.",))}
    assert [
        match.turn
        for match in mt.build_grading_requests(single, answers, {}, mt.load_judge_prompts(files["judge_prompts"]))
    ] == [1]


def test_what_is_missing_is_an_error_before_the_first_call(
    files: dict[str, str], questions: list[mt.MTBenchQuestion]
) -> None:
    prompts = mt.load_judge_prompts(files["judge_prompts"])
    answers = {q.question_id: mt.Dialogue(question_id=q.question_id, turns=("one", "two")) for q in questions}
    with pytest.raises(EvaluationError, match="lacks the references of 2 questions: 2, 4"):
        mt.build_grading_requests(questions, answers, {}, prompts)
    with pytest.raises(EvaluationError, match="lacks the answers of 1 questions: 3"):
        mt.build_grading_requests(questions, {n: a for n, a in answers.items() if n != 3}, {}, prompts)


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
def test_ratings_are_read_by_both_rules(text: str, official: float, strict: float | None) -> None:
    assert mt.official_score(text) == official
    assert mt.strict_score(text) == strict


def test_an_unparsable_reply_is_asked_again_then_counted(matches: list[mt.GradingRequest]) -> None:
    def script(request: Any) -> str:
        return "No number." if "harbour" in said_to(request) or "harbour" in request.messages[1].content else "[[8]]"

    chat = ScriptedChat(script)
    rows = mt.judge(matches, "student", [], "j", chat, concurrency=1, max_failure_rate=0.5)
    assert [row.score for row in rows] == [-1, 8, 8, 8, -1, 8, 8, 8]
    assert [row.judgment for row in rows][:2] == ["No number.", "[[8]]"]
    assert "holds no rating" in (rows[0].failure or "")
    assert len(chat.requests) == 10
    with pytest.raises(TooManyFailures, match="j rates"):
        mt.judge(matches, "student", [], "j", ScriptedChat(lambda _: "No."), concurrency=1, max_failure_rate=0.1)
    with pytest.raises(ReplyError, match="no rating"):
        mt.parse_rating(reply_of("No."))


def test_the_judge_is_asked_as_officially(matches: list[mt.GradingRequest]) -> None:
    chat = ScriptedChat(lambda _: "[[5]]")
    mt.judge(matches, "student", [], "j", chat, concurrency=1, max_failure_rate=0)
    system, user = chat.requests[4].messages
    assert (system.role, system.content) == ("system", "Rate the last.\n\n")
    assert (user.role, user.content) == ("user", matches[4].user_prompt)
    assert {(request.temperature, request.max_tokens) for request in chat.requests} == {(0.0, 2048)}


def test_what_is_judged_is_not_asked_again_and_other_answers_are(matches: list[mt.GradingRequest]) -> None:
    rows = mt.judge(matches, "student", [], "j", ScriptedChat(lambda _: "[[5]]"), concurrency=1, max_failure_rate=0)
    assert mt.judge(matches, "student", rows, "j", ScriptedChat([]), concurrency=1, max_failure_rate=0) == rows
    changed = [
        rows[0].model_copy(update={"user_prompt": "of another answer"}),
        rows[1].model_copy(update={"score": -1}),
    ]
    chat = ScriptedChat(lambda _: "[[6]]")
    mt.judge(matches, "student", [*changed, *rows[2:]], "j", chat, concurrency=1, max_failure_rate=0)
    assert len(chat.requests) == 2
    mt.judge(matches, "student", rows, "another judge", chat, concurrency=1, max_failure_rate=0)
    assert len(chat.requests) == 10


def test_both_means_by_hand(questions: list[mt.MTBenchQuestion]) -> None:
    rows = [judged("[[4]]"), judged("[[8]]", turn=2), judged("no", question=2), judged("[[95]]", question=2, turn=2)]
    found = mt.figures(rows, questions)
    assert found.overall.official is not None
    assert found.overall.official.mean == pytest.approx((4 + 8 + 95) / 3)  # FastChat's rule, whatever it is worth
    assert found.overall.strict is not None
    assert found.overall.strict.mean == 6
    assert found.overall.lowest == pytest.approx((4 + 8 + 1 + 1) / 4)
    assert (found.overall.unparsed, found.overall.doubtful, found.overall.n) == (1, 1, 4)
    assert found.by_category["writing"].official == mt.Estimate(6.0, 2.0, 2)
    assert found.by_category_and_turn["math", 1].official is None
    metrics = found.as_metrics()
    assert metrics["category/math/1"] is None
    assert metrics["category/writing"] == 6.0
    assert metrics["first"] == 4.0


def test_strange_questions_and_no_judgments_are_errors(questions: list[mt.MTBenchQuestion]) -> None:
    with pytest.raises(EvaluationError, match="999"):
        mt.figures([judged("[[4]]", question=999)], questions)
    with pytest.raises(EvaluationError, match="no judgments"):
        mt.figures([], questions)


def test_files_are_read_as_they_are_written(tmp_path: Path, matches: list[mt.GradingRequest]) -> None:
    rows = mt.judge(
        matches, "student", [], "j", ScriptedChat(lambda _: "a\u2028[[5]]"), concurrency=1, max_failure_rate=0
    )
    (tmp_path / "j_single.jsonl").write_text(mt.to_judgment_lines(rows))
    assert mt.load_judgments(tmp_path / "j_single.jsonl") == rows
    dialogues = [mt.Dialogue(question_id=n, turns=("one", "zwö")) for n in (1, 2)]
    (tmp_path / "student.jsonl").write_text(mt.to_answer_lines("student", dialogues))
    assert mt.load_dialogues(tmp_path / "student.jsonl") == {row.question_id: row for row in dialogues}
    assert mt.read_model_id(tmp_path / "student.jsonl") == "student"
    line = json.loads((tmp_path / "student.jsonl").read_text().splitlines()[0])
    assert line["choices"] == [{"index": 0, "turns": ["one", "zwö"]}]
    assert len(line["answer_id"]) == 22


def test_fast_chat_s_own_lines_are_read(tmp_path: Path) -> None:
    line = {"question_id": 1, "model": "m", "judge": ["gpt-4", "single-v1"], "user_prompt": "p", "judgment": "[[9]]"}
    path = write_lines(tmp_path / "x.jsonl", [{**line, "score": 9, "turn": 1, "tstamp": 1.5}])
    (row,) = mt.load_judgments(path)
    assert (row.judge, row.score) == (("gpt-4", "single-v1"), 9)
    with pytest.raises(EvaluationError, match="a line is not a Judgment"):
        mt.load_judgments(write_lines(tmp_path / "y.jsonl", [line]))
    with pytest.raises(EvaluationError, match="no file of answers"):
        mt.load_dialogues(write_lines(tmp_path / "z.jsonl", [{"question_id": 1}]))
    with pytest.raises(EvaluationError, match="same model_id"):
        mt.read_model_id(write_lines(tmp_path / "v.jsonl", [{"model_id": "a"}, {"model_id": "b"}]))


def test_absent_files_say_where_they_are_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match=r"set evals\.mt_bench\.judge_prompts to judge_prompts\.jsonl"):
        mt.load_judge_prompts(None)
    monkeypatch.setattr(mt, "find_spec", lambda name: None)
    with pytest.raises(EvaluationError, match="pip install flexeval"):
        mt.load_questions(None)
    short = write_lines(tmp_path / "prompts.jsonl", JUDGE_PROMPTS[:-1])
    with pytest.raises(EvaluationError, match="single-math-v1-multi-turn"):
        mt.load_judge_prompts(str(short))


def test_questions_come_out_of_an_installed_flexeval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "flexeval" / mt.FLEXEVAL_DATA
    data.mkdir(parents=True)
    (tmp_path / "flexeval/__init__.py").write_text("raise RuntimeError('is not to be imported')")
    write_lines(data / "mt-en.jsonl", QUESTIONS)
    write_lines(data / "mt-en-ref-gpt4.jsonl", REFERENCES)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(mt.load_questions(None)) == 4
    assert mt.load_references(None)[2].turns == ("42", "21")


def test_the_published_averages_come_out() -> None:
    questions = mt.load_questions(str(asset("mtbench/question.jsonl")))
    rows = mt.load_judgments(asset("mtbench/medusa_2f64e05.jsonl"))
    assert [mt.official_score(row.judgment) for row in rows] == [row.score for row in rows]
    assert len(rows) == 640
    expected = json.loads(asset("mtbench/expected_medusa_2f64e05.json").read_text())
    for model, known in expected["models"].items():
        found = mt.figures([row for row in rows if row.model == model], questions).as_metrics()
        assert {name: found[name] for name in ("first", "second", "average")} == pytest.approx(
            {name: known[name] for name in ("first", "second", "average")}, abs=1e-9
        )
        for name, value in {**known["per_category"], **known["per_category_turn"]}.items():
            assert found[f"category/{name.replace('|', '/')}"] == pytest.approx(value, abs=1e-9)
        assert found["average_strict"] == found["average"]


def test_fast_chat_s_prompts_are_rendered_byte_for_byte() -> None:
    questions = mt.load_questions(str(asset("mtbench/question.jsonl")))
    references = mt.load_references(str(asset("mtbench/reference_answer_gpt-4.jsonl")))
    prompts = mt.load_judge_prompts(str(asset("mtbench/judge_prompts.jsonl")))
    answers = {
        q.question_id: mt.Dialogue(question_id=q.question_id, turns=("{ref_answer_1}", "b\n")) for q in questions
    }
    matches = mt.build_grading_requests(questions, answers, references, prompts)
    assert len(matches) == 160
    raw = {row["name"]: row for row in map(json.loads, asset("mtbench/judge_prompts.jsonl").read_text().splitlines())}
    for match in matches:  # as run_judge_single of FastChat 0.2.36 fills them
        reference = references.get(match.question.question_id)
        extra = {} if reference is None else {f"ref_answer_{n}": text for n, text in enumerate(reference.turns, 1)}
        name = ("single-math-v1" if reference else "single-v1") + ("-multi-turn" if match.turn == 2 else "")
        one = {"question": match.question.turns[0], "answer": "{ref_answer_1}"}
        two = {"question_1": match.question.turns[0], "question_2": match.question.turns[-1]}
        two |= {"answer_1": "{ref_answer_1}", "answer_2": "b\n"}
        filled = raw[name]["prompt_template"].format(**(one if match.turn == 1 else two), **extra)
        assert (match.user_prompt, match.prompt.system) == (filled, raw[name]["system_prompt"])
