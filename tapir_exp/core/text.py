"""Split text into words and tokens, and make characters visible that would control a terminal."""

import re

_SINGLE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts written without spaces: Thai, kana and Han."""
_WORD = rf"[{_SINGLE}]|[^\W_{_SINGLE}]+"
_WORDS = re.compile(_WORD)
_TOKENS = re.compile(rf"{_WORD}|[^\w\s]")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""C0 and C1 controls except tab and line feed, marks that reorder text, line separators, and lone surrogates."""


def split_words(text: str) -> list[str]:
    """Return the lower-case words and numbers of a text.

    Source: ROUGE (Lin, 2004), which counts a to z and 0 to 9 only. Here other alphabets count too, and each character
    of a script without spaces is a word.
    """
    return _WORDS.findall(text.lower())


def tokenize_text(text: str) -> list[str]:
    """Return the lower-case words, numbers and signs: "2 + 2" and "2 - 2" differ in tokens, not in words."""
    return _TOKENS.findall(text.lower())


def escape_controls(text: str) -> str:
    """Write control characters and marks of text direction as escapes such as `\\x1b`, so that they act on nothing.

    Tabs and line feeds stay. Text from models, files and paths must pass here before a terminal shows it.
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
