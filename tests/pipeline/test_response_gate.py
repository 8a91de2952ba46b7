"""The judge is not asked about responses that are nearly all empty or cut."""

from dataclasses import replace

import pytest
from composing import compose_config

from tapir_exp.config import Config
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Response
from tapir_exp.pipeline.response_gate import FIRST, ResponseGate, check_responses


@pytest.fixture(scope="module")
def config() -> Config:
    whole = compose_config()
    return replace(whole, judge=replace(whole.judge, max_unusable_responses=0.9))


def responses(count: int, text: str | None, *, finished: bool = True) -> list[Response]:
    return [Response(id=f"{text}{finished}{n}", text=text, finished=finished) for n in range(count)]


GOOD, EMPTY, BLANK, CUT = responses(1, "a"), responses(9, ""), responses(9, " \n"), responses(9, "a", finished=False)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (EMPTY, ["9 of 9 responses are empty and 0 are cut", "student.chat_template (now tokenizer)"]),
        (BLANK, ["9 of 9 responses are empty"]),
        (responses(9, None), ["9 of 9 responses are empty"]),
        (CUT, ["0 of 9 responses are empty and 9 are cut", "student.max_new_tokens (now 96)"]),
        ([*EMPTY, *CUT, *GOOD], ["9 of 19", "9 are cut", "at most 90%", "max_unusable_responses=1"]),
    ],
)
def test_nearly_all_unusable_stops_with_a_remedy(config: Config, rows: list[Response], words: list[str]) -> None:
    with pytest.raises(TapirError) as caught:
        check_responses(rows, config, "S_0")
    assert [word for word in ["S_0", "judge was not asked", *words] if word not in str(caught.value)] == []


@pytest.mark.parametrize("rows", [[], GOOD, [*CUT, *GOOD]])
def test_at_most_the_share_passes(config: Config, rows: list[Response]) -> None:
    check_responses(rows, config, "S_0")
    everything = replace(config, judge=replace(config.judge, max_unusable_responses=1.0))
    check_responses([*rows, *EMPTY], everything, "S_0")


def test_gate_holds_back_until_the_first_are_known(config: Config) -> None:
    asked: list[Response] = []
    gate = ResponseGate(config, "S_0", 100, asked.append)
    rows = responses(FIRST + 2, "a")
    for number, row in enumerate(rows, 1):
        gate.add(row)
        assert len(asked) == (0 if number < FIRST else number)
    assert asked == rows


def test_gate_asks_nothing_if_the_first_are_cut(config: Config) -> None:
    asked: list[Response] = []
    gate = ResponseGate(config, "S_0", 100, asked.append)
    *first, last = responses(FIRST, "a", finished=False)
    for row in first:
        gate.add(row)
    with pytest.raises(TapirError, match="20 are cut"):
        gate.add(last)
    assert asked == []


def test_gate_of_few_responses_opens_at_the_last(config: Config) -> None:
    asked: list[Response] = []
    gate = ResponseGate(config, "S_0", 3, asked.append)
    for row in responses(3, "a"):
        gate.add(row)
    assert len(asked) == 3
