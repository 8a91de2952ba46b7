"""The page of a search: its best trial, the Pareto front of figure and cost, and damaged files."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.page import render_page
from tapir_exp.report.sweep.search_file import SEARCH_FILE, SearchFile, TrialLine
from tapir_exp.report.sweep.search_section import draw_course, draw_front


def trial(
    number: int, value: float | None, usd: float | None = 0.0, state: str = "complete", calls: int = 3
) -> TrialLine:
    return TrialLine(number, state, {"delta": str(number)}, "accuracy", value, 9.5, calls, usd, "")


def search(*trials: TrialLine, figure: str = "accuracy") -> SearchFile:
    return SearchFile(figure, 20, {"delta": "integers from 0 to 9"}, {"delta": 1.0}, trials)


@pytest.mark.parametrize(
    ("given", "front", "cost"),
    [
        (search(trial(0, 0.5, 1.0), trial(1, 0.6, 2.0), trial(2, 0.55, 3.0)), [0, 1], "USD"),
        (search(trial(0, 0.5, 1.0), trial(1, 0.5, 1.0)), [0], "USD"),
        (search(trial(0, 0.5, 1.0), trial(1, 0.4, None)), [0], "USD"),
        (search(trial(0, 0.5), trial(1, 0.6, state="pruned"), trial(2, None, state="fail")), [0], "calls"),
        (search(trial(0, 0.5, calls=0), trial(1, 0.6, calls=0)), [1], "seconds"),
        (search(trial(0, 2.5, 1.0), trial(1, 2.6, 2.0), figure="loss"), [0], "USD"),
        (search(), [], "seconds"),
    ],
    ids=["better costs more", "equal", "unknown price", "unfinished", "unpaid", "loss", "empty"],
)
def test_front_holds_what_no_other_trial_beats(given: SearchFile, front: list[int], cost: str) -> None:
    assert [line.number for line in given.front] == front
    assert given.cost == cost


def test_charts_of_a_search_join_the_front_and_the_best_so_far() -> None:
    given = search(trial(0, 0.5, 1.0), trial(1, 0.6, 2.0), trial(2, 0.1, 0.5, "pruned"), trial(3, 0.55, 1.5))
    assert "On the front: trial 0: 0.5, 1; trial 3: 0.55, 1.5; trial 1: 0.6, 2" in draw_front(given)
    course = draw_course(given)
    assert "Best so far: trial 0: 0.5; trial 1: 0.6" in course
    assert course.count("<circle") == 4
    assert draw_front(None) == draw_course(None) == draw_front(search(trial(0, 0.5))) == ""


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"trials": [{"number": 1}]}', '{"trials": 3}'])
def test_damaged_search_file_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / SEARCH_FILE).write_text(content)
    assert SearchFile.load(tmp_path) is None


def test_page_of_a_search_has_its_trials(fake_run: Callable[..., Path]) -> None:
    sweep_dir = fake_run(name="sweep/one", arm="tapir", seed=1, size=40).parent
    assert 'id="search"' not in render_page(load_sweep(sweep_dir))
    (sweep_dir / SEARCH_FILE).write_text(json.dumps(asdict(search(trial(0, 0.5), trial(1, None, state="fail")))))
    page = render_page(load_sweep(sweep_dir))
    assert 'href="#search"' in page
    assert "1 of 20 trials complete, 0 pruned" in page
    assert "integers from 0 to 9" in page
