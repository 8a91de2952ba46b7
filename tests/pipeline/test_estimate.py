"""The plan's sums: expected values, bounds that hold for any replies, and never a made-up price."""

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import example
from hypothesis import given, settings
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
from tapir_exp.core.task_types import TaskType
from tapir_exp.pipeline.estimate import estimate_run
from tapir_exp.pipeline.request_sizes import Assumptions, Measured, RequestKind, SeedStatistics, seed_statistics
from tapir_exp.pipeline.round_counts import PoolShape
from tapir_exp.pipeline.stage_costs import StageEstimate

SIZES = SeedStatistics(seeds=1000, instruction=20.0, response=60.0)
ALL_NEW = PoolShape({TaskType.MATH: 1.0}, 0.01)
"""A pool with hardly any hard row, whose hard rows the teacher writes."""


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
        evals=EvalsConfig(problems_per_level=0),
        sft=SFTConfig(seed_stage=BudgetConfig(epochs=3.0), round_stage=BudgetConfig(max_tokens=100_000)),
    )
    return replace(plan, **changes)


def stage(planned: list[StageEstimate], name: str, role: str) -> StageEstimate:
    (found,) = (row for row in planned if (row.stage, row.role) == (name, role))
    return found


def test_estimate_run_yields_the_stages_in_order() -> None:
    planned = estimate_run(config(judge=JudgeConfig(llm=priced("a/judge"), check=20)), SIZES)
    assert [(row.stage, row.role) for row in planned] == [
        ("checks", "teacher"),
        ("checks", "judge"),
        ("checks", "classifier"),
        ("student-0", "fit"),
        ("task_labels", "classifier"),
        ("teacher_responses", "teacher"),
        ("judge_check", "judge"),
        ("student_responses-0", "student"),
        ("verdicts-0", "judge"),
        ("expansions-1", "teacher"),
        ("expansions-1", "classifier"),
        ("train_mix-1", "teacher"),
        ("student-1", "fit"),
        ("student_responses-1", "student"),
        ("verdicts-1", "judge"),
        ("expansions-2", "teacher"),
        ("expansions-2", "classifier"),
        ("train_mix-2", "teacher"),
        ("student-2", "fit"),
    ]


def test_estimate_run_counts_configured_calls_exactly() -> None:
    planned = estimate_run(config(judge=JudgeConfig(llm=priced("a/judge"), check=20)), SIZES)
    assert stage(planned, "task_labels", "classifier").expected.calls == 1000
    assert stage(planned, "teacher_responses", "teacher").expected.calls == 1000
    assert stage(planned, "verdicts-0", "judge").expected.calls == 2000
    assert stage(planned, "judge_check", "judge").expected.calls == 40
    # Twice each, and paid in eight attempts.
    assert stage(planned, "verdicts-0", "judge").most.calls == 2000 * 2 * 8
    assert stage(planned, "verdicts-1", "judge").most.calls == 1000 * 2 * 8
    assert stage(planned, "train_mix-2", "teacher").usable.calls == 500


def test_bound_follows_the_attempts_and_the_limits() -> None:
    def most(attempts: int, max_tokens: int) -> StageEstimate:
        llm = replace(priced("a/teacher"), max_attempts=attempts)
        planned = estimate_run(config(teacher=TeacherConfig(llm=llm, max_tokens=max_tokens)), SIZES)
        return stage(planned, "teacher_responses", "teacher")

    one, three, longer = most(1, 1000), most(3, 1000), most(1, 2000)
    assert one.most.completion_tokens == 1000 * (1000 + 2000)
    assert three.most.tokens == pytest.approx(3 * one.most.tokens)
    assert longer.most.completion_tokens == 2 * one.most.completion_tokens
    assert one.most.usd == pytest.approx(one.most.tokens / 1e6)
    assert one.usable.completion_tokens == 1000 * 1000
    # A malformed reply counts by its message.
    assert most(1, 1).most.completion_tokens == 1000 * 2 * 400


