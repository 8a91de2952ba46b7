"""The rows of a fit, taken apart into tokens, with the labels that the loss sees."""

from collections.abc import Sequence
from random import Random

from tapir_exp.student.chat_template import Chat
from tapir_exp.student.render_rows import Inspection, SampledRow, Token
from tapir_exp.student.training.batching import collate
from tapir_exp.student.training.encoded_rows import EncodedRow
from tapir_exp.student.training.encoding import TrainingRow, encode_rows

ANCHOR = "a"
"""A token is decoded behind this text, since some tokenizers strip the white space of what comes first."""


def inspect_rows(rows: Sequence[TrainingRow], chat: Chat, max_length: int, sampled: int, seed: int) -> Inspection:
    """Encode the rows as a fit does, count what they are like, and take some of them apart.

    sampled: how many; the same seed takes the same. Raises TapirError where no row can be trained on.
    """
    encoded = encode_rows(rows, chat, max_length)
    kept = encoded.rows
    places = sorted(Random(f"inspect {seed}").sample(range(len(kept)), min(sampled, len(kept))))
    return Inspection(
        rows=len(kept),
        truncated=encoded.truncated,
        dropped=encoded.dropped,
        tokens=sum(len(row.tokens) for row in kept),
        longest=max(len(row.tokens) for row in kept),
        supervised=sum(row.supervised for row in kept),
        one_bos=_count_one_bos(kept, chat.tokenizer.bos_token_id),
        end=chat.end,
        end_text=str(chat.tokenizer.convert_ids_to_tokens(chat.end)),
        sample=tuple(_inspect_row(kept[place], place + 1, chat) for place in places),
    )


def _inspect_row(row: EncodedRow, number: int, chat: Chat) -> SampledRow:
    """The mask comes from the batch that the loss would get, not from the row's own bookkeeping."""
    counted = set((collate([row]).before + 1).tolist())
    tokens = (_inspect_token(token, chat, place in counted) for place, token in enumerate(row.tokens))
    return SampledRow(number, tuple(tokens), cut=row.tokens[-1] != chat.end)


def _inspect_token(token: int, chat: Chat, supervised: bool) -> Token:
    name = str(chat.tokenizer.convert_ids_to_tokens(token))
    if name in chat.control_tokens:
        return Token(name, token, supervised, token == chat.end)
    anchor = chat.tokenizer(ANCHOR, add_special_tokens=False)["input_ids"]
    text = str(chat.tokenizer.decode([*anchor, token], clean_up_tokenization_spaces=False)).removeprefix(ANCHOR)
    return Token(name if "\N{REPLACEMENT CHARACTER}" in text else text, None, supervised, token == chat.end)


def _count_one_bos(rows: Sequence[EncodedRow], bos: int | None) -> int | None:
    """How many rows begin with BOS and have no other; None for a tokenizer without one."""
    if bos is None:
        return None
    return sum(row.tokens[0] == bos and row.tokens.count(bos) == 1 for row in rows)
