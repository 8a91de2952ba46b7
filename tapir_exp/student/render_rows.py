"""Render inspected training rows for a terminal: every token, and whether the loss counts it."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

WHITE_SPACE = {" ": "·", "\n": "⏎\n", "\t": "⇥"}
"""Visible forms of white space; a new line also breaks the line."""
BOUNDARY = "¦"
"""Mark between two prompt tokens. Without colour, supervised tokens are in brackets instead."""
SUPERVISED, PROMPT, END = "green", "dim", "bold reverse green"


@dataclass(frozen=True)
class Token:
    """One token of a row.

    Attributes:
        text: Text of the token, with white space as it is.
        control: Id of a control token; None for any other token.
        supervised: True if the loss counts the token.
        end: True if the token ends the student's turn.
    """

    text: str
    control: int | None
    supervised: bool
    end: bool


@dataclass(frozen=True)
class SampledRow:
    """A row as the student is trained on it.

    Attributes:
        number: Number of the row among the training rows, from 1.
        tokens: Its tokens.
        cut: True if the length limit removed the end of its response.
    """

    number: int
    tokens: tuple[Token, ...]
    cut: bool


@dataclass(frozen=True)
class Inspection:
    """Figures of all rows of a fit, and a sample of them.

    Attributes:
        rows: Training rows.
        truncated: Training rows that were cut at the length limit.
        dropped: Rows that were dropped because of the length limit.
        tokens: Tokens of all training rows.
        longest: Tokens of the longest row.
        supervised: Tokens that the loss counts.
        one_bos: Rows with exactly one BOS, at their beginning; None if the tokenizer has no BOS.
        end: Id of the token that ends the student's turn.
        end_text: Text of that token.
        sample: The sampled rows.
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
    """Render a row's header and tokens; colour or brackets mark the supervised tokens."""
    supervised = sum(token.supervised for token in row.tokens)
    state = "cut, without its end" if row.cut else "complete"
    text = Text(f"row {row.number}: {len(row.tokens)} tokens, {supervised} supervised, {state}\n")
    for token in row.tokens:
        if coloured:
            text.append(BOUNDARY, PROMPT).append(_format_token(token), _style(token))
        else:
            text.append(f"[{_format_token(token)}]" if token.supervised else f"{BOUNDARY}{_format_token(token)}")
    return text


def summary_lines(inspection: Inspection) -> Iterator[str]:
    """Yield the figures of all rows, one per line."""
    rows, tokens = inspection.rows, inspection.tokens
    yield f"rows          {rows} ({inspection.truncated} truncated), {inspection.dropped} more dropped"
    yield f"tokens        mean {tokens / rows:.1f}, max {inspection.longest}"
    yield f"supervised    {inspection.supervised / tokens:.1%} of all tokens"
    yield f"BOS           {_format_bos(inspection)}"
    yield f"end of turn   {inspection.end} {inspection.end_text}"


def legend(*, coloured: bool) -> Text:
    """Return the explanation of the colours or brackets."""
    if not coloured:
        return Text(f"[supervised] {BOUNDARY}prompt; #id follows a control token, <end the token that ends the turn")
    parts = (("supervised", SUPERVISED), ("prompt", PROMPT), ("end of turn", END))
    return Text("  ").join([*(Text(*part) for part in parts), Text("#id follows a control token")])


def _style(token: Token) -> str:
    # Prompts hold ends of turn too, but training does not supervise those.
    if token.end and token.supervised:
        return END
    return SUPERVISED if token.supervised else PROMPT


def _format_token(token: Token) -> str:
    text = _escape(token.text)
    if token.control is not None:
        text += f"#{token.control}"
    return f"{text}<end" if token.end and token.supervised else text


def _escape(text: str) -> str:
    """Replace invisible characters, since terminal control sequences in a data set must not reach the terminal."""
    return "".join(WHITE_SPACE.get(char, char if char.isprintable() else f"\\u{ord(char):04x}") for char in text)


def _format_bos(inspection: Inspection) -> str:
    if inspection.one_bos is None:
        return "the tokenizer has none"
    if inspection.one_bos == inspection.rows:
        return "exactly one, at the beginning of every row"
    return f"WRONG: {inspection.rows - inspection.one_bos} rows do not have exactly one BOS, at their beginning"