def test_estimate_run_with_complexity_gap_adds_ratings() -> None:
    rated = config(teacher=TeacherConfig(llm=priced("a/teacher"), max_complexity_gap=1.0, num_in_context_samples=3))
    planned = estimate_run(rated, SIZES, ALL_NEW, Assumptions(accepted=1.0))
    ratings, calls = (stage(planned, "expansions-1", role).expected.calls for role in ("judge", "teacher"))
    assert (calls, ratings) == (35, 140 + 3 * 35)
    assert ("expansions-1", "judge") not in {(row.stage, row.role) for row in estimate_run(config(), SIZES)}


def test_estimate_run_without_swapping_halves_the_verdicts() -> None:
    one = config(judge=JudgeConfig(llm=priced("a/judge"), swap_positions=False))
    assert stage(estimate_run(one, SIZES), "verdicts-0", "judge").expected.calls == 1000


def test_estimate_run_without_refinement_has_no_such_calls() -> None:
    plain = config(curriculum=CurriculumConfig(rounds=1, rows_per_round=500, refine=False))
    assert not [row for row in estimate_run(plain, SIZES) if row.stage == "train_mix-1"]


def test_estimate_run_without_rounds_calls_no_model() -> None:
    vanilla = config(curriculum=CurriculumConfig(rounds=0, rows_per_round=500))
    assert [(row.stage, row.expected.calls) for row in estimate_run(vanilla, SIZES)] == [("student-0", 0)]


def test_estimate_run_counts_hours_by_epochs_and_by_tokens() -> None:
    planned = estimate_run(config(), SIZES)
    hours = 6 * 1e9 / (312e12 * 0.4) / 3600
    assert stage(planned, "student-0", "fit").expected.gpu_hours == pytest.approx(3 * 1000 * 80 * hours)
    assert stage(planned, "student-1", "fit").expected.gpu_hours == pytest.approx(100_000 * hours)


def test_estimate_run_counts_the_branch_of_a_rate_above_zero() -> None:
    """The last round of one schedule ends at a rate of 0, so it has no branch."""
    one = {"lr_schedule": LRSchedule.one, "judged_student": JudgedStudent.annealed, "anneal_ratio": 0.2}
    planned = estimate_run(config(sft=replace(config().sft, **one)), SIZES)
    branches = [row for row in planned if row.stage.startswith("judged_student")]
    assert [row.stage for row in branches] == ["judged_student-1"]
    hours = stage(planned, "student-1", "fit").expected.gpu_hours
    assert hours
    assert branches[0].expected.gpu_hours == pytest.approx(0.2 * hours)


def test_estimate_run_keeps_unknown_sizes_and_prices_unknown() -> None:
    vague = config(student=StudentConfig(model="m"), teacher=TeacherConfig(llm=LLMConfig(model="a/teacher")))
    planned = estimate_run(vague, SIZES)
    assert stage(planned, "student-0", "fit").expected.gpu_hours is None
    assert stage(planned, "teacher_responses", "teacher").expected.usd is None
    assert stage(planned, "task_labels", "classifier").expected.usd is not None


def test_estimate_run_uses_the_price_of_batches() -> None:
    single, batched = (
        stage(estimate_run(config(teacher=TeacherConfig(llm=llm)), SIZES), "teacher_responses", "teacher").expected.usd
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
        ("student_responses-0", "student"),
        ("verdicts-0", "judge"),
    ]


@settings(max_examples=20)
@given(st.integers(1, 10**6), st.floats(1, 1e3), st.floats(1, 1e3))
def test_estimate_run_cost_is_tokens_times_price(seeds: int, instruction: float, response: float) -> None:
    for row in estimate_run(config(), SeedStatistics(seeds, instruction, response)):
        for amounts in (row.expected, row.usable, row.most):
            assert amounts.usd == pytest.approx(amounts.tokens / 1e6)
        assert row.expected.calls <= row.usable.calls <= row.most.calls
        assert row.expected.tokens <= row.usable.tokens <= row.most.tokens


def test_seed_statistics_are_means_in_tokens() -> None:
    sizes = seed_statistics([example("a" * 40, "b" * 80), example("c" * 80, "d" * 40)])
    assert sizes == SeedStatistics(seeds=2, instruction=15.0, response=15.0)
    assert (sizes.most.instruction, sizes.most.longest_instruction, sizes.most.longest_response) == (20.5, 27, 27)


