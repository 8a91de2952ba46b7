"""Rows of one forward pass, one after another, with the positions that the loss counts: plain lists, without torch."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from tapir_exp.core.records import Subset
from tapir_exp.student.training.encoded_rows import EncodedRow


class PackedRows(NamedTuple):
    """Rows as one sequence.

    Attributes:
        lengths: Tokens of each row.
        tokens: Ids of all rows.
        predictor_positions: Positions of the tokens that precede supervised ones and predict them.
        targets: Ids of the supervised tokens.
        hard: Whether a supervised token belongs to the hard subset.
    """

    lengths: list[int]
    tokens: list[int]
    predictor_positions: list[int]
    targets: list[int]
    hard: list[bool]


def pack_rows(rows: Sequence[EncodedRow]) -> PackedRows:
    """Pack rows into one sequence."""
    lengths = [len(row.tokens) for row in rows]
    ends = list(accumulate(lengths))
    # The token at position i predicts the one at i + 1, so the positions are shifted by one.
    predictors = [
        position for row, end in zip(rows, ends, strict=True) for position in range(end - row.supervised - 1, end - 1)
    ]
    return PackedRows(
        lengths,
        tokens=[token for row in rows for token in row.tokens],
        predictor_positions=predictors,
        targets=[token for row in rows for token in row.tokens[row.prompt :]],
        hard=[row.subset is Subset.HARD for row in rows for _ in range(row.supervised)],
    )
