"""The check of the judge inside a run: its pairs, its figures, and what a weak judge leads to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedChat, prompt_of
from workspaces import open_test_workspace

from tapir_exp.config import Config
from tapir_exp.core.errors import ConfigError, JudgeRejected
from tapir_exp.core.records import Example, Response, example_id
from tapir_exp.core.store import Artifact
from tapir_exp.evals.labelled_pairs import FIRST, SECOND, TIE
from tapir_exp.lab.world import natural_problems
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.pipeline import judge_check
from tapir_exp.pipeline.judge_check import check_judge, find_pairs, spoilt_pairs
from tapir_exp.pipeline.workspace import StageOutput, Workspace

TEXTS = [f"The answer to question {n} is that {n} things are there, as anybody can count." for n in range(12)]
ROWS = [
    (Example(id=example_id(text), instruction=f"Question {n}?", response="x"), text) for n, text in enumerate(TEXTS)
]


def prefer_longer(request: ChatRequest) -> str:
    """Judge by length: it is right about cut copies, and gives no winner to equal ones."""
    prompt = prompt_of(request)
    lengths = [len(prompt.partition(f"<assistant_{n}>")[2].partition(f"</assistant_{n}>")[0]) for n in (1, 2)]
    return "5 5" if lengths[0] == lengths[1] else "8 3" if lengths[0] > lengths[1] else "3 8"


def artifacts(ws: Workspace) -> tuple[Artifact, Artifact]:
    seeds = ws.rows("seeds", None, {}, lambda: StageOutput([seed for seed, _ in ROWS], {}))
    responses = [Response(id=seed.id, text=text) for seed, text in ROWS]
    return seeds, ws.rows("teacher_responses", None, {}, lambda: StageOutput(responses, {}))


def test_spoilt_pairs_are_worse_copies_on_both_sides() -> None:
    pairs = spoilt_pairs(ROWS)
    assert {pair.label for pair in pairs} == {FIRST, SECOND, TIE}
    for pair, (_, text) in zip(pairs, ROWS, strict=True):
        assert text == (pair.second if pair.label == SECOND else pair.first)
        assert (pair.first == pair.second) == (pair.label == TIE) == (pair.kind == "the same")


def test_find_pairs_of_the_lab_are_graded_by_its_families(compose_config: Callable[..., Config]) -> None:
    problems = [problem for _, problem in natural_problems(20, seed=1)]
    seeds = [Example(id=example_id(p.instruction), instruction=p.instruction, response=p.terse) for p in problems]
    pairs = find_pairs(compose_config("judge.check=10"), seeds, [Response(id=s.id, text=s.response) for s in seeds])
    assert {pair.kind for pair in pairs} == {"lab"}
    assert {pair.label for pair in pairs} == {FIRST, SECOND}
    assert len(pairs) <= 10


@pytest.mark.parametrize("stop", [False, True])
def test_check_judge_weak_judge_warns_or_stops(
    tmp_path: Path, compose_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, stop: bool
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(judge_check, "print_warning", warnings.append)
    config = compose_config("judge.check=12", "judge.check_min_accuracy=0.9", f"judge.check_stop={stop}")
    with open_test_workspace(config, tmp_path, judge=ScriptedChat(lambda request: "5 5")) as ws:
        if stop:
            with pytest.raises(JudgeRejected, match=r"right on 0% of 8 pairs .* \(ties 100%, wrong 0%, unscored 0%\)"):
                check_judge(ws, *artifacts(ws))
            return
        artifact = check_judge(ws, *artifacts(ws))
    assert artifact is not None
    assert len(warnings) == 1
    assert "judge.check_min_accuracy = 0.9 is expected" in warnings[0]


def test_check_judge_thresholds_do_not_ask_again(tmp_path: Path, compose_config: Callable[..., Config]) -> None:
    figures: list[Any] = []
    for accuracy, judge in ((0.2, ScriptedChat(prefer_longer)), (0.3, None)):
        config = compose_config("judge.check=12", f"judge.check_min_accuracy={accuracy}")
        with open_test_workspace(config, tmp_path, judge=judge or ScriptedChat(prefer_longer)) as ws:
            artifact = check_judge(ws, *artifacts(ws))
            assert artifact is not None
            figures.append((artifact.figures["right"], artifact.figures["ties_with_itself"], artifact.reused))
    assert figures[0][:2] == figures[1][:2]
    assert figures[0][0] >= 0.5
    assert figures[0][1] == 1
    assert [reused for *_, reused in figures] == [False, True]


def test_check_judge_unset_asks_nothing(tmp_path: Path, compose_config: Callable[..., Config]) -> None:
    with open_test_workspace(compose_config(), tmp_path) as ws:
        assert check_judge(ws, *artifacts(ws)) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["judge.check_pairs=nowhere.jsonl"], "a file of labelled pairs"),
        (["curriculum.select_by=posterior", "judge.swap_positions=false"], "whose two orders show its noise"),
        (["curriculum.select_by=lower_bound", "judge.protocol=single_score"], "whose two orders show its noise"),
        (["judge.check=-1"], "0 or more"),
    ],
)
def test_config_of_checks_and_selection_is_refused(
    compose_config: Callable[..., Config], overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config(*overrides)
