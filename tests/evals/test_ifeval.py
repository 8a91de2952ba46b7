"""IFEval: the four means over whatever the checks say, and what is told where the checks are not there."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
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
    """Stands in for lm_eval's `process_results`."""
    (response,) = responses
    known = {"no_comma": "," not in response, "shout": response.isupper()}
    strict = [known[name] for name in doc["instruction_id_list"]]
    return {"inst_level_strict_acc": strict, "inst_level_loose_acc": [True, *strict[1:]]}


CHECKER = ifeval.Checker(checks, "0")


def test_the_means_by_hand(tmp_path: Path) -> None:
    questions = ifeval.load_questions(str(write_lines(tmp_path / "q.jsonl", [ROW, {**ROW, "key": 2, "extra": 1}])))
    rows = [ifeval.check(questions[0], "NO", CHECKER), ifeval.check(questions[1], "NO, NO", CHECKER)]
    found = ifeval.figures(rows)
    assert found["prompt_level_strict_acc"] == 50
    assert found["inst_level_strict_acc"] == 75
    assert found["prompt_level_loose_acc"] == found["inst_level_loose_acc"] == 100
    assert found["prompt_level_strict_error"] == pytest.approx(100 * (0.25 / 2) ** 0.5)
    assert found["prompts"] == 2


def test_without_lm_eval_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(EvaluationError, match=r"pip install 'tapir-exp\[ifeval\]'"):
        ifeval.load_checker()


def test_what_the_checks_cannot_do_is_an_error(tmp_path: Path) -> None:
    unknown = {**ROW, "instruction_id_list": ["rhyme"]}
    (question,) = ifeval.load_questions(str(write_lines(tmp_path / "q.jsonl", [unknown])))
    with pytest.raises(EvaluationError, match="knows no 'rhyme'"):
        ifeval.check(question, "x", CHECKER)

    def without_data(doc: Mapping[str, Any], responses: Sequence[str]) -> dict[str, Any]:
        raise LookupError("punkt_tab")

    with pytest.raises(EvaluationError, match=r"nltk\.downloader punkt_tab"):
        ifeval.check(question, "x", ifeval.Checker(without_data, "0"))
    with pytest.raises(EvaluationError, match="not one of IFEval's"):
        ifeval.load_questions(str(write_lines(tmp_path / "r.jsonl", [{"prompt": "x"}])))
