"""Tests of reading finished evaluations: values by instruction, links and comparability."""

import json
from pathlib import Path

import pytest
from evaluations_dir import LLAMA, OFFICIAL_JUDGE, EvaluationsDir

from tapir_exp.core.evaluation_manifest import Evaluation
from tapir_exp.core.store import Artifact
from tapir_exp.report.evaluations import EvaluationResult, load_evaluation


def result_with(suite: str, path: Path) -> EvaluationResult:
    evaluation = Evaluation(
        student="student",
        model=LLAMA,
        experiment=None,
        arm=None,
        seed=None,
        run=None,
        judge=OFFICIAL_JUDGE,
        store="store",
        suites={suite: "suite"},
        artifacts=(),
    )
    figures = {"benchmark": "problems", "without": {"rate": "not measured"}}
    artifact = Artifact("suite", "key", path, files={}, figures=figures, seconds=1.0, reused=False)
    return EvaluationResult(evaluation, {suite: artifact}, link="evaluation.json", run=None)


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_load_evaluation_has_links_relative_to_the_tables(evaluations: EvaluationsDir) -> None:
    directory = evaluations.add("one", [5.0])
    result = load_evaluation(directory, directory.parent / "paper" / "tables")
    assert result.link == "../../one/evaluation.json"
    assert result.run == "../../../runs/one/manifest.json"
    assert result.label == "llama · tapir (ours)"


def test_values_of_alpaca_eval_skip_invalid_preferences(evaluations: EvaluationsDir) -> None:
    directory = evaluations.add("one", [0.0, 20.0])
    result = load_evaluation(directory, directory)
    file = result.artifacts["alpaca_eval"].path / "annotations.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([*rows, {"instruction": "failed", "preference": None}]))
    assert result.values("alpaca_eval") == pytest.approx({"i0": 0.0, "i1": 20.0})


def test_values_of_mt_bench_skip_judgments_without_rating(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"question_id": 81, "turn": 1, "score": 7.5},
        {"question_id": 81, "turn": 2, "score": -1},
    ]
    write_rows(tmp_path / "model_judgment" / "judge_single.jsonl", rows)
    assert result_with("mt_bench", tmp_path).values("mt_bench") == {"81/1": 7.5}


def test_values_of_ifeval_require_all_strict_constraints(tmp_path: Path) -> None:
    write_rows(tmp_path / "results.jsonl", [{"key": 1, "strict": [True, True]}, {"key": 2, "strict": [True, False]}])
    assert result_with("ifeval", tmp_path).values("ifeval") == {"1": 100.0, "2": 0.0}


def test_comparability_key_has_a_judge_only_if_the_suite_has(tmp_path: Path) -> None:
    assert result_with("alpaca_eval", tmp_path).comparability_key("alpaca_eval") == (OFFICIAL_JUDGE, "problems")
    assert result_with("lab", tmp_path).comparability_key("lab") == (None, "problems")


def test_missing_reason_is_that_of_the_evaluation(tmp_path: Path) -> None:
    result = result_with("lab", tmp_path)
    assert result.missing_reason("lab", "rate") == "not measured"
    assert result.missing_reason("lab", "other") == "the evaluation does not have this figure"
