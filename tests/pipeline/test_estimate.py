"""The plan's sums: exact where the configuration settles them, bounded where it does not, and never a made-up price."""

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import example
from hypothesis import given
from hypothesis import strategies as st
from standins import write_alpaca, write_mt_bench

from tapir_exp.config import (
    AlpacaEvalConfig,
    BudgetConfig,
    ClassifierConfig,
    Config,
    CurriculumConfig,
    Difficulty,
    EvalsConfig,
    GapRows,
    JudgeConfig,
    JudgedStudent,
    JudgeProtocol,
    LLMConfig,
    LRSchedule,
    MTBenchConfig,
    RolloutConfig,
    SFTConfig,
    StudentConfig,
    Suite,
    TeacherConfig,
)
from tapir_exp.pipeline.estimate import SeedStatistics, StageEstimate, estimate_run, seed_statistics

SIZES = SeedStatistics(seeds=1000, instruction=20.0, response=60.0)


def priced(model: str, usd: float | None = 1.0) -> LLMConfig:
    return LLMConfig(model=model, usd_per_million_input=usd, usd_per_million_output=usd)


def config(**changes: object) -> Config:
    plan = Config(
        name="plan",
        teacher=TeacherConfig(llm=priced("a/teacher")),
        judge=JudgeConfig(llm=priced("a/judge")),
        classifier=ClassifierConfig(llm=priced("a/classifier")),
        student=StudentConfig(model="m", num_parameters=1e9),
        curriculum=CurriculumConfig(rounds=2, rows_per_round=500),
        sft=SFTConfig(seed_stage=BudgetConfig(epochs=3.0), round_stage=BudgetConfig(max_tokens=100_000)),
    )
    return replace(plan, **changes)


def stage(planned: list[StageEstimate], name: str, role: str) -> StageEstimate:
    (found,) = (row for row in planned if (row.stage, row.role) == (name, role))
    return found


def test_estimate_run_yields_the_stages_in_order() -> None:
    assert [(row.stage, row.role) for row in estimate_run(config(), SIZES)] == [
        ("student-0", "fit"),
        ("task_labels", "classifier"),
        ("teacher_responses", "teacher"),
        ("verdicts-0", "judge"),
        ("expansions-1", "teacher"),
        ("expansions-1", "classifier"),
        ("train_mix-1", "teacher"),
        ("student-1", "fit"),
        ("verdicts-1", "judge"),
        ("expansions-2", "teacher"),
        ("expansions-2", "classifier"),
        ("train_mix-2", "teacher"),
        ("student-2", "fit"),
    ]


def test_estimate_run_counts_configured_calls_exactly() -> None:
    planned = estimate_run(config(), SIZES)
    assert stage(planned, "task_labels", "classifier").calls == 1000
    assert stage(planned, "teacher_responses", "teacher").calls == 1000
    assert stage(planned, "verdicts-0", "judge").calls == 2000
    assert stage(planned, "verdicts-1", "judge").calls == 1000
    assert not stage(planned, "train_mix-1", "teacher").at_most
    assert stage(planned, "expansions-1", "teacher").at_most


def test_estimate_run_with_complexity_gap_adds_ratings() -> None:
    rated = config(
        teacher=TeacherConfig(
            llm=priced("a/teacher"), max_complexity_gap=1.0, num_output_samples=4, num_in_context_samples=3
        )
    )
    ratings = stage(estimate_run(rated, SIZES), "expansions-1", "judge")
    assert (ratings.calls, ratings.at_most) == (500 + 125 * 3, True)
    assert ("expansions-1", "judge") not in {(row.stage, row.role) for row in estimate_run(config(), SIZES)}


def test_estimate_run_without_swapping_halves_the_verdicts() -> None:
    one = config(judge=JudgeConfig(llm=priced("a/judge"), swap_positions=False))
    assert stage(estimate_run(one, SIZES), "verdicts-0", "judge").calls == 1000


def test_estimate_run_without_refinement_has_no_such_calls() -> None:
    plain = config(curriculum=CurriculumConfig(rounds=1, rows_per_round=500, refine=False))
    assert not [row for row in estimate_run(plain, SIZES) if row.stage == "train_mix-1"]


def test_estimate_run_without_rounds_calls_no_model() -> None:
    vanilla = config(curriculum=CurriculumConfig(rounds=0, rows_per_round=500))
    assert [(row.stage, row.calls) for row in estimate_run(vanilla, SIZES)] == [("student-0", 0)]


def test_estimate_run_counts_hours_by_epochs_and_by_tokens() -> None:
    planned = estimate_run(config(), SIZES)
    hours = 6 * 1e9 / (312e12 * 0.4) / 3600
    assert stage(planned, "student-0", "fit").gpu_hours == pytest.approx(3 * 1000 * 80 * hours)
    assert stage(planned, "student-1", "fit").gpu_hours == pytest.approx(100_000 * hours)


