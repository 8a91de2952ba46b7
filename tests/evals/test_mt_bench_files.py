"""Files of MT-Bench: round trips, FastChat's own lines, and the errors for missing or wrong files."""

import json
from pathlib import Path

import pytest
from standins import JUDGE_PROMPTS, QUESTIONS, REFERENCES, write_lines, write_mt_bench

from tapir_exp.core.errors import EvaluationError
from tapir_exp.evals import mt_bench_files as mtf

FASTCHAT_LINE = {
    "question_id": 1,
    "model": "m",
    "judge": ["gpt-4", "single-v1"],
    "user_prompt": "p",
    "judgment": "a\u2028[[9]]",
}


def test_temperature_follows_the_official_categories(tmp_path: Path) -> None:
    questions = mtf.load_questions(write_mt_bench(tmp_path)["questions"])
    assert [question.temperature for question in questions] == [0.7, 0.0, 0.1, 0.0]
    assert mtf.TEMPERATURES["roleplay"] == 0.7
    assert mtf.TEMPERATURES["humanities"] == 0.1
    assert questions[0].model_copy(update={"category": "new"}).temperature == 0.7  # FastChat's default


def test_judgments_round_trip(tmp_path: Path) -> None:
    row = mtf.Judgment.model_validate({**FASTCHAT_LINE, "score": 9, "turn": 1})
    (tmp_path / "j_single.jsonl").write_text(mtf.to_judgment_lines([row, row]))
    assert mtf.load_judgments(tmp_path / "j_single.jsonl") == [row, row]


def test_answers_round_trip(tmp_path: Path) -> None:
    dialogues = [mtf.Dialogue(question_id=n, turns=("one", "zwö")) for n in (1, 2)]
    path = tmp_path / "student.jsonl"
    path.write_text(mtf.to_answer_lines("student", dialogues))
    assert mtf.load_dialogues(path) == {row.question_id: row for row in dialogues}
    assert mtf.read_model_id(path) == "student"
    line = json.loads(path.read_text().splitlines()[0])
    assert line["choices"] == [{"index": 0, "turns": ["one", "zwö"]}]
    assert len(line["answer_id"]) == 22


def test_load_judgments_reads_fastchat_lines(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [{**FASTCHAT_LINE, "score": 9, "turn": 1, "tstamp": 1.5}])
    (row,) = mtf.load_judgments(path)
    assert (row.judge, row.score) == (("gpt-4", "single-v1"), 9)


def test_load_other_formats_fail(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"y\.jsonl, row 1 is no Judgment"):
        mtf.load_judgments(write_lines(tmp_path / "y.jsonl", [FASTCHAT_LINE]))
    for line in ({"question_id": 1}, {"question_id": 1, "choices": []}, {"question_id": 1, "choices": "x"}):
        with pytest.raises(EvaluationError, match="row 1 is not a line of a model_answer file"):
            mtf.load_dialogues(write_lines(tmp_path / "z.jsonl", [line]))
    for ids in (["a", "b"], [["a"], ["a"]], [None], [{}], []):
        with pytest.raises(EvaluationError, match="do not have the same model_id"):
            mtf.read_model_id(write_lines(tmp_path / "v.jsonl", [{"model_id": name} for name in ids]))
    for question in ({"question_id": 1, "category": "math", "turns": []}, {"question_id": [1], "turns": ["a"]}):
        with pytest.raises(EvaluationError, match=r"row 1 is no MTBenchQuestion"):
            mtf.load_questions(str(write_lines(tmp_path / "q.jsonl", [question])))
    broken = write_lines(tmp_path / "prompts.jsonl", [{"type": "single", "name": "x"}])
    with pytest.raises(EvaluationError, match="row 1 is no JudgePrompt: system_prompt: Field required"):
        mtf.load_judge_prompts(str(broken))


def test_load_missing_files_name_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match=r"set evals\.mt_bench\.judge_prompts to judge_prompts\.jsonl"):
        mtf.load_judge_prompts(None)
    monkeypatch.setattr(mtf, "find_spec", lambda name: None)
    with pytest.raises(EvaluationError, match="pip install flexeval"):
        mtf.load_questions(None)
    incomplete = write_lines(tmp_path / "prompts.jsonl", JUDGE_PROMPTS[:-1])
    with pytest.raises(EvaluationError, match="single-math-v1-multi-turn"):
        mtf.load_judge_prompts(str(incomplete))


def test_load_questions_default_is_an_installed_flexeval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "flexeval" / mtf.FLEXEVAL_DATA
    data.mkdir(parents=True)
    (tmp_path / "flexeval/__init__.py").write_text("raise RuntimeError('must not be imported')")
    write_lines(data / "mt-en.jsonl", QUESTIONS)
    write_lines(data / "mt-en-ref-gpt4.jsonl", REFERENCES)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(mtf.load_questions(None)) == 4
    assert mtf.load_references(None)[2].turns == ("42", "21")
