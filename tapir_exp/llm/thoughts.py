"""Thoughts that a reasoning model writes before or between the parts of its reply."""

import re

_NAMES = (
    "think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think|ifm\\|think|longcat_think|think_fast"
)
_ALWAYS = "think|thinking|seed:think|longcat_think"
"""Tags that are removed in the middle of a reply, too; the others are only known at its start."""
_OPEN = re.compile(
    rf"\s*(?:\ufeff\s*)?(?:<({_NAMES})(?:\s[^<>]{{0,80}})?>|\[(think)\]|◁(think)▷|<\|begin_of_(thought)\|>"
    r"|<\|channel\|>(analysis)<\|message\|>|<unused94>(thought)?)",
    re.IGNORECASE,
)
_INNER_OPEN = re.compile(rf"^[ \t]*(?:<({_ALWAYS})>|\[(think)\]|◁(think)▷)", re.IGNORECASE | re.MULTILINE)
_CLOSE = re.compile(
    rf"(?<![`'\"])(?:</(?:{_NAMES})>|\[/think\]|◁/think▷|<\|end_of_thought\|>|<unused95>"
    r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>)(?![`'\"])",
    re.IGNORECASE,
)
_LONE_CLOSE = re.compile(
    rf"(?<![`'\"])(?:</(?:{_ALWAYS})>|\[/think\]|◁/think▷|<\|end_of_thought\|>)(?![`'\"])", re.IGNORECASE
)
_ANSWER_MARKS = re.compile(r"<\|(?:begin_of_solution|end_of_solution|return|end)\|>")
"""Marks around the answer under the templates that mark thoughts by special tokens."""
_FENCE = re.compile(r"^[ \t]*(```|~~~)", re.MULTILINE)


def split_thoughts(text: str) -> tuple[str, str]:
    """Split a reply into its thoughts and its answer.

    Thoughts are blocks such as `<think>...</think>` at the start, or at the start of a later line; everything after a
    tag that is never closed; and everything before a closing tag without an opening one. Tags in code or within
    quotation marks belong to the answer.

    Returns:
        Thoughts, empty if there are none, and the answer. A reply without thoughts is returned unchanged.
    """
    thoughts: list[str] = []
    rest, special = text, False
    while match := _OPEN.match(rest):
        special = special or "|" in match.group() or "unused" in match.group()
        inside, rest = _close(rest[match.end() :])
        thoughts.append(inside)
    if not thoughts and (lone := _find_outside_code(_LONE_CLOSE, rest)):
        thoughts.append(rest[: lone.start()])
        special, rest = "|" in lone.group(), rest[lone.end() :]
    while match := _find_outside_code(_INNER_OPEN, rest):
        inside, after = _close(rest[match.end() :])
        thoughts.append(inside)
        before, after = rest[: match.start()].rstrip(), after.lstrip()
        rest = f"{before}\n\n{after}" if before and after else before + after
    if not thoughts:
        return "", text
    if special:
        rest = _ANSWER_MARKS.sub("", rest)
    return "\n\n".join(part for inside in thoughts if (part := inside.strip())) or "(empty)", rest.strip()


def join_thoughts(thoughts: str, answer: str) -> str:
    """Return one text of thoughts and answer, in the form that most reasoning models write."""
    return f"<think>\n{thoughts.strip()}\n</think>\n\n{answer}"


def _close(text: str) -> tuple[str, str]:
    """Return what is before and after the first closing tag; everything is before it if there is none."""
    close = _CLOSE.search(text)
    return (text[: close.start()], text[close.end() :]) if close else (text, "")


def _find_outside_code(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Return the first match that is in no code block."""
    fences = [fence.start() for fence in _FENCE.finditer(text)]
    for match in pattern.finditer(text):
        # An odd number of fences before a match means that a block is open.
        if sum(fence < match.start() for fence in fences) % 2 == 0:
            return match
    return None
