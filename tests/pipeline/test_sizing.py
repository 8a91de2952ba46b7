"""Sizes that follow from the rows and the budget, rows without responses, and what they cost in the plan."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from composing import compose_config
from fakes import ScriptedChat, prompt_of
from workspaces import open_test_workspace

from tapir_exp.config import Config, LLMConfig, SeedSource, SpendConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.records import Example, example_id
from tapir_exp.core.store import write_rows
from tapir_exp.data.seeds import reserved_rows, undrawn_rows
from tapir_exp.pipeline import sizing
from tapir_exp.pipeline.data import teacher_responses
from tapir_exp.pipeline.estimate import estimate_run
from tapir_exp.pipeline.request_sizes import seed_statistics
from tapir_exp.pipeline.sized_seeds import prepare_seeds
from tapir_exp.pipeline.sizing import fit_sizes, total_usd


def example(number: int, response: str = "It is so.") -> Example:
    text = f"Question number {number} about {number * number}?"
    return Example(id=example_id(text), instruction=text, response=response)


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tmp_path_factory.mktemp("own") / "mine.jsonl"
    write_rows(path, [example(n, "" if n % 4 == 0 else "It is so.") for n in range(40)])
    return compose_config("experiment=own_data", "teacher=gpt_4o", "student=qwen1_5_0_5b", f"seeds.path={path}")


def sized(config: Config, seeds: int, **spend: Any) -> Config:
    rows = [example(n) for n in range(seeds)]
    return fit_sizes(replace(config, spend=SpendConfig(**spend)), rows, undrawn_rows(seeds, config.seeds.reserve))


@pytest.mark.parametrize(("clean", "reserved"), [(1, 0), (2, 1), (12, 1), (40, 4), (2000, 100), (52_000, 100)])
def test_reserve_is_at_most_a_tenth(clean: int, reserved: int) -> None:
    assert reserved_rows(clean, 100) == reserved
    assert reserved_rows(clean, 0) == 0
    if clean > 1:
        assert undrawn_rows(clean - reserved, 100) == reserved


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "rows", "held_out"), [(36, 16, 4), (1900, 855, 100), (51_900, 23_355, 100)])
def test_sizes_follow_from_the_seeds(own_data: Config, seeds: int, rows: int, held_out: int) -> None:
    config = sized(own_data, seeds)
    assert config.curriculum.rows_per_round == rows
    assert config.evals.held_out_size == held_out
    assert config.seeds.size is None


def test_given_sizes_stay(own_data: Config) -> None:
    given = replace(own_data, curriculum=replace(own_data.curriculum, rows_per_round=7))
    assert sized(given, 900).curriculum.rows_per_round == 7
    assert sized(replace(own_data, fit_to_budget=False), 900, max_usd=0.5).seeds.size is None


@pytest.mark.parametrize(
    ("rows", "source", "rounds", "warns"),
    [
        (2_001, SeedSource.file, 3, True),
        (2_000, SeedSource.file, 3, False),
        (None, SeedSource.file, 3, False),
        (2_001, SeedSource.lab, 3, False),
        (2_001, SeedSource.file, 0, False),
    ],
)
def test_round_of_more_than_two_rows_a_seed_warns(
    own_data: Config,
    monkeypatch: pytest.MonkeyPatch,
    rows: int | None,
    source: SeedSource,
    rounds: int,
    warns: bool,
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(sizing, "print_warning", warnings.append)
    sizing._warn_once.cache_clear()
    curriculum = replace(own_data.curriculum, rows_per_round=rows, rounds=rounds)
    sized(replace(own_data, curriculum=curriculum, seeds=replace(own_data.seeds, source=source)), 1_000)
    assert len(warnings) == warns
    assert all("curriculum.rows_per_round = 2,001 for 1,000 seeds" in text for text in warnings)
    assert all("a round has 450 rows" in text for text in warnings)


@pytest.mark.parametrize(
    ("size", "held_out", "warned"), [(None, 5, []), (30, 5, ["seeds.size = 30"]), (None, 400, ["400"])]
)
def test_source_with_fewer_rows_than_asked_for_warns(
    own_data: Config, monkeypatch: pytest.MonkeyPatch, size: int | None, held_out: int, warned: list[str]
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(sizing, "print_warning", warnings.append)
    sizing._warn_once.cache_clear()
    seeds, evals = replace(own_data.seeds, size=size, reserve=held_out), replace(own_data.evals, held_out_size=held_out)
    fit_sizes(replace(own_data, seeds=seeds, evals=evals), [example(n) for n in range(20)], undrawn=5)
    assert [words in text for words, text in zip(warned, warnings, strict=True)] == [True] * len(warned)


@pytest.mark.parametrize("limit", [{"max_usd": 3.0}, {"max_calls": 900}, {"max_tokens": 200_000}], ids=str)
def test_budget_draws_fewer_seeds(own_data: Config, limit: dict[str, Any]) -> None:
    config = sized(own_data, 1900, **limit)
    size = config.seeds.size
    assert size is not None
    assert 4 <= size < 1000
    assert config.curriculum.rows_per_round == round(0.45 * size)
    cost, more = (
        estimate_run(sized(own_data, seeds), seed_statistics([example(n) for n in range(seeds)]))
        for seeds in (size, size * 2)
    )
    if "max_usd" in limit:
        usd, doubled = total_usd(cost), total_usd(more)
        assert usd is not None
        assert doubled is not None
        assert usd < 3.0 < doubled


def test_budget_below_the_smallest_run_is_refused(own_data: Config) -> None:
    with pytest.raises(
        ConfigError, match=r"spend\.max_usd = 0\.01: expected at least 0\.\d+, the estimate of a run on 4"
    ):
        sized(own_data, 1900, max_usd=0.01)


def test_minutes_count_calls_and_fits(own_data: Config) -> None:
    config = sized(replace(own_data, time_budget_minutes=5.0), 1900)
    assert config.seeds.size is not None
    assert 4 <= config.seeds.size < 1900


def test_unknown_price_limits_nothing_here(own_data: Config) -> None:
    unknown = replace(own_data, teacher=replace(own_data.teacher, llm=LLMConfig(model="x/y")))
    assert sized(unknown, 1900, max_usd=0.5).seeds.size is None


def test_judge_and_classifier_are_the_teacher(own_data: Config) -> None:
    assert own_data.judge.llm == own_data.classifier.llm == own_data.teacher.llm


def test_rows_without_responses_get_the_teachers_once(own_data: Config, tmp_path: Path) -> None:
    teacher = ScriptedChat(lambda request: f"Reply to {prompt_of(request)}")
    with open_test_workspace(own_data, tmp_path, teacher=teacher) as ws:
        seeds = prepare_seeds(ws)
        rows = seeds.rows(Example)
        assert {row.response for row in rows if not row.response.startswith("Reply to Question")} == {"It is so."}
        asked = len(teacher.requests)
        assert asked == seeds.figures["asked"] == sum(row.response != "It is so." for row in rows) > 0
        assert (len(rows), ws.config.evals.held_out_size, ws.config.curriculum.rows_per_round) == (36, 4, 16)
        assert prepare_seeds(ws).key == seeds.key
        assert len(teacher.requests) == asked
        # The same requests, so the completions are in the cache of calls.
        teacher_responses(ws, seeds)
        assert teacher.requests[:asked] == [r for r in teacher.requests[asked:] if r in teacher.requests[:asked]]


def test_plan_counts_missing_responses_once(own_data: Config) -> None:
    rows = [example(n, "" if n % 4 == 0 else "It is so.") for n in range(40)]
    stages = {stage.stage: stage for stage in estimate_run(sized(own_data, 40), seed_statistics(rows))}
    assert stages["seeds_with_responses"].expected.calls == 10
    assert stages["teacher_responses"].expected.calls == 30
    complete = estimate_run(sized(own_data, 40), seed_statistics([example(n) for n in range(40)]))
    assert "seeds_with_responses" not in {stage.stage for stage in complete}


def test_own_data_of_2000_rows_is_affordable(own_data: Config) -> None:
    """The fault: `rows_per_round` stayed at the paper's 23,333 rows, and 2,000 rows cost 380 USD."""
    rows = [replace_response(example(n)) for n in range(1900)]
    usd = total_usd(estimate_run(sized(own_data, 1900), seed_statistics(rows)))
    assert usd is not None
    assert usd < 60


def replace_response(row: Example) -> Example:
    return row.model_copy(update={"response": "word " * 60})
