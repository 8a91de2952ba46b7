"""Split text into the words and tokens that ROUGE-L, shingles and n-grams are counted in."""

import re

_SINGLE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts written without spaces: Thai, kana and Han."""
_WORD = rf"[{_SINGLE}]|[^\W_{_SINGLE}]+"
_WORDS = re.compile(_WORD)
_TOKENS = re.compile(rf"{_WORD}|[^\w\s]")


def split_words(text: str) -> list[str]:
    """Return the lower-case words and numbers of a text.

    Source: ROUGE (Lin, 2004), which counts a to z and 0 to 9 only. Here other alphabets count too, and each character
    of a script without spaces is a word.
    """
    return _WORDS.findall(text.lower())


def tokenize_text(text: str) -> list[str]:
    """Return the lower-case words, numbers and signs: "2 + 2" and "2 - 2" differ in tokens, not in words."""
    return _TOKENS.findall(text.lower())
