"""Encode training rows with the student's chat template."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Subset
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.training.encoded_rows import EncodedRow, MappedRows, open_row_writer

ENCODING_BLOCK_ROWS = 1024
"""Rows that are encoded, and written to a file, together."""


@dataclass(frozen=True)
class TrainingRow:
    """An instruction, the response that the student is trained on, and the part of the mix it belongs to."""

    instruction: str
    response: str
    subset: Subset = Subset.REST


@dataclass(frozen=True)
class EncodedDataset:
    """The rows that fit into the length limit, with their figures.

    Attributes:
        rows: The encoded rows, in the order of the training rows.
        lengths: Tokens of each row.
        supervised_lengths: Supervised tokens of each row.
        supervised: Supervised tokens of each subset.
        truncated: Rows that lost the end of their response.
        dropped: Training rows that are not in `rows`: their prompt leaves no room for a response.
    """

    rows: Sequence[EncodedRow]
    lengths: tuple[int, ...]
    supervised_lengths: tuple[int, ...]
    supervised: Mapping[Subset, int]
    truncated: int
    dropped: int


def encode_rows(
    rows: Sequence[TrainingRow], chat: Chat, max_length: int, max_drop_rate: float = 1.0, file: Path | None = None
) -> EncodedDataset:
    """Encode rows as prompt, response and end of turn.

    Args:
        rows: Rows to encode.
        chat: Chat template and tokenizer of the student.
        max_length: Largest number of tokens of a row. A longer row loses the end of its response, and a row with a
            prompt of this length is dropped.
        max_drop_rate: Largest share of dropped rows.
        file: Arrow file for the encoded rows, which are then memory-mapped. None keeps them in memory.

    Returns:
        The encoded rows and their figures.

    Raises:
        TapirError: If no row remains, or more than `max_drop_rate` of the rows were dropped.
    """
    in_memory: list[EncodedRow] = []
    lengths: list[int] = []
    supervised_lengths: list[int] = []
    supervised = dict.fromkeys(Subset, 0)
    truncated = 0
    # Block by block, so that with a file the memory does not grow with the tokens of the training set.
    with nullcontext(in_memory.extend) if file is None else open_row_writer(file) as write:
        for start in range(0, len(rows), ENCODING_BLOCK_ROWS):
            whole = _encode_block(rows[start : start + ENCODING_BLOCK_ROWS], chat)
            fitting = [row for row in whole if row.prompt < max_length]
            truncated += sum(len(row.tokens) > max_length for row in fitting)
            block = [replace(row, tokens=row.tokens[:max_length]) for row in fitting]
            write(block)
            lengths += [len(row.tokens) for row in block]
            supervised_lengths += [row.supervised for row in block]
            for row in block:
                supervised[row.subset] += row.supervised
    dropped = len(rows) - len(lengths)
    _check_dropped(dropped, len(rows), max_length, max_drop_rate)
    return EncodedDataset(
        rows=tuple(in_memory) if file is None else MappedRows(file),
        lengths=tuple(lengths),
        supervised_lengths=tuple(supervised_lengths),
        supervised=supervised,
        truncated=truncated,
        dropped=dropped,
    )


def _encode_block(rows: Sequence[TrainingRow], chat: Chat) -> list[EncodedRow]:
    """Encode rows without a length limit."""
    prompts = chat.encode_prompts([row.instruction for row in rows])
    responses = chat.encode_responses([row.response for row in rows])
    return [
        EncodedRow((*prompt, *response), len(prompt), row.subset)
        for prompt, response, row in zip(prompts, responses, rows, strict=True)
    ]


def _check_dropped(dropped: int, total: int, max_length: int, max_drop_rate: float) -> None:
    if dropped == total:
        raise TapirError(
            f"None of {total} training rows has a response token within student.max_length={max_length}: "
            "raise student.max_length."
        )
    if dropped > max_drop_rate * total:
        raise TapirError(
            f"{dropped} of {total} training rows have prompts of {max_length} tokens or more, which leaves no "
            f"response to train on: raise student.max_length, or sft.max_drop_rate ({max_drop_rate:g})."
        )
