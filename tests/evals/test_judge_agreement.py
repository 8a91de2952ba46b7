"""Figures of a judge on labelled pairs: by hand on small data, and as published on LLMBar's evaluators."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from assets import asset

from tapir_exp.core.errors import EvaluationError
from tapir_exp.evals.judge_agreement import JudgedPair, cohen_kappa, measure_judge
from tapir_exp.evals.judge_replays import read_choice, read_llmbar_results
from tapir_exp.evals.labelled_pairs import FIRST, SECOND, TIE, read_pairs

EVALUATORS = (
    "ChatGPT_Rating",
    "ChatGPT_Vanilla",
    "GPT-4_Metrics_Reference",
    "GPT-4_Rating",
    "GPT-4_Vanilla",
    "LLaMA2_Vanilla",
)


def judged(label: int, first: float | None, second: float | None, lengths: tuple[int, int] = (10, 20)) -> JudgedPair:
    return JudgedPair(label, (first, second), lengths)


PAIRS = [
    judged(FIRST, 3, 5),  # right, gap 4
    judged(SECOND, -1, -1),  # right, gap -1, the longer answer
    judged(SECOND, 2, 0),  # wrong, gap 1
    judged(FIRST, 1, -1),  # a tie, by position only
    judged(FIRST, None, 2),  # unscored
    judged(TIE, 0, 0),
]


def test_measure_judge_figures_equal_those_by_hand() -> None:
    figures = measure_judge(PAIRS, delta=2.0)
    assert (figures.rows, figures.tied_labels) == (5, 1)
    assert [figures.right.mean, figures.ties.mean, figures.wrong.mean, figures.unscored.mean] == [0.4, 0.2, 0.2, 0.2]
    assert figures.accuracy is not None
    assert (figures.accuracy.mean, figures.accuracy.n) == (pytest.approx(2 / 3), 3)
    assert figures.above_delta is not None
    assert (figures.above_delta.mean, figures.above_delta.n) == (1, 1)
    # Both orders alike: 3/5 and -1/-1, but not 2/0 and 1/-1.
    assert figures.consistent is not None
    assert (figures.consistent.mean, figures.consistent.n) == (0.5, 4)
    # Half the differences of the leads, of the tie as well: -1, 0, 1, 1 and 0.
    assert figures.position_bias is not None
    assert figures.position_bias.mean == 0.2
    assert [(bin_.low, bin_.rows, bin_.right.mean) for bin_ in figures.reliability] == [(0, 2, 0.5), (3, 1, 1)]
    assert figures.longer_wins is not None
    assert figures.longer_wins.mean == pytest.approx(1 / 3)
    assert figures.right_if_longer is not None
    assert (figures.right_if_longer.mean, figures.right_if_longer.n) == (0.5, 2)


def test_measure_judge_without_decided_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="people decided"):
        measure_judge(PAIRS[-1:], delta=2.0)


def test_measure_judge_of_choices_has_no_gaps() -> None:
    figures = measure_judge([replace(pair, graded=False) for pair in PAIRS], delta=2.0)
    assert (figures.above_delta, figures.reliability, figures.position_bias) == (None, (), None)


@pytest.mark.parametrize(
    ("first", "second", "kappa"),
    [
        ([1, 2, 1, 2], [1, 2, 1, 2], 1.0),
        ([1, 1, 2, 2], [1, 2, 1, 2], 0.0),
        ([1, 1], [1, 1], 1.0),
        ([1, 2], [2, 1], -1.0),
    ],
)
def test_cohen_kappa_of_known_series_is_known(first: list[int], second: list[int], kappa: float) -> None:
    assert cohen_kappa(first, second) == pytest.approx(kappa)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Output (a)", 1),
        ("x\n Output (b)", -1),
        ("Output (a) lists 3. Output (b) is better.", -1),
        ("[[A>B]]", 1),
        ("[[B]]", -1),
        ("Neither output", None),
        ("I prefer Output (a)", None),
    ],
)
def test_read_choice_of_a_reply_is_the_named_answer(text: str, choice: float | None) -> None:
    assert read_choice(text) == choice


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_llmbar_statistics_equal_the_published_ones(evaluator: str) -> None:
    published = json.loads(asset(f"llmbar/natural/{evaluator}_statistics.json").read_text())
    figures = measure_judge(read_llmbar_results(asset(f"llmbar/natural/{evaluator}_result.json")), 2.0).llmbar
    counts = {"False": figures.correct_first, "True": figures.correct_swapped, "both": figures.correct_both}
    computed = {
        **{f"correct_{name}": f"{count} / 100 = {float(count)}%" for name, count in counts.items()},
        "correct_average": f"{100 * figures.correct_average}%",
        "equal": f"{figures.equal} / 100 = {float(figures.equal)}%",
        "kappa_False": figures.kappa_first,
        "kappa_True": figures.kappa_swapped,
        "kappa_average": figures.kappa_average,
        "kappa_agreement": figures.kappa_agreement,
    }
    assert computed == published


ROWS = {
    "LLMBar": {"input": "q", "output_1": "x", "output_2": "y", "label": 2},
    "JudgeBench": {"pair_id": "7", "question": "q", "response_A": "x", "response_B": "y", "label": "B>A"},
    "plain": {"instruction": "q", "response_1": "x", "response_2": "y", "label": "second"},
    "MT-Bench": {
        "question_id": 81,
        "model_a": "m",
        "model_b": "n",
        "winner": "model_b",
        "conversation_a": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}],
        "conversation_b": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "y"}],
        "turn": 1,
    },
}


@pytest.mark.parametrize("name", ROWS)
def test_read_pairs_of_every_format_is_the_same_pair(tmp_path: Path, name: str) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([ROWS[name]]))
    (pair,) = read_pairs(path)
    assert (pair.instruction, pair.first, pair.second, pair.label) == ("q", "x", "y", SECOND)


def test_read_pairs_votes_become_the_majority(tmp_path: Path) -> None:
    path = tmp_path / "votes.json"
    votes = [{**ROWS["MT-Bench"], "winner": winner} for winner in ("model_a", "model_b", "model_b", "tie")]
    path.write_text(json.dumps(votes))
    assert [pair.label for pair in read_pairs(path)] == [SECOND]
    path.write_text(json.dumps(votes[:2]))
    assert [pair.label for pair in read_pairs(path)] == [TIE]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"label": 3}, "row 1: the label is 3, expected one of 1, a, first"), ({"output_2": None}, "output_2 is None"),
     ({"input": ""}, "needs an instruction")],
)  # fmt: skip
def test_read_pairs_bad_row_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{**ROWS["LLMBar"], **change}]))
    with pytest.raises(EvaluationError, match=message):
        read_pairs(path)
