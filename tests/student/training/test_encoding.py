"""Encoding of training rows."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Subset
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.training.batching import collate
from tapir_exp.student.training.encoded_rows import MappedRows
from tapir_exp.student.training.encoding import TrainingRow, encode_rows


def test_encode_rows_joins_prompt_response_and_end(chat: Chat) -> None:
    (row,) = encode_rows([TrainingRow("Say red", "red 12", Subset.HARD)], chat, 100).rows
    assert chat.tokenizer.decode(list(row.tokens)) == "<|bos|><|user|>Say red<|end|><|assistant|>red 12<|end|>"
    assert chat.tokenizer.decode(list(row.tokens[row.prompt :])) == "red 12<|end|>"
    assert row.subset is Subset.HARD


def test_encode_rows_supervises_response_and_end_only(chat: Chat) -> None:
    rows = encode_rows([TrainingRow("Say red", "red"), TrainingRow("Say blue blue", "blue blue")], chat, 100).rows
    batch = collate(rows)
    assert batch.targets.tolist() == [token for row in rows for token in row.tokens[row.prompt :]]
    assert torch.equal(batch.tokens[batch.predictor_positions + 1], batch.targets)
    assert batch.targets.tolist().count(chat.end) == 2


@pytest.mark.slow
def test_encode_rows_to_file_equals_in_memory(chat: Chat, rows: list[TrainingRow], tmp_path: Path) -> None:
    many = rows * 200  # more than one block
    mapped, in_memory = encode_rows(many, chat, 20, file=tmp_path / "rows"), encode_rows(many, chat, 20)
    assert isinstance(mapped.rows, MappedRows)
    assert list(mapped.rows) == list(in_memory.rows)
    assert mapped.rows[3:5] == list(in_memory.rows[3:5])
    assert replace(mapped, rows=()) == replace(in_memory, rows=())
    assert in_memory.lengths == tuple(len(row.tokens) for row in in_memory.rows)
    assert (
        sum(in_memory.supervised.values())
        == sum(in_memory.supervised_lengths)
        == sum(row.supervised for row in in_memory.rows)
    )
    assert in_memory.truncated > 0


def test_encode_rows_raises_above_max_drop_rate(chat: Chat) -> None:
    rows = [TrainingRow("Say " + "red " * 40, "red"), *[TrainingRow("Say red", "red")] * 9]
    assert encode_rows(rows, chat, 20, max_drop_rate=0.1).dropped == 1
    with pytest.raises(
        TapirError, match=r"1 of 10 training rows.*raise student\.max_length, or sft\.max_drop_rate \(0\.05\)"
    ):
        encode_rows(rows, chat, 20, max_drop_rate=0.05)


def test_encode_rows_truncates_long_responses(chat: Chat) -> None:
    (whole,) = encode_rows([TrainingRow("Say red", "red " * 30)], chat, 1000).rows
    encoded = encode_rows([TrainingRow("Say red", "red " * 30), TrainingRow("Say red", "red")], chat, 20)
    assert (encoded.truncated, encoded.dropped) == (1, 0)
    assert encoded.rows[0].tokens == whole.tokens[:20]
    assert chat.end not in encoded.rows[0].tokens[whole.prompt :]


def test_encode_rows_drops_rows_without_a_response_token(chat: Chat) -> None:
    long = TrainingRow("Say " + "red " * 40, "red")
    encoded = encode_rows([long, TrainingRow("Say red", "red")], chat, 20)
    assert (len(encoded.rows), encoded.truncated, encoded.dropped) == (1, 0, 1)
    with pytest.raises(TapirError, match="None of 1 training rows"):
        encode_rows([long], chat, 20)


def test_encode_rows_drops_a_prompt_of_max_length(chat: Chat) -> None:
    (row,) = encode_rows([TrainingRow("Say red", "red")], chat, 100).rows
    with pytest.raises(TapirError):
        encode_rows([TrainingRow("Say red", "red")], chat, row.prompt)
    assert encode_rows([TrainingRow("Say red", "red")], chat, row.prompt + 1).rows[0].supervised == 1
