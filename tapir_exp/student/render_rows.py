"""Training rows as a person checks them: every token, and whether the loss counts it."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

MARKS = {" ": "·", "\n": "⏎\n", "\t": "⇥"}
"""How white space is shown; a new line is broken as well."""
BOUNDARY = "¦"
"""Between two tokens of the prompt; without colour a supervised token has brackets instead."""
SUPERVISED, PROMPT, END = "green", "dim", "bold reverse green"


@dataclass(frozen=True)
class Token:
    """One token of a row.

    text: what it stands for, white space as it is. control: its id where it is a control token.
    supervised: whether the loss counts it. end: whether it is the one that ends the student's turn.
    """

    text: str
    control: int | None
    supervised: bool
    end: bool


@dataclass(frozen=True)
class SampledRow:
    """A row as the student is trained on it. number: its place among the rows that are kept, from 1. cut: whether the
    length limit took the end of its response."""

    number: int
    tokens: tuple[Token, ...]
    cut: bool


@dataclass(frozen=True)
class Inspection:
    """What all rows together are like, and a sample of them.

    rows: those that are trained on. truncated, dropped: those cut at the length limit, and left out for it.
    one_bos: rows with exactly one BOS, at their beginning; None where the tokenizer has none.
    end, end_text: the token that ends the student's turn.
    """

    rows: int
    truncated: int
    dropped: int
    tokens: int
    longest: int
    supervised: int
    one_bos: int | None
    end: int
    end_text: str
    sample: tuple[SampledRow, ...]


def render_row(row: SampledRow, *, coloured: bool) -> Text:
    """The row's header and tokens; the mask is told by colour, or by brackets."""
    supervised = sum(token.supervised for token in row.tokens)
    fate = "cut, without its end" if row.cut else "whole"
    text = Text(f"row {row.number}: {len(row.tokens)} tokens, {supervised} supervised, {fate}\n")
    for token in row.tokens:
        if coloured:
            text.append(BOUNDARY, PROMPT).append(_format_token(token), _style(token))
        else:
            text.append(f"[{_format_token(token)}]" if token.supervised else f"{BOUNDARY}{_format_token(token)}")
    return text


def summary_lines(inspection: Inspection) -> Iterator[str]:
    """The figures of all rows, one a line."""
    told = inspection
    yield f"rows          {told.rows}, of which truncated {told.truncated}; dropped besides {told.dropped}"
    yield f"tokens        mean {told.tokens / told.rows:.1f}, max {told.longest}"
    yield f"supervised    {told.supervised / told.tokens:.1%} of all tokens"
    yield f"BOS           {_format_bos(told)}"
    yield f"end of turn   {told.end} {told.end_text}"


def legend(*, coloured: bool) -> Text:
    """What the colours or brackets mean."""
    if not coloured:
        return Text(f"[supervised] {BOUNDARY}prompt; #id follows a control token, <end the one that ends the turn")
    parts = (("supervised", SUPERVISED), ("prompt", PROMPT), ("end of turn", END))
    return Text("  ").join([*(Text(*part) for part in parts), Text("#id follows a control token")])


def _style(token: Token) -> str:
    if token.end and token.supervised:
        return END
    return SUPERVISED if token.supervised else PROMPT


def _format_token(token: Token) -> str:
    """The token's text with nothing invisible left in it, for nothing in a data set may steer a terminal."""
    text = _escape(token.text)
    if token.control is not None:
        text += f"#{token.control}"
    return f"{text}<end" if token.end and token.supervised else text


def _escape(text: str) -> str:
    return "".join(MARKS.get(sign, sign if sign.isprintable() else f"\\u{ord(sign):04x}") for sign in text)


def _format_bos(told: Inspection) -> str:
    if told.one_bos is None:
        return "the tokenizer has none"
    if told.one_bos == told.rows:
        return "exactly one, at the beginning of every row"
    return f"WRONG: {told.rows - told.one_bos} rows have none, several, or one that is not their beginning"