def test_estimate_run_counts_the_branch_of_a_rate_above_zero() -> None:
    """The last round of one schedule ends at a rate of 0, so it has no branch."""
    settings = {"lr_schedule": LRSchedule.one, "judged_student": JudgedStudent.annealed, "anneal_ratio": 0.2}
    planned = estimate_run(config(sft=replace(config().sft, **settings)), SIZES)
    branches = [row for row in planned if row.stage.startswith("judged_student")]
    assert [row.stage for row in branches] == ["judged_student-1"]
    hours = stage(planned, "student-1", "fit").gpu_hours
    assert hours
    assert branches[0].gpu_hours == pytest.approx(0.2 * hours)


def test_estimate_run_keeps_unknown_sizes_and_prices_unknown() -> None:
    vague = config(student=StudentConfig(model="m"), teacher=TeacherConfig(llm=LLMConfig(model="a/teacher")))
    planned = estimate_run(vague, SIZES)
    assert stage(planned, "student-0", "fit").gpu_hours is None
    assert stage(planned, "teacher_responses", "teacher").usd is None
    assert stage(planned, "task_labels", "classifier").usd is not None


def test_estimate_run_uses_the_price_of_batches() -> None:
    single, batched = (
        stage(estimate_run(config(teacher=TeacherConfig(llm=llm)), SIZES), "teacher_responses", "teacher").usd
        for llm in (LLMConfig(model="openai/gpt-4o"), LLMConfig(model="openai/gpt-4o", batch=True))
    )
    assert single is not None
    assert batched == pytest.approx(single / 2)


def test_estimate_run_shares_stages_before_the_rounds() -> None:
    jobs = [
        {(row.stage, row.role): row.share for row in estimate_run(config(curriculum=curriculum), SIZES)}
        for curriculum in (
            CurriculumConfig(rows_per_round=500, delta=1.0),
            CurriculumConfig(rows_per_round=500, delta=2.0),
        )
    ]
    shared = [key for key in jobs[0] if jobs[0][key] == jobs[1][key]]
    assert shared == [
        ("student-0", "fit"),
        ("task_labels", "classifier"),
        ("teacher_responses", "teacher"),
        ("verdicts-0", "judge"),
    ]


@given(st.integers(1, 10**6), st.floats(1, 1e4), st.floats(1, 1e4))
def test_estimate_run_cost_is_tokens_times_price(seeds: int, instruction: float, response: float) -> None:
    for row in estimate_run(config(), SeedStatistics(seeds, instruction, response)):
        if row.role != "fit":
            assert row.usd == pytest.approx((row.prompt_tokens + row.completion_tokens) / 1e6)


def test_seed_statistics_are_means_in_tokens() -> None:
    sizes = seed_statistics([example("a" * 40, "b" * 80), example("c" * 80, "d" * 40)])
    assert sizes == SeedStatistics(seeds=2, instruction=15.0, response=15.0)


@pytest.mark.parametrize(("room", "thoughts"), [(0, 0), (400, 400), (32_000, 1000)])
def test_estimate_run_counts_thoughts_of_reasoning_models(room: int, thoughts: int) -> None:
    teacher = TeacherConfig(llm=replace(priced("a/teacher"), reasoning_tokens=room))
    plain, reasoning = (estimate_run(plan, SIZES) for plan in (config(), config(teacher=teacher)))
    for before, after in zip(plain, reasoning, strict=True):
        added = thoughts * before.calls if before.role == "teacher" else 0
        assert after.completion_tokens == pytest.approx(before.completion_tokens + added)
        assert (after.usd or 0) == pytest.approx((before.usd or 0) + added / 1e6)


def test_estimate_run_costs_verdicts_by_protocol() -> None:
    plans = {
        protocol: stage(
            estimate_run(config(judge=JudgeConfig(llm=priced("a/judge"), protocol=protocol)), SIZES),
            "verdicts-0",
            "judge",
        )
        for protocol in JudgeProtocol
    }
    pair, single, logprobs = (plans[name] for name in JudgeProtocol)
    assert pair.calls == single.calls == logprobs.calls == 2000
    assert logprobs.completion_tokens == 2000
    assert pair.completion_tokens == single.completion_tokens > logprobs.completion_tokens
    assert single.prompt_tokens < pair.prompt_tokens


