"""Inspect the rows of a fit: their tokens, with the labels that the loss gets."""

from collections.abc import Sequence
from random import Random

from tapir_exp.student.chat_template import Chat
from tapir_exp.student.render_rows import Inspection, SampledRow, Token
from tapir_exp.student.training.encoded_rows import EncodedRow
from tapir_exp.student.training.encoding import TrainingRow, encode_rows
from tapir_exp.student.training.packed_rows import pack_rows

ANCHOR = "a"
"""A text to decode before each token, since some tokenizers strip white space at the beginning of a text."""


def inspect_rows(rows: Sequence[TrainingRow], chat: Chat, max_length: int, num_sampled: int, seed: int) -> Inspection:
    """Encode the rows as a fit does, and return their figures with a sample of them.

    Args:
        rows: The rows before encoding.
        chat: Tokenizer and conversation format of the student.
        max_length: Longest row in tokens.
        num_sampled: Rows in the sample, if there are as many.
        seed: Seed of the sample.

    Raises:
        TapirError: No row can be trained on.
    """
    encoded = encode_rows(rows, chat, max_length)
    used = encoded.rows
    sample = sorted(Random(f"inspect {seed}").sample(range(len(used)), min(num_sampled, len(used))))
    return Inspection(
        rows=len(used),
        truncated=encoded.truncated,
        dropped=encoded.dropped,
        tokens=sum(len(row.tokens) for row in used),
        longest=max(len(row.tokens) for row in used),
        supervised=sum(row.supervised for row in used),
        one_bos=_count_one_bos(used, chat.tokenizer.bos_token_id),
        end=chat.end,
        end_text=str(chat.tokenizer.convert_ids_to_tokens(chat.end)),
        sample=tuple(_inspect_row(used[index], index + 1, chat) for index in sample),
    )


def _inspect_row(row: EncodedRow, number: int, chat: Chat) -> SampledRow:
    # The labels come from the positions that a batch gives to the loss, not from the fields of the row.
    supervised = {position + 1 for position in pack_rows([row]).predictor_positions}
    tokens = (_inspect_token(token, chat, index in supervised) for index, token in enumerate(row.tokens))
    return SampledRow(number, tuple(tokens), cut=row.tokens[-1] != chat.end)


def _inspect_token(token: int, chat: Chat, supervised: bool) -> Token:
    name = str(chat.tokenizer.convert_ids_to_tokens(token))
    if name in chat.control_tokens:
        return Token(name, token, supervised, token == chat.end)
    anchor = chat.tokenizer(ANCHOR, add_special_tokens=False)["input_ids"]
    text = str(chat.tokenizer.decode([*anchor, token], clean_up_tokenization_spaces=False)).removeprefix(ANCHOR)
    # A token that is part of a character decodes to the replacement character, so its name is shown instead.
    return Token(name if "\N{REPLACEMENT CHARACTER}" in text else text, None, supervised, token == chat.end)


def _count_one_bos(rows: Sequence[EncodedRow], bos: int | None) -> int | None:
    """Count the rows that begin with BOS and have no other; None for a tokenizer without BOS."""
    if bos is None:
        return None
    return sum(row.tokens[0] == bos and row.tokens.count(bos) == 1 for row in rows)
