"""Alpaca rows and chats as instruction-response pairs, and the reasons for unusable rows."""

from typing import Any

import pytest

from tapir_exp.core.json_values import Unreadable
from tapir_exp.data.formats import SeedPair, UnusableRow, parse_pair

ROLES = "system, developer, user, human, assistant, gpt, model"
UNKNOWN_ROLE = f"messages has a turn with the unknown role {{}}: expected one of {ROLES}"
IMAGE = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "a"}]
REPLY = [{"role": "assistant", "content": "b"}]
NO_EXCHANGE = "messages does not begin with a user message and a reply"


def read(fields: dict[str, Any]) -> tuple[str, str]:
    pair = parse_pair(fields, 7)
    assert pair == SeedPair(7, pair.instruction, pair.response)
    return pair.instruction, pair.response


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


@pytest.mark.parametrize(
    ("fields", "pair"),
    [
        ({"instruction": "Sort these.", "input": "3 1 2", "output": "1 2 3"}, ("Sort these.\n\n3 1 2", "1 2 3")),
        ({"instruction": "Tell a joke.", "input": "", "output": "No."}, ("Tell a joke.", "No.")),
        ({"instruction": "Sing.", "input": None, "output": "La."}, ("Sing.", "La.")),
        ({"instruction": " Wait.\n", "input": " \n", "output": " Done. "}, ("Wait.", "Done.")),
        ({"instruction": "a", "output": "b", "text": "more", "messages": None}, ("a", "b")),
        (chat(("user", "a"), ("assistant", "b")), ("a", "b")),
        (chat(("system", "Be brief."), ("user", "a"), ("assistant", "b")), ("Be brief.\n\na", "b")),
        (chat(("system", ""), ("user", "a"), ("assistant", "b")), ("a", "b")),
        (chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), ("a", "b")),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, ("a", "b")),
        ({"instruction": "a", "output": "b", "messages": []}, ("a", "b")),
        ({"messages": {"role": ["user", "assistant"], "content": ["a", "b"]}}, ("a", "b")),
        ({"messages": [{"role": None, "from": "human", "content": None, "value": "a"}, *REPLY]}, ("a", "b")),
        (chat(("developer", "Be brief."), ("user", "a"), ("model", "b")), ("Be brief.\n\na", "b")),
        (chat(("user", [{"type": "text", "text": "a"}, {"text": "c"}]), ("assistant", "b")), ("a\nc", "b")),
        (chat(("user", "a"), ("assistant", [{"type": "output_text", "text": "b"}])), ("a", "b")),
        # Turns after the first exchange may hold anything.
        (chat(("user", "a"), ("assistant", "b"), ("tool", "{}"), ("assistant", None)), ("a", "b")),
        (chat(("user", "a"), ("assistant", "b"), ("user", [{"type": "image_url"}])), ("a", "b")),
        (chat(("user", "a"), ("assistant", "b"), ("user", Unreadable("bad"))), ("a", "b")),
        ({"messages": [{"role": "user", "content": "a"}, *REPLY, "junk", None, 3, ["x"]]}, ("a", "b")),
        ({"messages": [{"role": "user", "content": "a"}, *REPLY, {"function_call": "x"}]}, ("a", "b")),
    ],
)
def test_parse_pair_reads_every_format(fields: dict[str, Any], pair: tuple[str, str]) -> None:
    assert read(fields) == pair


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"instruction": "", "output": "x"}, "no instruction"),
        ({"instruction": None, "output": "x"}, "no instruction"),
        ({"instruction": " ", "input": "only this", "output": "x"}, "no instruction"),
        ({"instruction": "a", "output": ""}, "no response"),
        ({"instruction": "a", "output": None}, "no response"),
        ({"instruction": "a", "output": 4}, "output is not text"),
        ({"instruction": "a", "input": ["b"], "output": "c"}, "input is not text"),
        ({"instruction": "a", "b": 1}, "no column of the response, and no chat: the columns are instruction, b"),
        ({"a": 1}, "no column of the instruction and no column of the response, and no chat: the columns are a"),
        ({}, "no column of the instruction and no column of the response, and no chat: the columns are none"),
        ({"messages": "user: hi"}, "messages is not a list"),
        ({"messages": []}, NO_EXCHANGE),
        ({"messages": ["hi"]}, "messages has a turn that is not an object"),
        (chat(("user", "a")), NO_EXCHANGE),
        (chat(("assistant", "b"), ("user", "a")), NO_EXCHANGE),
        (
            chat(("user", "a"), ("user", "b"), ("assistant", "c")),
            NO_EXCHANGE,
        ),
        (
            chat(("narrator", "a"), ("assistant", "b")),
            UNKNOWN_ROLE.format("'narrator'"),
        ),
        (chat(("system", "s"), ("user", ""), ("assistant", "b")), "no instruction"),
        (chat(("user", "a"), ("assistant", " ")), "no response"),
        (chat(("user", ["a"]), ("assistant", "b")), "turn is not text"),
        (chat(("user", "a"), ("assistant", None), ("tool", "{}"), ("assistant", "b")), "no response"),
        (chat(("user", IMAGE), ("assistant", "b")), "turn has a part that is not text: 'image_url'"),
        (chat(("user", [{"type": "text", "text": 1}]), ("assistant", "b")), "turn has a part that is not text"),
        (chat(("user", Unreadable("bad: x")), ("assistant", "b")), "turn is bad: x"),
        (chat(("user", "a"), ("tool", "b")), UNKNOWN_ROLE.format("'tool'")),
        (chat((["user"], "a"), ("assistant", "b")), UNKNOWN_ROLE.format("['user']")),  # type: ignore[arg-type]
        ({"messages": {"role": ["user"], "content": []}}, "messages is not a list"),
        ({"messages": {}}, "messages is not a list"),
        ({"messages": Unreadable("bad: x")}, "messages is bad: x"),
        ({"instruction": Unreadable("bad: x"), "output": "b"}, "instruction is bad: x"),
    ],
)
def test_parse_pair_without_pair_gives_reason(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        read(fields)
    assert str(caught.value) == reason


@pytest.mark.parametrize("instruction", ["instruction", "question", "prompt", "query", "problem"])
@pytest.mark.parametrize("response", ["output", "response", "answer", "completion", "target", "solution"])
def test_columns_are_found_by_their_usual_names(instruction: str, response: str) -> None:
    assert read({"id": 7, response: "b", instruction: "a"}) == ("a", "b")
    assert read({instruction: "a", "context": "c", response: "b"}) == ("a\n\nc", "b")


def test_pairs_of_input_and_output_need_no_instruction() -> None:
    assert read({"input": "a", "output": "b"}) == ("a", "b")


MAP = {"instruction": "frage", "response": "antwort"}


@pytest.mark.parametrize(
    ("columns", "fields", "expected"),
    [
        (MAP, {"frage": "a", "antwort": "b", "prompt": "x", "messages": [1]}, ("a", "b")),
        ({"response": "best"}, {"prompt": "a", "best": "b", "output": "x"}, ("a", "b")),
        ({**MAP, "input": "text"}, {"frage": "a", "text": "c", "antwort": "b"}, ("a\n\nc", "b")),
    ],
)
def test_mapped_columns_take_precedence(
    columns: dict[str, str], fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    pair = parse_pair(fields, 1, columns)
    assert (pair.instruction, pair.response) == expected


def test_mapped_column_that_is_absent_is_named_with_the_columns_found() -> None:
    with pytest.raises(UnusableRow, match=r"^no column frage, and no chat: the columns are question, antwort$"):
        parse_pair({"question": "a", "antwort": "b"}, 1, MAP)


@pytest.mark.parametrize(
    "fields",
    [{"question": "a"}, {"prompt": "a", "output": None}, {"instruction": "a", "answer": " "}, chat(("user", "a"))],
)
def test_missing_response_is_allowed_on_request_only(fields: dict[str, Any]) -> None:
    assert parse_pair(fields, 1, allow_missing_response=True) == SeedPair(1, "a", "")
    with pytest.raises(UnusableRow, match=r"response|reply"):
        parse_pair(fields, 1)


def test_missing_response_of_a_mapped_column_is_a_mistake_of_the_map() -> None:
    with pytest.raises(UnusableRow, match="no column antwort"):
        parse_pair({"frage": "a"}, 1, MAP, allow_missing_response=True)
