"""Evaluation suites: checks come before responses and calls, and responses are artifacts of their own."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from standins import JUDGE_PROMPTS, QUESTIONS, REFERENCES, write_lines
from workspaces import open_test_workspace

from tapir_exp.config import Config
from tapir_exp.core.errors import EvaluationError
from tapir_exp.core.file_names import file_name
from tapir_exp.core.records import Response
from tapir_exp.evals import ifeval
from tapir_exp.pipeline.benchmarks import ifeval_suite, mt_suite
from tapir_exp.pipeline.subject import EvaluatedModel, any_student

Compose = Callable[..., Config]
IFEVAL_ROW = {"key": 1, "prompt": "No commas.", "instruction_id_list": ["no_comma"], "kwargs": [{}]}


@dataclass
class Student:
    """A student that counts how often it is asked."""

    model: EvaluatedModel
    asked: list[int] = field(default_factory=list)
    name = "student"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def limited(self, max_new_tokens: int) -> "Student":
        return self

    def answer(self, prompts: Sequence[tuple[str, str]], label: str, kept: object) -> list[Response]:
        self.asked.append(len(prompts))
        return [Response(id=row_id, text="No") for row_id, _ in prompts]


def followed(doc: Mapping[str, Any], responses: Sequence[str]) -> dict[str, Any]:
    return {"inst_level_strict_acc": [True], "inst_level_loose_acc": [True]}


def test_ifeval_checks_its_data_first_and_keeps_its_responses(
    compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_config(f"evals.ifeval.questions={write_lines(tmp_path / 'q.jsonl', [IFEVAL_ROW])}")
    student = Student(any_student("student", config.student))
    subject = cast(EvaluatedModel, student)
    monkeypatch.setattr(ifeval, "load_checker", lambda: ifeval.Checker(followed, "1"))

    def fail() -> None:
        raise EvaluationError(ifeval.NO_LANGUAGE_DATA)

    with open_test_workspace(config, tmp_path / "store") as ws:
        monkeypatch.setattr(ifeval, "check_language_data", fail)
        with pytest.raises(EvaluationError, match="nltk"):
            ifeval_suite(ws, subject)
        assert student.asked == []
        monkeypatch.setattr(ifeval, "check_language_data", lambda: None)
        assert ifeval_suite(ws, subject).figures["prompt_level_strict_acc"] == 100
        monkeypatch.setattr(ifeval, "load_checker", lambda: ifeval.Checker(followed, "2"))
        ifeval_suite(ws, subject)
    assert student.asked == [1]  # another version of the checks needs no new responses


def test_model_id_never_leaves_the_directory(compose_config: Compose, tmp_path: Path) -> None:
    files = {"questions": QUESTIONS, "references": REFERENCES, "judge_prompts": JUDGE_PROMPTS, "answers": []}
    paths = {name: write_lines(tmp_path / f"{name}.jsonl", rows) for name, rows in files.items()}
    overrides = [f"evals.mt_bench.{name}={path}" for name, path in paths.items()]
    config = compose_config(*overrides, "evals.ask_judge=false")
    with open_test_workspace(config, tmp_path / "store") as ws:
        for model_id in (
            "org/model",
            "../../../../escape",
            "/tmp/escape",
            "org//nested/../x",
            "org/model/",
            "模" * 300,
            "1e+30",
            "con",
            "a.",
            "\x1b[31m",
        ):
            lines = [
                {"question_id": row["question_id"], "model_id": model_id, "choices": [{"turns": ["a"] * 2}]}
                for row in QUESTIONS
            ]
            write_lines(paths["answers"], lines)
            suite = mt_suite(ws, any_student("x", config.student))
            (file,) = (suite.path / "model_answer").iterdir()
            assert file.name == f"{file_name(model_id)}.jsonl"
            assert {json.loads(line)["model_id"] for line in file.read_text().splitlines()} == {model_id}
            assert suite.figures["unparsed"] == suite.figures["judgments"] == 8
    assert {path.name for path in tmp_path.iterdir()} == {"store", *(path.name for path in paths.values())}
