"""The plan of a round: exact quotas, weighted draws without repeats, requests for missing rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import yaml
from assets import ROOT
from fakes import example, plan_settings
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.core.records import Subset
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.sampling import (
    Candidate,
    PlanSettings,
    alpha_for_round,
    part_of_round,
    plan_round,
)
from tapir_exp.distillation.curriculum.task_mix import apportion, target_shares

TAPIR = target_shares(yaml.safe_load((ROOT / "conf/task_mix/tapir.yaml").read_text())["target_distribution"], {})
MATH, WRITING, LAW = TaskType.MATH, TaskType.WRITING, TaskType.LAW
HALVES = {MATH: 0.5, WRITING: 0.5}


def row(
    name: str, task: TaskType = MATH, gap: float = 3.0, subset: Subset = Subset.HARD, weight: float = 1.0
) -> Candidate:
    return Candidate(example(name), task, gap, subset, weight)


def rows_of(count: int, task: TaskType, subset: Subset, gap: float = 3.0) -> list[Candidate]:
    return [row(f"{task} {subset} {n}", task, gap, subset) for n in range(count)]


def names(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.example.instruction for candidate in candidates]


pools = st.lists(
    st.tuples(st.sampled_from((MATH, WRITING, LAW)), st.floats(-9, 9), st.sampled_from(Subset), st.floats(0.1, 9)),
    max_size=40,
).map(lambda drawn: [row(f"row {n}", *fields) for n, fields in enumerate(drawn)])
mixes = st.dictionaries(st.sampled_from((MATH, WRITING, LAW)), st.floats(0.01, 1), min_size=1)


@pytest.mark.parametrize(
    ("alpha", "step", "alphas"),
    [
        (0.3, 0.2, [0.3, 0.5, 0.7, 0.9, 1.0, 1.0]),
        (0.3, 0.0, [0.3, 0.3, 0.3]),
        (0.7, -0.2, [0.7, 0.5, 0.3, 0.1, 0.0, 0.0]),
        (1.0, 0.5, [1.0, 1.0]),
        (0.0, 0.25, [0.0, 0.25, 0.5]),
    ],
)
def test_alpha_grows_linearly_and_is_clipped(alpha: float, step: float, alphas: list[float]) -> None:
    assert [alpha_for_round(n, alpha, step) for n in range(1, len(alphas) + 1)] == pytest.approx(alphas)


@given(number=st.integers(1, 20), alpha=st.floats(0, 1), step=st.floats(-1, 1))
def test_alpha_stays_between_0_and_1(number: int, alpha: float, step: float) -> None:
    assert 0 <= alpha_for_round(number, alpha, step) <= 1
    assert (alpha_for_round(number + 1, alpha, step) - alpha_for_round(number, alpha, step)) * step >= 0


@given(pool=pools, shares=mixes, rows=st.integers(0, 60), alpha=st.floats(0, 1), seed=st.integers(0, 3))
def test_plan_counts_add_up(
    pool: list[Candidate], shares: dict[TaskType, float], rows: int, alpha: float, seed: int
) -> None:
    plan = plan_round(pool, plan_settings(shares, rows, alpha, seed))
    by_subset = Counter({subset: sum(q.wanted for q in plan.quotas if q.subset is subset) for subset in Subset})
    assert by_subset == {Subset.HARD: round(alpha * rows), Subset.REST: rows - round(alpha * rows)}
    assert len(plan.drawn) + sum(request.count for request in plan.requests) == rows
    drawn = Counter((candidate.task, candidate.subset) for candidate in plan.drawn)
    requested = Counter({(request.task, request.subset): request.count for request in plan.requests})
    for quota in plan.quotas:
        assert quota.wanted == quota.drawn + quota.ordered
        assert (quota.drawn, quota.ordered) == (drawn[quota.task, quota.subset], requested[quota.task, quota.subset])
        assert quota.filled == 0
    assert len(plan.quotas) == 2 * len(shares)
    for task, share in shares.items():
        wanted = sum(quota.wanted for quota in plan.quotas if quota.task is task)
        assert abs(wanted - rows * share / sum(shares.values())) <= 1 + 1e-6


@given(pool=pools, shares=mixes, rows=st.integers(0, 60), alpha=st.floats(0, 1), data=st.data())
def test_plan_draws_without_repeats_for_any_pool_order(
    pool: list[Candidate], shares: dict[TaskType, float], rows: int, alpha: float, data: st.DataObject
) -> None:
    plan = plan_round(pool, plan_settings(shares, rows, alpha))
    ids = [candidate.example.id for candidate in plan.drawn]
    assert len(set(ids)) == len(ids)
    assert all(candidate in pool for candidate in plan.drawn)
    again = plan_round(data.draw(st.permutations(pool)), plan_settings(shares, rows, alpha))
    assert (again.drawn, again.quotas) == (plan.drawn, plan.quotas)
    assert [request.examples for request in again.requests] == [request.examples for request in plan.requests]


@given(pool=pools, shares=mixes, rows=st.integers(0, 60), alpha=st.floats(0, 1))
def test_plan_requests_only_what_the_pool_lacks(
    pool: list[Candidate], shares: dict[TaskType, float], rows: int, alpha: float
) -> None:
    plan = plan_round(pool, plan_settings(shares, rows, alpha))
    held = Counter((candidate.task, candidate.subset) for candidate in pool)
    for request in plan.requests:
        assert request.count > 0
        drawn = sum((candidate.task, candidate.subset) == (request.task, request.subset) for candidate in plan.drawn)
        assert drawn == held[request.task, request.subset]


new_shares = st.none() | st.floats(0, 1)
limits = st.none() | st.integers(1, 70)


@given(
    pool=pools,
    shares=mixes,
    rows=st.integers(0, 60),
    alpha=st.floats(0, 1),
    new_share=new_shares,
    limit=limits,
    surplus=st.sampled_from((0.0, 0.25, 1.0)),
)
def test_plan_with_new_share_and_limit_keeps_quotas_exact(
    pool: list[Candidate],
    shares: dict[TaskType, float],
    rows: int,
    alpha: float,
    new_share: float | None,
    limit: int | None,
    surplus: float,
) -> None:
    settings = replace(plan_settings(shares, rows, alpha), new_share=new_share, max_new_rows=limit, surplus=surplus)
    plan = plan_round(pool, settings)
    size = sum(quota.wanted for quota in plan.quotas)
    assert size == rows if limit is None else size <= rows
    hard = sum(quota.wanted for quota in plan.quotas if quota.subset is Subset.HARD)
    assert hard == round(alpha * size)
    for task, share in shares.items():
        wanted = sum(quota.wanted for quota in plan.quotas if quota.task is task)
        assert abs(wanted - size * share / sum(shares.values())) <= 1 + 1e-6
    drawn = Counter((candidate.task, candidate.subset) for candidate in plan.drawn)
    spare = Counter((candidate.task, candidate.subset) for candidate in plan.spare)
    held = Counter((candidate.task, candidate.subset) for candidate in pool)
    for quota in plan.quotas:
        kind = quota.task, quota.subset
        assert quota.wanted == quota.drawn + quota.ordered
        assert quota.drawn == drawn[kind] <= held[kind]
        assert spare[kind] == (held[kind] - drawn[kind] if quota.ordered else 0)
    requested = sum(request.count for request in plan.requests)
    assert limit is None or requested <= limit
    ordered = sum(quota.ordered for quota in plan.quotas)
    assert ordered <= requested <= ordered * (1 + surplus) + 1e-6
    if new_share is not None and limit is None:
        assert ordered >= round(new_share * size)
        assert all(quota.ordered >= new_share * quota.wanted - 1 - 1e-6 for quota in plan.quotas)


@pytest.mark.parametrize(("limit", "rows", "new"), [(None, 40, 10), (24, 40, 24), (10, 40, 10), (7, 35, 7), (1, 23, 1)])
def test_plan_limit_takes_further_new_rows_first(limit: int | None, rows: int, new: int) -> None:
    """The pool lacks ten rows of one type. A limit below that makes the mix smaller; above it, `new_share` fills it."""
    pool = rows_of(30, MATH, Subset.REST) + rows_of(10, WRITING, Subset.REST)
    share = None if limit is None else 1.0
    settings = replace(plan_settings(HALVES, 40, 0.0), new_share=share, max_new_rows=limit)
    plan = plan_round(pool, settings)
    assert (len(plan.drawn) + new, sum(request.count for request in plan.requests)) == (rows, new)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_plan_new_share_holds_in_every_part(share: float) -> None:
    pool = [row for task in HALVES for subset in Subset for row in rows_of(60, task, subset)]
    plan = plan_round(pool, replace(plan_settings(HALVES, 80, 0.5), new_share=share))
    assert [(q.wanted, q.ordered) for q in plan.quotas] == [(20, 20 * share)] * 4


@given(total=st.integers(0, 50), rounds=st.integers(1, 7))
def test_part_of_round_parts_sum_to_the_total(total: int, rounds: int) -> None:
    parts = [part_of_round(total, number, rounds) for number in range(1, rounds + 1)]
    assert sum(part or 0 for part in parts) == total
    assert set(parts) <= {total // rounds, -(-total // rounds)}
    assert part_of_round(None, 1, rounds) is None


def test_plan_recipe_holds_a_later_setting_only_if_it_is_used() -> None:
    plain = plan_settings(HALVES, 40, 0.5)
    assert set(plain.recipe()) == set(PlanSettings.__dataclass_fields__) - {
        *("new_share", "max_new_rows", "surplus", "min_examples", "min_confidence")
    }
    assert replace(plain, new_share=0.5).recipe() == plain.recipe() | {"new_share": 0.5}


def test_plan_keeps_the_target_mix_in_both_subsets() -> None:
    plan = plan_round([], plan_settings(TAPIR, 2000, 0.3))
    for subset, rows in ((Subset.HARD, 600), (Subset.REST, 1400)):
        assert {q.task: q.wanted for q in plan.quotas if q.subset is subset} == apportion(rows, TAPIR)


def test_plan_for_32_types_from_a_pool_of_one_type() -> None:
    pool = rows_of(200, WRITING, Subset.HARD) + rows_of(300, WRITING, Subset.REST, gap=0.0)
    plan = plan_round(pool, plan_settings(TAPIR, 500, 0.3))
    wanted = Counter(dict.fromkeys(TaskType, 0))
    for quota in plan.quotas:
        wanted[quota.task] += quota.wanted
    for task, share in TAPIR.items():
        assert abs(wanted[task] - 500 * share) <= 1 + 1e-9
    assert {candidate.task for candidate in plan.drawn} == {WRITING}
    assert {request.task for request in plan.requests} == set(TaskType) - {WRITING}
    requested = Counter({task: sum(r.count for r in plan.requests if r.task is task) for task in TaskType})
    assert all(requested[task] == wanted[task] > 0 for task in TaskType if task is not WRITING)
    assert len(plan.drawn) + requested.total() == 500


def test_plan_draw_depends_on_seed_and_round_only() -> None:
    pool = rows_of(60, MATH, Subset.HARD) + rows_of(60, MATH, Subset.REST)
    draws = [(1, 1), (1, 1), (1, 2), (2, 1)]
    plans = [plan_round(pool, plan_settings({MATH: 1.0}, 20, 0.5, seed, number)) for seed, number in draws]
    drawn = [names(plan.drawn) for plan in plans]
    assert drawn[0] == drawn[1]
    for subset in Subset:
        by_draw = [frozenset(c.example.id for c in plan.drawn if c.subset is subset) for plan in plans]
        assert by_draw[0] == by_draw[1]
        assert len(set(by_draw)) == 3


def first_draw_shares(pool: Sequence[Candidate], alpha: float, draws: int) -> dict[str, float]:
    """Return the share of each row over many draws of one row."""
    plans = [plan_round(pool, plan_settings({MATH: 1.0}, 1, alpha, seed)) for seed in range(draws)]
    counts = Counter(names(plan.drawn)[0] for plan in plans)
    return {name: counts[name] / draws for name in names(pool)}


@pytest.mark.parametrize("subset", Subset)
def test_plan_draws_rows_in_proportion_to_their_weights(subset: Subset) -> None:
    pool = [
        row("one", subset=subset, weight=0.5),
        row("three", subset=subset, weight=1.5),
        row("six", subset=subset, weight=3.0),
    ]
    shares = first_draw_shares(pool, float(subset is Subset.HARD), 1500)
    assert shares == {name: pytest.approx(share, abs=0.05) for name, share in zip(shares, (0.1, 0.3, 0.6), strict=True)}


@pytest.mark.parametrize("subset", Subset)
def test_plan_draw_ignores_gaps_of_equal_weights(subset: Subset) -> None:
    pool = [
        row("near", gap=0.5, subset=subset),
        row("far", gap=9.0, subset=subset),
        row("below", gap=-9.0, subset=subset),
    ]
    shares = first_draw_shares(pool, float(subset is Subset.HARD), 1500)
    assert shares == dict.fromkeys(shares, pytest.approx(1 / 3, abs=0.05))  # 4 sd


def test_candidate_weight_defaults_to_1() -> None:
    assert Candidate(example("plain"), MATH, 9.0, Subset.HARD).weight == 1.0


def test_plan_draws_a_light_row_if_it_is_the_only_one() -> None:
    assert names(plan_round([row("only", weight=0.1)], plan_settings({MATH: 1.0}, 1, 1.0)).drawn) == ["only"]


def test_plan_prefers_heavy_rows_within_a_type_only() -> None:
    pool = [row(f"light {n}", weight=0.1) for n in range(20)] + [row(f"heavy {n}", weight=9.0) for n in range(20)]
    pool += [row("law", LAW, weight=0.1)]
    drawn = names(plan_round(pool, plan_settings({MATH: 20.0 / 21, LAW: 1.0 / 21}, 21, 1.0)).drawn)
    assert sum(name.startswith("heavy") for name in drawn) >= 16
    assert "law" in drawn


def test_request_shows_rows_of_its_type_and_subset() -> None:
    pool = rows_of(2, MATH, Subset.HARD) + rows_of(3, MATH, Subset.REST) + rows_of(2, WRITING, Subset.HARD)
    plan = plan_round(pool, plan_settings(HALVES, 20, 0.5))
    shown = {(request.task, request.subset): set(names(request.examples)) for request in plan.requests}
    assert shown[MATH, Subset.HARD] == {"Math hard 0", "Math hard 1"}
    assert shown[MATH, Subset.REST] == {"Math rest 0", "Math rest 1", "Math rest 2"}
    assert shown[WRITING, Subset.HARD] == {"Writing hard 0", "Writing hard 1"}


def test_request_of_an_empty_subset_shows_the_other_subset() -> None:
    plan = plan_round(rows_of(3, WRITING, Subset.HARD), plan_settings(HALVES, 20, 0.5))
    shown = {(request.task, request.subset): names(request.examples) for request in plan.requests}
    assert sorted(shown[WRITING, Subset.REST]) == [f"Writing hard {n}" for n in range(3)]


def test_request_of_a_missing_type_shows_no_example() -> None:
    plan = plan_round(rows_of(30, MATH, Subset.HARD), plan_settings(HALVES, 20, 0.5))
    assert [request.examples for request in plan.requests if request.task is WRITING] == [(), ()]


@pytest.mark.parametrize(
    ("minimum", "least", "shown"),
    [
        (0, 0.0, ["hard unsure", "hard sure"]),
        (3, 0.0, ["hard unsure", "hard sure", "rest unsure"]),
        (0, 0.5, ["hard sure"]),
        (2, 0.5, ["hard sure", "rest unknown"]),
        (9, 0.5, ["hard sure", "rest unknown"]),
        (0, 0.99, ["rest unknown"]),
    ],
)
def test_request_shows_confident_rows_and_at_least_so_many(minimum: int, least: float, shown: list[str]) -> None:
    """Rows of the other subset fill up, in the order of the draw; a row without a confidence counts as sure."""
    confidences = {"hard sure": 0.9, "hard unsure": 0.2, "rest unsure": 0.1, "rest unknown": None}
    pool = [
        replace(row(name, subset=Subset(name[:4])), confidence=confidence) for name, confidence in confidences.items()
    ]
    settings = replace(plan_settings({MATH: 1.0}, 20, 1.0), min_examples=minimum, min_confidence=least)
    (request,) = plan_round(pool, settings).requests
    assert sorted(names(request.examples)) == sorted(shown)


def test_request_shows_unsure_rows_rather_than_none() -> None:
    pool = [replace(row("unsure"), confidence=0.2)]
    (request,) = plan_round(pool, replace(plan_settings({MATH: 1.0}, 20, 1.0), min_confidence=0.9)).requests
    assert names(request.examples) == ["unsure"]


def test_equal_requests_are_distinct_keys() -> None:
    first, second = (plan_round([], plan_settings({MATH: 1.0}, 4, 1.0)).requests[0] for _ in range(2))
    assert len({first: 1, second: 2}) == 2
