"""What counts as a word, and what as a token."""

import pytest

from tapir_exp.core.text import split_words, tokenize_text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't add 3.5kg, OK?", ["don", "t", "add", "3", "5kg", "ok"]),
        ("snake_case", ["snake", "case"]),
        ("Où est le CAFÉ ?", ["où", "est", "le", "café"]),
        ("Привет, мир", ["привет", "мир"]),
        ("你好 world", ["你", "好", "world"]),
        ("日本語のテスト", list("日本語のテスト")),
        ("?! …", []),
    ],
)
def test_split_words_keeps_letters_and_digits_of_any_script(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_tokenize_text_keeps_signs_and_split_words_does_not() -> None:
    assert split_words("What is 2 + 2?") == split_words("What is 2 - 2")
    assert tokenize_text("2 + 2?") == ["2", "+", "2", "?"]
    assert tokenize_text("2 + 2") != tokenize_text("2 - 2")
