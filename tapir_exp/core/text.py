"""Texts as words: what ROUGE-L, shingles and n-grams are counted in. Pure."""

import re

_SINGLE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts written without spaces: Thai, kana, Han."""
_WORD = rf"[{_SINGLE}]|[^\W_{_SINGLE}]+"
_WORDS = re.compile(_WORD)
_TOKENS = re.compile(rf"{_WORD}|[^\w\s]")


def split_words(text: str) -> list[str]:
    """Lower-case words and numbers.

    As ROUGE counts them (Lin 2004), who knew a to z and 0 to 9 alone; here other alphabets have words too, and where
    a script has no spaces every sign is one.
    """
    return _WORDS.findall(text.lower())


def tokenize_text(text: str) -> list[str]:
    """Lower-case words, numbers and signs: "2 + 2" and "2 - 2" have the same words but not the same tokens."""
    return _TOKENS.findall(text.lower())
