"""File names made from text of any origin: overrides, experiments, and the model names in benchmark files."""

import re
from hashlib import sha256

MAX_LENGTH = 120
"""Characters to which a name is cut; a digest then keeps it unique."""
MAX_BYTES = 200
"""Bytes to which a name is cut. File systems allow 255; the rest is for suffixes such as "_single.jsonl.partial"."""
_UNSAFE = re.compile(r"[^\w.=,+-]")
"""Characters that are not safe in a path on every system. The sign of 1e+30 is safe, and must not become another."""
_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])(?:\.|$)", re.IGNORECASE)
"""Names of devices on Windows, with any suffix."""


def file_name(text: str) -> str:
    """Return a text as one path component of at most `MAX_BYTES` bytes.

    A safe text is returned unchanged. In any other, unsafe characters are replaced, and a digest of the text is
    appended, so that different texts have different names.

    Args:
        text: any text, also an empty one, a path, or one with lone surrogates.
    """
    name = _UNSAFE.sub("-", text)[:MAX_LENGTH].encode()[:MAX_BYTES].decode(errors="ignore")
    name = name.strip(".")  # hidden files and "..", and the last dot, which Windows drops
    if _RESERVED.match(name):
        name = f"_{name}"
    if name == text and text:
        return name
    return f"{name}-{text_digest(text)}" if name else text_digest(text)


def text_digest(text: str) -> str:
    """Return eight hexadecimal digits that identify a text."""
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
