"""Ratings of complexity: one number and nothing else, or none at all."""

import pytest
from fakes import ScriptedChat, example, reply_of, said_to, tagged

from tapir_exp.complexity import rate, read_rating
from tapir_exp.config import JudgeConfig
from tapir_exp.errors import ReplyError, TooManyFailures


def test_every_instruction_gets_its_rating_in_order() -> None:
    ratings = {"easy": "1", "middling": " 5.5\n", "hard": "10"}
    chat = ScriptedChat(lambda request: ratings[tagged(said_to(request), "instruction")[0]])
    found = rate([example(name) for name in ("hard", "easy", "middling")], chat, JudgeConfig(), "rating")
    assert found == [10.0, 1.0, 5.5]


@pytest.mark.parametrize(
    "text", ["", "7/10", "0", "11", "10.5", "-3", "On a scale of 0-9, a 7.", "7 8", "seven", "nan"]
)
def test_anything_but_one_number_of_the_scale_is_refused(text: str) -> None:
    with pytest.raises(ReplyError, match="one number from 1 to 10"):
        read_rating(reply_of(text))


def test_a_missing_rating_is_none_and_never_a_number() -> None:
    chat = ScriptedChat(lambda request: "hard to say" if "odd" in said_to(request) else "4")
    config = JudgeConfig(max_failed=0.5)
    assert rate([example("odd"), example("even")], chat, config, "rating") == [None, 4.0]
    with pytest.raises(TooManyFailures):
        rate([example("odd"), example("odd one")], chat, JudgeConfig(max_failed=0.0), "rating")
