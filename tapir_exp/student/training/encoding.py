"""Rows of token ids, the sequence of batches of a whole fit, and the loader that can stop and go on anywhere."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Subset
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.training.encoded_rows import EncodedRow, write_rows_to_map

ENCODING_BLOCK_ROWS = 1024
"""Rows that are encoded together."""


@dataclass(frozen=True)
class TrainingRow:
    """What the student is trained on: the response to an instruction, and its part in the round's mix."""

    instruction: str
    response: str
    subset: Subset = Subset.REST


@dataclass(frozen=True)
class EncodedDataset:
    """The rows that can be trained on; how many were cut at the length limit, and how many left out for it.

    lengths, targets: tokens of each row, and of these the ones that the loss counts. supervised: targets by part.
    """

    rows: Sequence[EncodedRow]
    lengths: tuple[int, ...]
    targets: tuple[int, ...]
    supervised: Mapping[Subset, int]
    truncated: int
    dropped: int


def encode_rows(
    rows: Sequence[TrainingRow], chat: Chat, max_length: int, max_dropped: float = 1.0, file: Path | None = None
) -> EncodedDataset:
    """Encode rows; the loss will see the response and the end of turn.

    A row longer than `max_length` tokens loses the end of its response; a row whose prompt alone is that long is
    dropped. `file`: where to keep the encoded rows, which are then mapped into memory; None keeps them in it.
    Raises TapirError where nothing is left, or more than a share `max_dropped` of the rows is dropped.
    """
    tally: Counter[str] = Counter()
    lengths: list[int] = []
    targets: list[int] = []
    supervised = dict.fromkeys(Subset, 0)

    def kept() -> Iterator[EncodedRow]:
        for row in _encode(rows, chat):
            if row.prompt >= max_length:
                tally["dropped"] += 1
                continue
            tally["truncated"] += len(row.tokens) > max_length
            cut = replace(row, tokens=row.tokens[:max_length])
            lengths.append(len(cut.tokens))
            targets.append(cut.supervised)
            supervised[cut.subset] += cut.supervised
            yield cut

    found = tuple(kept()) if file is None else write_rows_to_map(kept(), file)
    if not found:
        raise TapirError(f"None of {len(rows)} training rows has a response token within {max_length} tokens.")
    dropped = tally["dropped"]
    if dropped > max_dropped * len(rows):
        raise TapirError(
            f"{dropped} of {len(rows)} training rows have prompts of {max_length} tokens or more, which leaves no "
            f"response to train on: raise student.max_length, or sft.max_drop_rate ({max_dropped:g})."
        )
    return EncodedDataset(found, tuple(lengths), tuple(targets), supervised, tally["truncated"], dropped)


def _encode(rows: Sequence[TrainingRow], chat: Chat) -> Iterator[EncodedRow]:
    """Every row whole, some at a time."""
    for start in range(0, len(rows), ENCODING_BLOCK_ROWS):
        some = rows[start : start + ENCODING_BLOCK_ROWS]
        prompts = chat.encode_prompts([row.instruction for row in some])
        responses = chat.encode_responses([row.response for row in some])
        for prompt, response, row in zip(prompts, responses, some, strict=True):
            yield EncodedRow((*prompt, *response), len(prompt), row.subset)
