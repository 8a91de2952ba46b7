"""The plan of a round: its hard set, the weights of its draw, alpha, and a draw for every round and seed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from fakes import example
from workspaces import open_test_workspace

from tapir_exp import tapir
from tapir_exp.config import Config, Difficulty
from tapir_exp.core.records import Subset
from tapir_exp.core.store import Artifact
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.pool import Pool, PoolRow
from tapir_exp.distillation.curriculum.sampling import Candidate, PlanSettings, RoundPlan
from tapir_exp.tapir import State, run_round

ROWS = [PoolRow(example(f"row {n}"), TaskType.MATH, gap) for n, gap in enumerate([9.0, 6.0, 3.0, 1.0, 0.0, -2.0])]
POOL = Pool({row.example.id: row for row in ROWS}, frozenset(row.example.instruction for row in ROWS), ("seeds",))
NO_STUDENT = cast(Artifact, None)


class PlannedError(Exception):
    """Ends a round at its plan, with the arguments of `plan_round`."""

    def __init__(self, candidates: Sequence[Candidate], settings: PlanSettings) -> None:
        self.candidates, self.settings = candidates, settings


Plan = Callable[..., PlannedError]


@pytest.fixture
def plan(compose_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Run a round up to its plan, and return what it plans with."""

    def stop(pool: Sequence[Candidate], settings: PlanSettings) -> RoundPlan:
        raise PlannedError(pool, settings)

    monkeypatch.setattr(tapir, "plan_round", stop)
    config = compose_config(
        *("curriculum.delta=2", "curriculum.alpha=0.3", "curriculum.delta_alpha=0.2", "curriculum.rows_per_round=60")
    )

    def planned(number: int = 1, seed: int = 0, difficulty: Difficulty = Difficulty.mfd) -> PlannedError:
        curriculum = replace(config.curriculum, difficulty=difficulty, hard_fraction=1 / 3)
        changed = replace(config, curriculum=curriculum, seed=seed)
        state = State(NO_STUDENT, NO_STUDENT, NO_STUDENT, POOL, {TaskType.MATH: 1.0}, {}, frozenset())
        with open_test_workspace(changed, tmp_path) as ws, pytest.raises(PlannedError) as caught:
            run_round(ws, number, state)
        return caught.value

    return planned


def test_run_round_draws_the_hard_set_by_its_gaps(plan: Plan) -> None:
    candidates = [(c.difficulty, c.subset, c.weight) for c in plan().candidates]
    hard = [(gap, Subset.HARD, gap) for gap in (9.0, 6.0, 3.0)]
    assert candidates == [*hard, *((gap, Subset.REST, 1.0) for gap in (1.0, 0.0, -2.0))]


@pytest.mark.parametrize("seed", range(8))
def test_run_round_random_hard_set_has_equal_size_and_weights(plan: Plan, seed: int) -> None:
    candidates = plan(seed=seed, difficulty=Difficulty.random).candidates
    assert sum(c.subset is Subset.HARD for c in candidates) == 3
    assert {c.weight for c in candidates} == {1.0}


@pytest.mark.parametrize("difficulty", [d for d in Difficulty if d not in (Difficulty.mfd, Difficulty.random)])
def test_run_round_other_scores_select_a_fraction(plan: Plan, difficulty: Difficulty) -> None:
    """Such a score marks its fraction of the rows as hard, and guides the draw like a gap."""
    candidates = plan(difficulty=difficulty).candidates
    hard = [(c.difficulty, c.weight) for c in candidates if c.subset is Subset.HARD]
    assert hard == [(9.0, 9.0), (6.0, 6.0)]


def test_run_round_alpha_grows_from_round_to_round(plan: Plan) -> None:
    settings = [plan(number).settings for number in (1, 2, 3)]
    assert [of_round.alpha for of_round in settings] == pytest.approx([0.3, 0.5, 0.7])
    assert {of_round.rows for of_round in settings} == {60}


def test_run_round_every_round_and_seed_has_its_own_draw(plan: Plan) -> None:
    cases = [(number, seed) for number in (1, 2, 11, 12) for seed in (0, 1, 11)]
    draws = [plan(number, seed).settings.draw for number, seed in cases]
    assert len(set(draws)) == len(draws)
    assert plan(2, 1).settings.draw == plan(2, 1).settings.draw


def test_run_round_plan_settings_hold_the_whole_plan(plan: Plan) -> None:
    """They are the recipe of a plan, so every setting of the curriculum that changes a plan must be among them."""
    settings = plan(2, 5, Difficulty.eps).settings
    assert settings == PlanSettings(
        round=2,
        rows=60,
        new_share=1.0,
        alpha=0.5,
        target={TaskType.MATH: 1.0},
        difficulty=Difficulty.eps,
        delta=2.0,
        hard_fraction=1 / 3,
        beta=1.0,
        seed=5,
    )