@pytest.mark.parametrize(("room", "thoughts"), [(0, 0), (400, 400), (32_000, 1000)])
def test_estimate_run_counts_thoughts_of_reasoning_models(room: int, thoughts: int) -> None:
    teacher = TeacherConfig(llm=replace(priced("a/teacher"), reasoning_tokens=room))
    plain, reasoning = (estimate_run(plan, SIZES) for plan in (config(), config(teacher=teacher)))
    for before, after in zip(plain, reasoning, strict=True):
        added = thoughts * before.expected.calls if before.role == "teacher" else 0
        assert after.expected.completion_tokens == pytest.approx(before.expected.completion_tokens + added)
        assert (after.expected.usd or 0) == pytest.approx((before.expected.usd or 0) + added / 1e6)


def test_estimate_run_costs_verdicts_by_protocol() -> None:
    plans = {
        protocol: stage(
            estimate_run(config(judge=JudgeConfig(llm=priced("a/judge"), protocol=protocol)), SIZES),
            "verdicts-0",
            "judge",
        )
        for protocol in JudgeProtocol
    }
    names = (JudgeProtocol.pair_scores, JudgeProtocol.single_score, JudgeProtocol.pair_logprobs)
    pair, single, logprobs = (plans[name] for name in names)
    assert pair.expected.calls == single.expected.calls == logprobs.expected.calls == 2000
    assert logprobs.expected.completion_tokens == 2000
    assert pair.expected.completion_tokens == single.expected.completion_tokens > logprobs.expected.completion_tokens
    assert single.expected.prompt_tokens < pair.expected.prompt_tokens


@pytest.mark.parametrize(
    ("how", "names", "calls"),
    [
        (Difficulty.eps, ("rollouts", "rollout_verdicts"), 2 * 1000 * 3),
        (Difficulty.judge_rated, ("ratings",), 1000),
    ],
)
def test_estimate_run_includes_calls_of_the_difficulty(how: Difficulty, names: tuple[str, ...], calls: int) -> None:
    plan = CurriculumConfig(rounds=2, rows_per_round=500, difficulty=how, rollouts=RolloutConfig(num_samples=3))
    planned = estimate_run(config(curriculum=plan), SIZES)
    assert stage(planned, f"{names[-1]}-0", "judge").expected.calls == calls
    added = {row.stage for row in planned} - {row.stage for row in estimate_run(config(), SIZES)}
    assert added == {f"{name}-{number}" for name in names for number in (0, 1)}


def test_estimate_run_with_fresh_gaps_judges_new_rows_of_every_round() -> None:
    plan = CurriculumConfig(rounds=2, rows_per_round=500, gap_rows=GapRows.fresh, fresh_surplus=0.5, max_new_rows=1001)
    planned = estimate_run(config(curriculum=plan), SIZES)
    assert [row.stage for row in planned if row.role == "judge" and row.stage != "checks"] == [
        "verdicts-0",
        "fresh_verdicts-1",
        "fresh_verdicts-2",
    ]
    most = [stage(planned, f"fresh_verdicts-{number}", "judge").usable.calls for number in (1, 2)]
    assert most == [1000, 1002]
    both = estimate_run(config(curriculum=replace(plan, report_trained_gaps=True)), SIZES)
    assert stage(both, "verdicts-1", "judge").usable.calls == 1000


def test_estimate_run_counts_passes_of_easy_rows_and_replayed_rows() -> None:
    plan = CurriculumConfig(rounds=2, rows_per_round=500, alpha=0.3, delta_alpha=0.2, replay=0.5)
    plan = replace(plan, gap_rows=GapRows.fresh, drop_easy_expansions=True)
    sft = SFTConfig(seed_stage=BudgetConfig(epochs=3.0), round_stage=BudgetConfig(epochs=1.0))
    planned = estimate_run(config(curriculum=plan, sft=sft), SIZES)
    most = [stage(planned, f"fresh_verdicts-{number}", "judge").usable.calls / 2 for number in (1, 2)]
    assert most == [500 + 2 * 150, 500 + 2 * 250]
    first, second = (stage(planned, f"student-{number}", "fit").most.gpu_hours for number in (1, 2))
    assert first
    assert second == pytest.approx(1.5 * first)


