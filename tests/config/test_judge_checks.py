"""Settings of the judge that do not fit together are refused, with what to set instead."""

from typing import Any

import pytest

from tapir_exp.config.judge_checks import check_judge
from tapir_exp.config.lab_parts import check_lab_parts

SECOND = "judge.panel.second.llm"


@pytest.mark.parametrize(
    ("values", "key", "expected"),
    [
        ({"judge.samples": 3}, "judge.temperature", "at 0 all samples are equal"),
        ({"judge.samples": 3, "judge.temperature": 0.7, "judge.protocol": "pair_logprobs"}, "judge.samples", "1 with"),
        ({SECOND + ".model": "x/b", "judge.llm.concurrency": "auto"}, "judge.llm.concurrency", "a whole number"),
        ({SECOND + ".model": "x/b", SECOND + ".concurrency": "auto"}, SECOND + ".concurrency", "a whole number"),
        ({"curriculum.select_by": "posterior", "judge.protocol": "single_expected"}, "curriculum.select_by", "gap, or"),
    ],
)
def test_check_judge_refuses_what_does_not_fit(values: dict[str, Any], key: str, expected: str) -> None:
    settings = {"judge.llm.model": "x/a", "judge.swap_positions": True, "judge.temperature": 0.0, **values}
    (problem,) = check_judge(settings)
    assert (problem.key, expected in problem.expected) == (key, True)


@pytest.mark.parametrize(
    "values",
    [
        {"judge.samples": 3, "judge.temperature": 0.7, "judge.protocol": "single_score"},
        {"judge.samples": 1, "judge.protocol": "pair_expected"},
        {"judge.llm.concurrency": "auto"},
        {SECOND + ".model": "x/b", SECOND + ".concurrency": 4, "judge.llm.concurrency": 2},
    ],
)
def test_check_judge_accepts_what_fits(values: dict[str, Any]) -> None:
    assert list(check_judge({"judge.llm.model": "x/a", "judge.swap_positions": True, **values})) == []


@pytest.mark.parametrize(("first", "second"), [("openai/a", "lab/judge"), ("lab/judge", "openai/a")])
def test_judge_of_the_lab_in_a_real_panel_is_refused(first: str, second: str) -> None:
    values = {"allow_lab_parts": False, "judge.llm.model": first, SECOND + ".model": second, "curriculum.rounds": 1}
    found = {problem.key: problem for problem in check_lab_parts(values, lambda key: "")}
    lab = "judge.llm.model" if first.startswith("lab/") else SECOND + ".model"
    assert set(found) == {lab, "allow_lab_parts"}
    assert "a judge such as judge=gpt_4o" in found[lab].expected
