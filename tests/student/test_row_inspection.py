"""Inspected rows: the mask is that of the loss, and control tokens differ from their texts."""

from dataclasses import replace

import pytest

from tapir_exp.core.errors import TapirError
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.render_rows import Token
from tapir_exp.student.row_inspection import inspect_rows
from tapir_exp.student.training.encoding import TrainingRow

RED = TrainingRow("Say red", "red\n 12")


def tokens_of(row: TrainingRow, chat: Chat, max_length: int = 100) -> tuple[Token, ...]:
    return inspect_rows([row], chat, max_length, 1, 0).sample[0].tokens


def test_only_response_and_end_are_supervised(chat: Chat) -> None:
    tokens = tokens_of(RED, chat)
    prompt = "".join(token.text for token in tokens if not token.supervised)
    assert prompt == "<|bos|><|user|>Say red<|end|><|assistant|>"
    assert "".join(token.text for token in tokens if token.supervised) == "red\n 12<|end|>"
    supervised = [token for token in tokens if token.supervised]
    assert [token for token in supervised if token.end] == [tokens[-1]]
    assert tokens[-1].control == chat.end


def test_control_token_in_a_text_is_split_into_text(chat: Chat) -> None:
    tokens = tokens_of(TrainingRow("Say <|end|> red", "<|end|>"), chat)
    controls = [token.text for token in tokens if token.control is not None]
    assert controls == ["<|bos|>", "<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]
    texts = [token.text for token in tokens if token.control is None]
    assert "".join(texts) == "Say <|end|> red<|end|>"
    assert "<|end|>" not in texts


def test_part_of_a_character_is_shown_by_its_name(chat: Chat) -> None:
    texts = [token.text for token in tokens_of(TrainingRow("Say €", "red"), chat)]
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(texts)


def test_figures_cover_all_rows(chat: Chat) -> None:
    long, too_long = TrainingRow("Say red", "red " * 30), TrainingRow("red " * 90, "red")
    inspection = inspect_rows([RED, long, too_long], chat, 20, 1, 0)
    assert (inspection.rows, inspection.truncated, inspection.dropped, inspection.longest, len(inspection.sample)) == (
        2,
        1,
        1,
        20,
        1,
    )
    assert (inspection.one_bos, inspection.end_text) == (2, "<|end|>")
    both = inspect_rows([RED, long], chat, 20, 9, 0).sample
    assert [row.cut for row in both] == [False, True]
    assert inspection.tokens == sum(len(row.tokens) for row in both)
    assert inspection.supervised == sum(token.supervised for row in both for token in row.tokens)


def test_second_bos_is_not_counted_as_one_bos(chat: Chat) -> None:
    assert inspect_rows([RED], replace(chat, system_prompt="<|bos|>"), 100, 1, 0).one_bos == 0


def test_sample_depends_on_the_seed(chat: Chat, rows: list[TrainingRow]) -> None:
    def numbers(seed: int) -> list[int]:
        return [row.number for row in inspect_rows(rows, chat, 128, 4, seed).sample]

    assert numbers(1) == numbers(1) != numbers(2)


def test_no_row_to_train_on_is_an_error(chat: Chat) -> None:
    with pytest.raises(TapirError, match="None of 1 training rows"):
        inspect_rows([RED], chat, 2, 1, 0)
