"""Encoding of training rows."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tapir_exp.config import BudgetConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Subset
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.training.batching import StepBatch, StepLoader, collate, divide_step, plan_batches
from tapir_exp.student.training.encoded_rows import MappedRows, EncodedRow, write_rows_to_map
from tapir_exp.student.training.encoding import TrainingRow, encode_rows

LENGTHS = [3 + (7 * n) % 40 for n in range(100)]


def make_row(length: int, prompt: int, subset: Subset = Subset.REST) -> EncodedRow:
    return EncodedRow(tuple(range(10, 10 + length)), prompt, subset)


def test_row_is_prompt_response_end(chat: Chat) -> None:
    (row,) = encode_rows([TrainingRow("Say red", "red 12", Subset.HARD)], chat, 100).rows
    assert chat.tokenizer.decode(list(row.tokens)) == "<|bos|><|user|>Say red<|end|><|assistant|>red 12<|end|>"
    assert chat.tokenizer.decode(list(row.tokens[row.prompt :])) == "red 12<|end|>"
    assert row.subset is Subset.HARD


def test_only_response_and_end_are_supervised(chat: Chat) -> None:
    rows = encode_rows([TrainingRow("Say red", "red"), TrainingRow("Say blue blue", "blue blue")], chat, 100).rows
    batch = collate(rows)
    assert batch.targets.tolist() == [token for row in rows for token in row.tokens[row.prompt :]]
    assert torch.equal(batch.tokens[batch.predictor_positions + 1], batch.targets)
    assert batch.targets.tolist().count(chat.end) == 2


def test_rows_mapped_from_a_file_are_those_in_memory(chat: Chat, rows: list[TrainingRow], tmp_path: Path) -> None:
    many = rows * 200  # more than one block
    mapped, held = encode_rows(many, chat, 20, file=tmp_path / "rows"), encode_rows(many, chat, 20)
    assert isinstance(mapped.rows, MappedRows)
    assert list(mapped.rows) == list(held.rows)
    assert mapped.rows[3:5] == list(held.rows[3:5])
    assert replace(mapped, rows=()) == replace(held, rows=())
    assert held.lengths == tuple(len(row.tokens) for row in held.rows)
    assert sum(held.supervised.values()) == sum(held.targets) == sum(row.supervised for row in held.rows)
    assert held.truncated > 0


def test_mapped_rows_are_not_held_in_memory(chat: Chat, tmp_path: Path) -> None:
    """An Arrow file of 50 MB takes far less of the process's own memory."""
    import pyarrow as pa

    before = pa.total_allocated_bytes()
    long = EncodedRow(tuple(range(4000)), 5, Subset.HARD)
    mapped = write_rows_to_map((long for _ in range(3000)), tmp_path / "rows")
    assert (tmp_path / "rows").stat().st_size > 45e6
    assert mapped[2999] == long
    assert pa.total_allocated_bytes() - before < 1e6


def test_a_share_of_dropped_rows_is_too_much(chat: Chat) -> None:
    rows = [TrainingRow("Say " + "red " * 40, "red"), *[TrainingRow("Say red", "red")] * 9]
    assert encode_rows(rows, chat, 20, max_dropped=0.1).dropped == 1
    with pytest.raises(
        TapirError, match=r"1 of 10 training rows.*raise student\.max_length, or sft\.max_dropped \(0\.05\)"
    ):
        encode_rows(rows, chat, 20, max_dropped=0.05)


def test_long_rows_lose_the_end_of_their_response(chat: Chat) -> None:
    (whole,) = encode_rows([TrainingRow("Say red", "red " * 30)], chat, 1000).rows
    encoded = encode_rows([TrainingRow("Say red", "red " * 30), TrainingRow("Say red", "red")], chat, 20)
    assert (encoded.truncated, encoded.dropped) == (1, 0)
    assert encoded.rows[0].tokens == whole.tokens[:20]
    assert chat.end not in encoded.rows[0].tokens[whole.prompt :]


def test_rows_without_a_supervised_token_are_dropped(chat: Chat) -> None:
    long = TrainingRow("Say " + "red " * 40, "red")
    encoded = encode_rows([long, TrainingRow("Say red", "red")], chat, 20)
    assert (len(encoded.rows), encoded.truncated, encoded.dropped) == (1, 0, 1)
    with pytest.raises(TapirError, match="None of 1 training rows"):
        encode_rows([long], chat, 20)


def test_prompt_of_exactly_the_limit_has_no_supervised_token(chat: Chat) -> None:
    (row,) = encode_rows([TrainingRow("Say red", "red")], chat, 100).rows
    with pytest.raises(TapirError):
        encode_rows([TrainingRow("Say red", "red")], chat, row.prompt)
    assert encode_rows([TrainingRow("Say red", "red")], chat, row.prompt + 1).rows[0].supervised == 1


@pytest.mark.parametrize(("epochs", "expected"), [(1.0, 100), (2.0, 200), (1.5, 150), (0.0, 0)])
def test_epochs_are_passes_over_the_rows(epochs: float, expected: int) -> None:
    plan = plan_batches(LENGTHS, BudgetConfig(epochs=epochs), 8, seed=0)
    seen = Counter(row for step in plan.steps for row in step)
    assert seen.total() == expected
    assert max(seen.values(), default=0) <= epochs + 1
    if epochs == 2:
        assert set(seen.values()) == {2}


@pytest.mark.parametrize("budget", [1, 500, 5000])
def test_token_budget_is_exceeded_by_less_than_a_row(budget: int) -> None:
    plan = plan_batches(LENGTHS, BudgetConfig(max_tokens=budget), 8, seed=0)
    rows = [row for step in plan.steps for row in step]
    spent = sum(LENGTHS[row] for row in rows)
    assert budget <= spent < budget + LENGTHS[rows[-1]]


