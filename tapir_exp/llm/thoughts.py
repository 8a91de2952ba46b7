"""Thoughts that a reasoning model writes before or between the parts of its reply."""

import re

MAX_BLOCKS = 100
"""A reply with more blocks of thoughts has no answer."""
_ALWAYS = r"think|thinking|antthinking|seed:think|longcat_think|ifm\|think|think_fast"
"""Tags that are removed in the middle of a reply, too; the others are only known at its start."""
_NAMES = rf"{_ALWAYS}|thoughts?|thought_process|reasoning|reflection|scratchpad|inner_thoughts|internal_monologue"
_ANY_OPEN = rf"<(?:{_ALWAYS})>|\[think\]|◁think▷|<\|START_THINKING\|>"
_ANY_CLOSE = rf"</(?:{_ALWAYS})>|\[/think\]|◁/think▷|<\|END_THINKING\|>|<\|end_of_thought\|>"
_OPEN = re.compile(
    rf"\s*(?:\ufeff\s*)?(?:<(?:{_NAMES})(?:\s[^<>]{{0,80}})?>|{_ANY_OPEN}|<\|begin_of_thought\|>"
    r"|<\|channel\|>analysis<\|message\|>|<unused94>(?:thought)?)",
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"(?<![`'\"])(?:</(?:{_NAMES})>|{_ANY_CLOSE}|<unused95>"
    r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>)(?![`'\"])",
    re.IGNORECASE,
)
_INNER_OPEN = re.compile(rf"(?<![`'\"])(?:{_ANY_OPEN})(?![`'\"])", re.IGNORECASE)
_LONE_CLOSE = re.compile(rf"(?<![`'\"])(?:{_ANY_CLOSE})(?![`'\"])", re.IGNORECASE)
_ANSWER_MARKS = re.compile(r"<\|(?:(?:begin|end)_of_solution|(?:START|END)_RESPONSE|return|end)\|>")
"""Marks around the answer under the templates that mark thoughts by special tokens."""
_FENCE = re.compile(r"^[ \t]*(```|~~~)", re.MULTILINE)


def split_thoughts(text: str) -> tuple[str, str]:
    """Split a reply into its thoughts and its answer.

    Thoughts are blocks such as `<think>...</think>` at the start, or at the start of a later line. Everything after a
    tag that is never closed also belongs to them, and everything before a closing tag without an opening one. Tags in
    code or within quotation marks belong to the answer.

    Returns:
        Thoughts, empty if there are none, and the answer. A reply without thoughts is returned unchanged.
    """
    # Every tag has one of these; most replies have none, and the expressions below take longer than the rest of a call.
    if "<" not in text and "[" not in text and "◁" not in text:
        return "", text
    thoughts: list[str] = []
    rest = text
    while match := _OPEN.match(rest):
        inside, rest = _close(rest[match.end() :])
        thoughts.append(inside)
    close, opening = _find(_LONE_CLOSE, rest), _find(_INNER_OPEN, rest)
    if close and (opening is None or close.start() < opening.start()):
        # Chat templates that write the opening tag into the prompt leave the closing one only.
        thoughts.append(rest[: close.start()])
        rest = rest[close.end() :]
    while (match := _find(_INNER_OPEN, rest)) is not None:
        if len(thoughts) > MAX_BLOCKS:
            return text, ""
        inside, after = _close(rest[match.end() :])
        line = rest[: match.start()].rpartition("\n")[2]
        if line.strip() and not _CLOSE.search(rest, match.end()):  # prose about the tag
            break
        thoughts.append(inside)
        before, after = rest[: match.start()].rstrip(), after.lstrip()
        gap = " " if line.strip() else "\n\n"
        rest = f"{before}{gap}{after}" if before and after else before + after
    if not thoughts:
        return "", text
    # Templates with special tokens mark the answer, too.
    return "\n\n".join(part for inside in thoughts if (part := inside.strip())) or "(empty)", (
        _ANSWER_MARKS.sub("", rest).strip()
    )


def join_thoughts(thoughts: str, answer: str) -> str:
    """Return one text of thoughts and answer, in the form that most reasoning models write."""
    return f"<think>\n{thoughts.strip()}\n</think>\n\n{answer}"


def _close(text: str) -> tuple[str, str]:
    """Return what is before and after the closing tag; everything is before it if there is none."""
    end = 0
    while close := _CLOSE.search(text, end):
        end = close.end()
        # A block within the block has a closing tag of its own.
        inner = len(_INNER_OPEN.findall(text, 0, close.start())) - len(_CLOSE.findall(text, 0, close.start()))
        if inner <= 0 or not _CLOSE.search(text, end):
            return text[: close.start()], text[end:]
    return text, ""


def _find(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Return the first match that is in no code block."""
    fences = [fence.start() for fence in _FENCE.finditer(text)]
    for match in pattern.finditer(text):
        # An odd number of fences before a match means that a block is open.
        if sum(fence < match.start() for fence in fences) % 2 == 0:
            return match
    return None
