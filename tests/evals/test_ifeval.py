"""IFEval: the four accuracies, and the errors for missing checks, data and questions."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from standins import write_lines

from tapir_exp.core.errors import EvaluationError
from tapir_exp.evals import ifeval

ROW = {
    "key": 1,
    "prompt": "Write, but: no commas.",
    "instruction_id_list": ["no_comma", "shout"],
    "kwargs": [{}, {"n": None}],
}


def checks(doc: Mapping[str, Any], responses: Sequence[str]) -> dict[str, Any]:
    """Replace lm_eval's `process_results`."""
    (response,) = responses
    known = {"no_comma": "," not in response, "shout": response.isupper()}
    strict = [known[name] for name in doc["instruction_id_list"]]
    return {"inst_level_strict_acc": strict, "inst_level_loose_acc": [True, *strict[1:]]}


CHECKER = ifeval.Checker(checks, "0")


def test_figures_match_hand_computation(tmp_path: Path) -> None:
    questions = ifeval.load_questions(str(write_lines(tmp_path / "q.jsonl", [ROW, {**ROW, "key": 2, "extra": 1}])))
    rows = [ifeval.check(questions[0], "NO", CHECKER), ifeval.check(questions[1], "NO, NO", CHECKER)]
    results = ifeval.figures(rows)
    assert results["prompt_level_strict_acc"] == 50
    assert results["inst_level_strict_acc"] == 75
    assert results["prompt_level_loose_acc"] == results["inst_level_loose_acc"] == 100
    assert results["prompt_level_strict_error"] == pytest.approx(100 * (0.25 / 2) ** 0.5)
    assert results["prompts"] == 2


def test_load_checker_without_lm_eval_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(EvaluationError, match=r"pip install 'tapir-exp\[ifeval\]'"):
        ifeval.load_checker()


def test_language_data_is_checked_without_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = ModuleType("nltk")
    nltk.data = SimpleNamespace(find=lambda name: name)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nltk", nltk)
    ifeval.check_language_data()
    nltk.data = SimpleNamespace(find=missing)  # type: ignore[attr-defined]
    with pytest.raises(EvaluationError, match=r"Install it: python -m nltk\.downloader punkt_tab"):
        ifeval.check_language_data()
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(EvaluationError, match=r"pip install 'tapir-exp\[ifeval\]'"):
        ifeval.check_language_data()


def missing(name: str) -> None:
    raise LookupError(name)


def test_check_unknown_instruction_or_missing_data_fails(tmp_path: Path) -> None:
    unknown = {**ROW, "instruction_id_list": ["rhyme"]}
    (question,) = ifeval.load_questions(str(write_lines(tmp_path / "q.jsonl", [unknown])))
    with pytest.raises(EvaluationError, match="lm_eval 0 has no check for the instruction 'rhyme'"):
        ifeval.check(question, "x", CHECKER)

    def without_data(doc: Mapping[str, Any], responses: Sequence[str]) -> dict[str, Any]:
        raise LookupError("punkt_tab")

    with pytest.raises(EvaluationError, match=r"nltk\.downloader punkt_tab"):
        ifeval.check(question, "x", ifeval.Checker(without_data, "0"))


def test_load_questions_other_rows_fail(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="row 1 is no IFEvalQuestion: key: Field required"):
        ifeval.load_questions(str(write_lines(tmp_path / "r.jsonl", [{"prompt": "x"}])))