def test_new_rows_follow_the_pool_and_what_is_accepted() -> None:
    """A pool without hard rows leaves all of them to the teacher, in further passes if pairs are rejected."""
    few, rejecting = (
        estimate_run(config(), SIZES, PoolShape({TaskType.MATH: 1.0}, 0.0), Assumptions(accepted=share))
        for share in (1.0, 0.5)
    )
    none = estimate_run(config(), SIZES, PoolShape({TaskType.MATH: 1.0}, 0.5))
    assert stage(few, "expansions-1", "teacher").expected.calls == 38
    assert stage(few, "expansions-1", "classifier").expected.calls == pytest.approx(0.97 * 150)
    assert stage(rejecting, "expansions-1", "teacher").expected.calls == 38 + 19 + 10
    assert stage(none, "expansions-1", "teacher").expected.calls == 0
    assert stage(few, "expansions-1", "teacher").most == stage(rejecting, "expansions-1", "teacher").most


def test_row_of_an_earlier_mix_is_refined_once() -> None:
    planned = estimate_run(config(curriculum=CurriculumConfig(rounds=2, rows_per_round=1000)), SIZES, ALL_NEW)
    first, second = (stage(planned, f"train_mix-{number}", "teacher") for number in (1, 2))
    assert first.expected.calls > 900 > second.expected.calls
    assert first.usable.calls == second.usable.calls == 1000


def test_measured_lengths_replace_the_assumed_ones() -> None:
    label = Measured(requests=20, prompt_ratio=2.0, completion=7.0, repeats=0.5, seconds=3.0)
    measured = estimate_run(config(), SIZES, None, Assumptions(measured={RequestKind.LABEL: label}))
    before, after = (
        stage(rows, "task_labels", "classifier").expected for rows in (estimate_run(config(), SIZES), measured)
    )
    assert after.calls == 1.5 * before.calls
    assert after.prompt_tokens == pytest.approx(3 * before.prompt_tokens)
    assert after.completion_tokens == 1500 * 7.0


def test_suites_of_a_run_are_calls_of_their_judges() -> None:
    evals = EvalsConfig(problems_per_level=0, suites=[Suite.lab, Suite.alpaca_eval, Suite.mt_bench, Suite.ifeval])
    evals.mt_bench.judge = JudgeConfig(llm=priced("a/gpt", 1000.0))
    planned = estimate_run(config(evals=evals), SIZES)
    assert stage(planned, "alpaca-annotations-2", "judge").expected.calls == 805
    judged = stage(planned, "mt-judgments-2", "judge")
    assert (judged.expected.calls, judged.expected.completion_tokens) == (160, 160 * 197)
    assert judged.expected.usd == pytest.approx(
        (judged.expected.prompt_tokens + judged.expected.completion_tokens) * 1000 / 1e6
    )
    answers = [row for row in planned if row.role == "student"]
    assert [row.stage for row in answers[2:]] == ["alpaca-outputs-2", "mt-answers-2", "ifeval-answers-2"]
    assert all(row.expected.gpu_hours and not row.expected.calls for row in answers)
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
    assert (
        stage(planned, "alpaca-annotations-2", "judge").expected.calls,
        stage(planned, "mt-judgments-2", "judge").expected.calls,
    ) == (
        12,
        8,
    )
    quiet = estimate_run(config(evals=replace(files, ask_judge=False)), SIZES)
    assert not any(row.stage.startswith(("alpaca-annotations", "mt-judgments")) for row in quiet)


def test_extra_rows_of_a_budget_in_epochs_count_as_training() -> None:
    def hours(budget: BudgetConfig) -> float:
        sft = SFTConfig(seed_stage=budget, round_stage=BudgetConfig(epochs=1))
        return stage(estimate_run(config(sft=sft), SIZES), "student-0", "fit").expected.gpu_hours or 0.0

    assert hours(BudgetConfig(epochs=1, extra_rows=2000)) == pytest.approx(3 * hours(BudgetConfig(epochs=1)))