@pytest.mark.parametrize(
    ("how", "name", "calls"),
    [(Difficulty.eps, "rollout_verdicts-0", 2 * 1000 * 3), (Difficulty.judge_rated, "ratings-0", 1000)],
)
def test_estimate_run_includes_calls_of_the_difficulty(how: Difficulty, name: str, calls: int) -> None:
    plan = CurriculumConfig(rounds=2, rows_per_round=500, difficulty=how, rollouts=RolloutConfig(num_samples=3))
    planned = estimate_run(config(curriculum=plan), SIZES)
    assert stage(planned, name, "judge").calls == calls
    assert {row.stage for row in planned} - {row.stage for row in estimate_run(config(), SIZES)} == {
        name,
        name.replace("-0", "-1"),
    }


def test_estimate_run_with_fresh_gaps_judges_new_rows_of_every_round() -> None:
    plan = CurriculumConfig(rounds=2, rows_per_round=500, gap_rows=GapRows.fresh, fresh_surplus=0.5, max_new_rows=1001)
    planned = estimate_run(config(curriculum=plan), SIZES)
    assert [row.stage for row in planned if row.role == "judge"] == [
        "verdicts-0",
        "fresh_verdicts-1",
        "fresh_verdicts-2",
    ]
    assert [stage(planned, f"fresh_verdicts-{number}", "judge").calls for number in (1, 2)] == [1000, 1002]
    assert stage(planned, "fresh_verdicts-1", "judge").at_most
    assert [stage(planned, f"expansions-{number}", "classifier").calls for number in (1, 2)] == [500, 501]
    both = estimate_run(config(curriculum=replace(plan, report_trained_gaps=True)), SIZES)
    assert stage(both, "verdicts-1", "judge").calls == 1000


def test_estimate_run_counts_passes_of_easy_rows_and_replayed_rows() -> None:
    plan = CurriculumConfig(rounds=2, rows_per_round=500, alpha=0.3, delta_alpha=0.2, replay=0.5)
    plan = replace(plan, gap_rows=GapRows.fresh, drop_easy_expansions=True)
    sft = SFTConfig(seed_stage=BudgetConfig(epochs=3.0), round_stage=BudgetConfig(epochs=1.0))
    planned = estimate_run(config(curriculum=plan, sft=sft), SIZES)
    assert [stage(planned, f"expansions-{number}", "classifier").calls for number in (1, 2)] == [500 + 300, 500 + 500]
    first, second = (stage(planned, f"student-{number}", "fit").gpu_hours for number in (1, 2))
    assert first
    assert second == pytest.approx(1.5 * first)


def test_suites_of_a_run_are_calls_of_their_judges() -> None:
    evals = EvalsConfig(suites=[Suite.lab, Suite.alpaca_eval, Suite.mt_bench, Suite.ifeval])
    evals.mt_bench.judge = JudgeConfig(llm=priced("a/gpt", 1000.0))
    planned = estimate_run(config(evals=evals), SIZES)
    assert stage(planned, "alpaca-annotations-2", "judge").calls == 805
    judged = stage(planned, "mt-judgments-2", "judge")
    assert (judged.calls, judged.completion_tokens) == (160, 160 * 197)
    assert judged.usd == pytest.approx((judged.prompt_tokens + judged.completion_tokens) * 1000 / 1e6)
    answers = [row for row in planned if row.role == "student"]
    assert [row.stage for row in answers] == ["alpaca-outputs-2", "mt-answers-2", "ifeval-answers-2"]
    assert all(row.gpu_hours and not row.calls for row in answers)
    every = estimate_run(config(evals=replace(evals, every_round=True)), SIZES)
    assert sum(row.stage.startswith("mt-judgments") for row in every) == 3
    assert not any("suite" in row.stage for row in every)


def test_known_files_of_a_suite_are_counted(tmp_path: Path) -> None:
    files = EvalsConfig(
        suites=[Suite.alpaca_eval, Suite.mt_bench],
        alpaca_eval=AlpacaEvalConfig(**write_alpaca(tmp_path)),
        mt_bench=MTBenchConfig(**write_mt_bench(tmp_path)),
    )
    planned = estimate_run(config(evals=files), SIZES)
    assert (stage(planned, "alpaca-annotations-2", "judge").calls, stage(planned, "mt-judgments-2", "judge").calls) == (
        12,
        8,
    )
    quiet = estimate_run(config(evals=replace(files, ask_judge=False)), SIZES)
    assert not any(row.stage.startswith(("alpaca-annotations", "mt-judgments")) for row in quiet)


def test_extra_rows_of_a_budget_in_epochs_count_as_training() -> None:
    def hours(budget: BudgetConfig) -> float:
        sft = SFTConfig(seed_stage=budget, round_stage=BudgetConfig(epochs=1))
        return stage(estimate_run(config(sft=sft), SIZES), "student-0", "fit").gpu_hours or 0.0

    assert hours(BudgetConfig(epochs=1, extra_rows=2000)) == pytest.approx(3 * hours(BudgetConfig(epochs=1)))
