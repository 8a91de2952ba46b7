"""What a round hands to its plan: the share of hard rows, weights that follow the scores or not, a draw of its own."""

from collections.abc import Sequence
from typing import cast

import pytest
from fakes import example
from omegaconf import OmegaConf

from tapir_exp import tapir
from tapir_exp.config import CurriculumConfig, Difficulty
from tapir_exp.core.records import Subset
from tapir_exp.core.store import Artifact
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.pool import Pool, PoolRow
from tapir_exp.distillation.curriculum.sampling import Candidate, RoundPlan
from tapir_exp.distillation.curriculum.task_mix import Shares
from tapir_exp.pipeline.workspace import Workspace
from tapir_exp.tapir import State, run_round

ROWS = [PoolRow(example(f"row {n}"), TaskType.MATH, gap) for n, gap in enumerate([9.0, 6.0, 3.0, 1.0, 0.0, -2.0])]
POOL = Pool({row.example.id: row for row in ROWS}, frozenset(row.example.instruction for row in ROWS), ("seeds",))


class PlannedError(Exception):
    """Ends a round where its plan is made."""

    def __init__(self, candidates: Sequence[Candidate], rows: int, alpha: float, draw: str) -> None:
        self.candidates, self.rows, self.alpha, self.draw = candidates, rows, alpha, draw


def planned(
    monkeypatch: pytest.MonkeyPatch, number: int = 1, seed: int = 0, how: Difficulty = Difficulty.mfd
) -> PlannedError:
    """What a round asks `plan_round` for."""

    def plan_round(pool: Sequence[Candidate], shares: Shares, rows: int, alpha: float, draw: str) -> RoundPlan:
        raise PlannedError(pool, rows, alpha, draw)

    monkeypatch.setattr(tapir, "plan_round", plan_round)
    curriculum = CurriculumConfig(
        delta=2.0, alpha=0.3, delta_alpha=0.2, rows_per_round=60, difficulty=how, hard_fraction=1 / 3
    )
    ws = OmegaConf.create({"config": {"curriculum": OmegaConf.structured(curriculum), "seed": seed}})
    state = State(cast(Artifact, None), POOL, {TaskType.MATH: 1.0}, {})
    with pytest.raises(PlannedError) as caught:
        run_round(cast(Workspace, ws), state, number)
    return caught.value


def test_the_hard_set_is_drawn_by_its_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(c.difficulty, c.subset, c.weight) for c in planned(monkeypatch).candidates]
    hard = [(gap, Subset.HARD, gap) for gap in (9.0, 6.0, 3.0)]
    assert found == [*hard, *((gap, Subset.REST, 1.0) for gap in (1.0, 0.0, -2.0))]


@pytest.mark.parametrize("seed", range(8))
def test_the_random_hard_set_is_as_large_and_not_guided_by_gaps(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    candidates = planned(monkeypatch, seed=seed, how=Difficulty.random).candidates
    assert sum(c.subset is Subset.HARD for c in candidates) == 3
    assert {c.weight for c in candidates} == {1.0}


@pytest.mark.parametrize("how", [how for how in Difficulty if how not in (Difficulty.mfd, Difficulty.random)])
def test_another_score_marks_its_share_and_guides_the_draw(monkeypatch: pytest.MonkeyPatch, how: Difficulty) -> None:
    candidates = planned(monkeypatch, how=how).candidates
    hard = [(c.difficulty, c.weight) for c in candidates if c.subset is Subset.HARD]
    assert hard == [(9.0, 9.0), (6.0, 6.0)]


def test_alpha_grows_from_round_to_round(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [planned(monkeypatch, number) for number in (1, 2, 3)]
    assert [plan.alpha for plan in plans] == pytest.approx([0.3, 0.5, 0.7])
    assert {plan.rows for plan in plans} == {60}


def test_every_round_and_seed_is_a_draw_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(number, seed) for number in (1, 2, 11, 12) for seed in (0, 1, 11)]
    draws = [planned(monkeypatch, number, seed).draw for number, seed in cases]
    assert len(set(draws)) == len(draws)
    assert planned(monkeypatch, 2, 1).draw == planned(monkeypatch, 2, 1).draw
