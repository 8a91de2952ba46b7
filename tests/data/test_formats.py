"""Rows of Alpaca's format and chats as instruction and response, and the reason why a row is neither."""

from typing import Any

import pytest

from tapir_exp.data.formats import SeedPair, UnusableRow, parse_pair


def read(fields: dict[str, Any]) -> tuple[str, str]:
    pair = parse_pair(fields, 7)
    assert pair == SeedPair(7, pair.instruction, pair.response)
    return pair.instruction, pair.response


def said(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": speaker, "content": text} for speaker, text in turns]}


@pytest.mark.parametrize(
    ("fields", "pair"),
    [
        ({"instruction": "Sort these.", "input": "3 1 2", "output": "1 2 3"}, ("Sort these.\n\n3 1 2", "1 2 3")),
        ({"instruction": "Tell a joke.", "input": "", "output": "No."}, ("Tell a joke.", "No.")),
        ({"instruction": "Sing.", "input": None, "output": "La."}, ("Sing.", "La.")),
        ({"instruction": " Wait.\n", "input": " \n", "output": " Done. "}, ("Wait.", "Done.")),
        ({"instruction": "a", "output": "b", "text": "more", "messages": None}, ("a", "b")),
        (said(("user", "a"), ("assistant", "b")), ("a", "b")),
        (said(("system", "Be brief."), ("user", "a"), ("assistant", "b")), ("Be brief.\n\na", "b")),
        (said(("system", ""), ("user", "a"), ("assistant", "b")), ("a", "b")),
        (said(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), ("a", "b")),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, ("a", "b")),
    ],
)
def test_a_row_in_any_format_is_a_pair(fields: dict[str, Any], pair: tuple[str, str]) -> None:
    assert read(fields) == pair


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"instruction": "", "output": "x"}, "it has no instruction"),
        ({"instruction": None, "output": "x"}, "it has no instruction"),
        ({"instruction": " ", "input": "only this", "output": "x"}, "it has no instruction"),
        ({"instruction": "a", "output": ""}, "it has no response"),
        ({"instruction": "a", "output": None}, "it has no response"),
        ({"instruction": "a", "output": 4}, "its output is no text"),
        ({"instruction": "a", "input": ["b"], "output": "c"}, "its input is no text"),
        ({"prompt": "a", "output": "b"}, "it has no column instruction, and no chat"),
        ({"a": 1}, "it has no column instruction and no column output, and no chat"),
        ({"messages": "user: hi"}, "its messages are no list"),
        ({"messages": []}, "its messages do not begin with the user and a reply"),
        ({"messages": ["hi"]}, "its messages are no turns"),
        (said(("user", "a")), "its messages do not begin with the user and a reply"),
        (said(("assistant", "b"), ("user", "a")), "its messages do not begin with the user and a reply"),
        (said(("user", "a"), ("user", "b"), ("assistant", "c")), "its messages do not begin with the user and a reply"),
        (
            said(("narrator", "a"), ("assistant", "b")),
            "a turn of its messages is nobody's: neither user's nor assistant's nor system's",
        ),
        (said(("system", "s"), ("user", ""), ("assistant", "b")), "it has no instruction"),
        (said(("user", "a"), ("assistant", " ")), "it has no response"),
        (said(("user", ["a"]), ("assistant", "b")), "its turn is no text"),
    ],
)
def test_a_row_that_is_no_pair_says_why(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        read(fields)
    assert str(caught.value) == reason
