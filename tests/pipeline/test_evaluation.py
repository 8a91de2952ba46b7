"""Suites as stages of a run: which students, one judgment for each answer, and names that tell runs apart."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedChat
from standins import INSTRUCTIONS, write_alpaca, write_mt_bench
from workspaces import open_test_workspace

from tapir_exp.config import Config, Suite
from tapir_exp.core.evaluation_manifest import Evaluation
from tapir_exp.core.records import Response
from tapir_exp.evals.alpaca_eval_files import load_outputs
from tapir_exp.pipeline.evaluation import run_suites, write_evaluation
from tapir_exp.pipeline.subject import EvalQuestion, EvaluatedModel
from tapir_exp.pipeline.suite_sizes import evaluated_rounds

MT_JUDGMENTS = 8


@pytest.fixture
def config(compose_config: Callable[..., Config], tmp_path: Path) -> Config:
    files = {"alpaca_eval": write_alpaca(tmp_path), "mt_bench": write_mt_bench(tmp_path)}
    paths = [f"evals.{suite}.{name}={path}" for suite, of in files.items() for name, path in of.items()]
    return compose_config(*paths, "evals.suites=[mt_bench]", "evals.problems_per_level=0", "curriculum.rounds=2")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the student that generates."""
    generated: list[str] = []

    def converse(self: EvaluatedModel, questions: Sequence[EvalQuestion], *_: Any) -> list[list[Response]]:
        generated.append(self.name)
        return [[Response(id=q.id, text=f"answer {n}") for n, _ in enumerate(q.turns)] for q in questions]

    monkeypatch.setattr(EvaluatedModel, "converse", converse)
    return generated


def changed(config: Config, **evals: Any) -> Config:
    return replace(config, evals=replace(config.evals, **evals))


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [
        ({"suites": [Suite.lab], "problems_per_level": 3}, []),
        ({"suites": []}, []),
        ({}, [2]),
        ({"every_round": True}, [0, 1, 2]),
        ({"suites": [Suite.lab, Suite.ifeval], "problems_per_level": 3}, [2]),
    ],
    ids=str,
)
def test_suites_apply_to_the_last_student_or_to_all(config: Config, changes: dict[str, Any], rounds: list[int]) -> None:
    assert list(evaluated_rounds(changed(config, **changes))) == rounds


def test_runs_with_one_student_share_its_judgments(config: Config, tmp_path: Path, asked: list[str]) -> None:
    judge = ScriptedChat(lambda _: "Rating: [[7]]")
    models = []
    for name in ("first", "second"):
        with open_test_workspace(config, tmp_path / "store", judge=judge) as ws:
            ws.run_name = name
            student = ws.directory("student", 2, {}, lambda _: {})
            run_suites(ws, 2, student, None)
            directory = write_evaluation(ws, tmp_path / name, 2)
            assert directory is not None
        (file,) = (directory / "mt_bench/model_answer").iterdir()
        (judged,) = (directory / "mt_bench/model_judgment").iterdir()
        assert {json.loads(line)["model"] for line in judged.read_text().splitlines()} == {name}
        models.append((file.stem, json.loads(file.read_text().splitlines()[0])["model_id"], Evaluation.load(directory)))
    assert asked == ["first"]
    assert len(judge.requests) == MT_JUDGMENTS
    assert [model[:2] for model in models] == [("first", "first"), ("second", "second")]
    assert [(m.student, m.round, m.last, m.arm) for *_, m in models] == [
        ("first", 2, True, "tapir"),
        ("second", 2, True, "tapir"),
    ]


def test_each_suite_asks_its_own_judge(config: Config, tmp_path: Path, asked: list[str]) -> None:
    judges = {suite: ScriptedChat(lambda _: "[[3]]") for suite in (Suite.alpaca_eval, Suite.mt_bench)}
    given = changed(config, suites=list(judges), every_round=True)
    alpaca = replace(given.evals.alpaca_eval, judge=replace(given.judge, max_failure_rate=1.0))
    given = changed(given, alpaca_eval=alpaca)
    with open_test_workspace(given, tmp_path / "store") as ws:
        ws.suite_judges = judges
        student = ws.directory("student", 0, {}, lambda _: {})
        with pytest.raises(Exception, match="None of the 12 annotations has a preference"):
            run_suites(ws, 0, student, None)
    # A judge without log-probabilities is asked twice, and 12 outputs are judged before MT-Bench.
    assert {len(judges[Suite.alpaca_eval].requests), len(judges[Suite.mt_bench].requests)} == {24, 0}
    outputs = tmp_path.glob("store/alpaca-outputs/*/rows.jsonl")
    assert [len(path.read_text().splitlines()) for path in outputs] == [len(INSTRUCTIONS)]
    assert load_outputs(next(tmp_path.glob("store/alpaca-outputs/*/rows.jsonl")))[0].generator == "student-S0"
