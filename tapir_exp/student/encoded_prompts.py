"""Token ids of many prompts in one array: 4 bytes a token, where lists of integers would take 8 to 36."""

from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import overload

from tapir_exp.student.chat_template import Chat

BLOCK_ROWS = 1024
"""Prompts that are encoded together; a tokenizer's output takes kilobytes a row until it is copied."""


class EncodedPrompts(Sequence[list[int]]):
    """Token ids of prompts, each a list on access."""

    def __init__(self) -> None:
        self._tokens = array("i")
        self._ends = array("q", [0])

    def append(self, tokens: Sequence[int]) -> None:
        """Add the next prompt."""
        self._tokens.extend(tokens)
        self._ends.append(len(self._tokens))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt."""
        return [end - start for start, end in pairwise(self._ends)]

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return self._tokens[self._ends[number] : self._ends[number + 1]].tolist()


def encode_in_blocks(chat: Chat, instructions: Sequence[str]) -> EncodedPrompts:
    """Return the token ids of each prompt, as `Chat.encode_prompts` does for all at once."""
    encoded = EncodedPrompts()
    for start in range(0, len(instructions), BLOCK_ROWS):
        for tokens in chat.encode_prompts(instructions[start : start + BLOCK_ROWS]):
            encoded.append(tokens)
    return encoded