def test_plan_depends_on_the_seed_alone() -> None:
    budget = BudgetConfig(epochs=2)
    plans = [plan_batches(LENGTHS, budget, 8, seed=seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    first, second = plans[0].steps[:13], plans[0].steps[13:]
    assert set(first) != set(second)


def test_batches_are_grouped_by_length_and_shuffled() -> None:
    lengths = LENGTHS * 10
    plan = plan_batches(lengths, BudgetConfig(epochs=1), 8, seed=0)
    spread = [max(lengths[row] for row in step) - min(lengths[row] for row in step) for step in plan.steps]
    assert sum(spread) / len(spread) < 5
    one_group = plan_batches(LENGTHS, BudgetConfig(epochs=1), 8, seed=0)
    longest = [max(LENGTHS[row] for row in step) for step in one_group.steps]
    assert longest != sorted(longest)


def test_rows_are_packed_behind_one_another() -> None:
    batch = collate([make_row(5, 2), make_row(3, 1, Subset.HARD)])
    assert batch.tokens.tolist() == [10, 11, 12, 13, 14, 10, 11, 12]
    assert batch.bounds.lengths == (5, 3)
    assert batch.bounds.starts.tolist() == [0, 5, 8]
    assert batch.bounds.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.predictor_positions.tolist() == [1, 2, 3, 5, 6]
    assert batch.targets.tolist() == [12, 13, 14, 11, 12]
    assert batch.hard.tolist() == [False] * 3 + [True] * 2


def test_a_row_without_a_supervised_token_has_no_target() -> None:
    batch = collate([make_row(4, 4)])
    assert (batch.predictor_positions.tolist(), batch.targets.tolist(), batch.hard.tolist()) == ([], [], [])


@pytest.mark.parametrize(("limit", "ranks"), [(1, 1), (60, 1), (10_000, 1), (60, 2), (10_000, 4)])
def test_a_step_is_divided_into_as_few_equal_micro_batches_as_fit(limit: int, ranks: int) -> None:
    shares = divide_step(LENGTHS, limit, ranks)
    assert sorted(place for share in shares for place in share) == list(range(len(LENGTHS)))
    assert len(shares) % ranks == 0
    sizes = [sum(LENGTHS[place] for place in share) for share in shares]
    assert all(size <= limit or len(share) == 1 for size, share in zip(sizes, shares, strict=True))
    if limit == 60:
        assert sum(sizes) / limit <= len(shares) <= sum(sizes) / limit * 1.1 + ranks
    if limit == 10_000:
        assert len(shares) == ranks
        assert max(sizes) - min(sizes) < max(LENGTHS)


def test_fewer_rows_than_ranks_leave_empty_micro_batches() -> None:
    assert sorted(divide_step([5, 3], 100, ranks=3)) == [[], [0], [1]]


def same(left: StepBatch, right: StepBatch) -> bool:
    return all(
        torch.equal(a.tokens, b.tokens) and torch.equal(a.targets, b.targets)
        for a, b in zip(left.micro_batches, right.micro_batches, strict=True)
    )


def test_loader_goes_on_where_its_state_was_taken() -> None:
    rows = [make_row(length, 1) for length in LENGTHS]
    plan = plan_batches(LENGTHS, BudgetConfig(epochs=1), 8, seed=0)
    whole = list(StepLoader(rows, plan, 60))
    walker = StepLoader(rows, plan, 60)
    steps = iter(walker)
    for _ in range(5):
        next(steps)
    resumed = StepLoader(rows, plan, 60)
    resumed.load_state_dict(walker.state_dict())
    rest = list(resumed)
    assert len(resumed) == len(whole) == len(rest) + 5
    assert all(same(a, b) for a, b in zip(whole[5:], rest, strict=True))
    assert len(list(resumed)) == len(whole)


@pytest.mark.parametrize("global_batch_size", [9, 2])
def test_ranks_share_a_step_and_go_through_the_model_as_often(global_batch_size: int) -> None:
    """Two rows for three ranks leave one of them a token that teaches nothing."""
    rows = [make_row(length, 2) for length in LENGTHS]
    plan = plan_batches(LENGTHS, BudgetConfig(epochs=1), global_batch_size, seed=0)
    loaders = [StepLoader(rows, plan, 60, rank, 3) for rank in range(3)]
    for steps in zip(*loaders, strict=True):
        assert len({len(step.micro_batches) for step in steps}) == 1
        assert len({(step.lengths, step.supervised) for step in steps}) == 1
        micros = [micro for step in steps for micro in step.micro_batches]
        assert sum(len(micro.targets) for micro in micros) == steps[0].supervised
        taught = [length for micro in micros if len(micro.targets) for length in micro.bounds.lengths]
        assert sorted(taught) == sorted(steps[0].lengths)
        assert all(len(micro.tokens) == 1 for micro in micros if not len(micro.targets))


def test_step_counts_tokens_over_all_its_micro_batches() -> None:
    rows = [make_row(length, 2) for length in LENGTHS]
    plan = plan_batches(LENGTHS, BudgetConfig(epochs=1), 9, seed=0)
    for step, indices in zip(StepLoader(rows, plan, 60), plan.steps, strict=True):
        assert sum(len(micro.bounds.lengths) for micro in step.micro_batches) == len(indices)
        assert max(len(micro.tokens) for micro in step.micro_batches) <= 60
        assert step.tokens == sum(LENGTHS[index] for index in indices)
        assert step.supervised == step.tokens - 2 * len(indices)
