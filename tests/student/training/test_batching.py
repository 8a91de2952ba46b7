"""Plans, micro-batches and the loader of a fit."""

from collections import Counter

import pytest
import torch

from tapir_exp.config import BudgetConfig
from tapir_exp.core.records import Subset
from tapir_exp.student.training.batching import StepBatch, StepLoader, collate, divide_step, plan_batches
from tapir_exp.student.training.encoded_rows import EncodedRow

LENGTHS = [3 + (7 * n) % 40 for n in range(100)]


def make_row(length: int, prompt: int, subset: Subset = Subset.REST) -> EncodedRow:
    return EncodedRow(tuple(range(10, 10 + length)), prompt, subset)


@pytest.mark.parametrize(("epochs", "expected"), [(1.0, 100), (2.0, 200), (1.5, 150), (0.0, 0)])
def test_plan_batches_epochs_are_passes_over_the_rows(epochs: float, expected: int) -> None:
    plan = plan_batches(LENGTHS, BudgetConfig(epochs=epochs), 8, seed=0)
    seen = Counter(row for step in plan.steps for row in step)
    assert seen.total() == expected
    assert max(seen.values(), default=0) <= epochs + 1
    if epochs == 2:
        assert set(seen.values()) == {2}


@pytest.mark.parametrize("budget", [1, 500, 5000])
def test_plan_batches_exceeds_max_tokens_by_less_than_a_row(budget: int) -> None:
    plan = plan_batches(LENGTHS, BudgetConfig(max_tokens=budget), 8, seed=0)
    rows = [row for step in plan.steps for row in step]
    spent = sum(LENGTHS[row] for row in rows)
    assert budget <= spent < budget + LENGTHS[rows[-1]]


def test_plan_batches_same_seed_gives_same_plan() -> None:
    budget = BudgetConfig(epochs=2)
    plans = [plan_batches(LENGTHS, budget, 8, seed=seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    first, second = plans[0].steps[:13], plans[0].steps[13:]
    assert set(first) != set(second)


def test_plan_batches_order_ignores_the_lengths() -> None:
    """A batch has rows of all lengths, so that it has all task types."""
    plan, mirrored = (plan_batches(lengths, BudgetConfig(epochs=1), 8, 0) for lengths in (LENGTHS, LENGTHS[::-1]))
    assert plan == mirrored
    spread = [max(LENGTHS[row] for row in step) - min(LENGTHS[row] for row in step) for step in plan.steps]
    assert sum(spread) / len(spread) > 25
    order = [row for step in plan.steps for row in step]
    assert order != sorted(order)


def test_collate_packs_rows_into_one_sequence() -> None:
    batch = collate([make_row(5, 2), make_row(3, 1, Subset.HARD)])
    assert batch.tokens.tolist() == [10, 11, 12, 13, 14, 10, 11, 12]
    assert batch.bounds.lengths == (5, 3)
    assert batch.bounds.starts.tolist() == [0, 5, 8]
    assert batch.bounds.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.predictor_positions.tolist() == [1, 2, 3, 5, 6]
    assert batch.targets.tolist() == [12, 13, 14, 11, 12]
    assert batch.hard.tolist() == [False] * 3 + [True] * 2


def test_collate_row_without_response_has_no_target() -> None:
    batch = collate([make_row(4, 4)])
    assert (batch.predictor_positions.tolist(), batch.targets.tolist(), batch.hard.tolist()) == ([], [], [])


@pytest.mark.parametrize(("max_tokens", "num_ranks"), [(1, 1), (60, 1), (10_000, 1), (60, 2), (10_000, 4)])
def test_divide_step_gives_few_micro_batches_of_equal_size(max_tokens: int, num_ranks: int) -> None:
    shares = divide_step(LENGTHS, max_tokens, num_ranks)
    assert sorted(index for share in shares for index in share) == list(range(len(LENGTHS)))
    assert len(shares) % num_ranks == 0
    sizes = [sum(LENGTHS[index] for index in share) for share in shares]
    assert all(size <= max_tokens or len(share) == 1 for size, share in zip(sizes, shares, strict=True))
    if max_tokens == 60:
        assert sum(sizes) / max_tokens <= len(shares) <= sum(sizes) / max_tokens * 1.1 + num_ranks
    if max_tokens == 10_000:
        assert len(shares) == num_ranks
        assert max(sizes) - min(sizes) < max(LENGTHS)


def test_divide_step_fewer_rows_than_ranks_leaves_empty_shares() -> None:
    assert sorted(divide_step([5, 3], 100, num_ranks=3)) == [[], [0], [1]]


def equal_steps(left: StepBatch, right: StepBatch) -> bool:
    return all(
        torch.equal(a.tokens, b.tokens) and torch.equal(a.targets, b.targets)
        for a, b in zip(left.micro_batches, right.micro_batches, strict=True)
    )


def test_step_loader_resumes_from_its_state() -> None:
    rows = [make_row(length, 1) for length in LENGTHS]
    plan = plan_batches(LENGTHS, BudgetConfig(epochs=1), 8, seed=0)
    whole = list(StepLoader(rows, plan, 60))
    loader = StepLoader(rows, plan, 60)
    steps = iter(loader)
    for _ in range(5):
        next(steps)
    resumed = StepLoader(rows, plan, 60)
    resumed.load_state_dict(loader.state_dict())
    rest = list(resumed)
    assert len(resumed) == len(whole) == len(rest) + 5
    assert all(equal_steps(a, b) for a, b in zip(whole[5:], rest, strict=True))
    assert len(list(resumed)) == len(whole)


@pytest.mark.parametrize("global_batch_size", [9, 2])
def test_step_loader_ranks_share_a_step_in_as_many_passes(global_batch_size: int) -> None:
    """With two rows for three ranks, one rank gets a token without a target."""
    rows = [make_row(length, 2) for length in LENGTHS]
    plan = plan_batches(LENGTHS, BudgetConfig(epochs=1), global_batch_size, seed=0)
    loaders = [StepLoader(rows, plan, 60, rank, 3) for rank in range(3)]
    for steps in zip(*loaders, strict=True):
        assert len({len(step.micro_batches) for step in steps}) == 1
        assert len({(step.lengths, step.supervised) for step in steps}) == 1
        micros = [micro for step in steps for micro in step.micro_batches]
        assert sum(len(micro.targets) for micro in micros) == steps[0].supervised
        trained = [length for micro in micros if len(micro.targets) for length in micro.bounds.lengths]
        assert sorted(trained) == sorted(steps[0].lengths)
        assert all(len(micro.tokens) == 1 for micro in micros if not len(micro.targets))


def test_step_batch_counts_tokens_of_all_micro_batches() -> None:
    rows = [make_row(length, 2) for length in LENGTHS]
    plan = plan_batches(LENGTHS, BudgetConfig(epochs=1), 9, seed=0)
    for step, indices in zip(StepLoader(rows, plan, 60), plan.steps, strict=True):
        assert sum(len(micro.bounds.lengths) for micro in step.micro_batches) == len(indices)
        assert max(len(micro.tokens) for micro in step.micro_batches) <= 60
        assert step.tokens == sum(LENGTHS[index] for index in indices)
        assert step.supervised == step.tokens - 2 * len(indices)
