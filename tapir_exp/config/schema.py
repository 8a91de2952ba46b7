"""Look up the keys of a tree of config dataclasses, and the type of each."""

import types
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

WORDS = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}
FEW = 20
"""Largest number of choices that a message lists if none is similar to a misspelt one."""


@dataclass(frozen=True)
class Key:
    """Type of a dotted key, and whether it must be set."""

    hint: Any
    required: bool

    @property
    def section(self) -> type | None:
        """Return the dataclass of a section, also of one that may be null; None for a leaf."""
        return next((part for part in (self.hint, *get_args(self.hint)) if _is_section(part)), None)


class Schema:
    """Keys below a root dataclass, sections included, by dotted name."""

    def __init__(self, root: type) -> None:
        self.keys = {"": Key(root, required=True), **dict(_walk(root, ""))}

    def names(self, section: str) -> tuple[str, ...]:
        """Return the names of the keys of a section; of the root for ''."""
        found = self.keys[section].section
        assert found is not None
        return tuple(item.name for item in fields(found))

    def is_section(self, key: str) -> bool:
        """Return whether a dotted key holds further keys; an optional section may be null instead."""
        return key in self.keys and self.keys[key].section is not None

    def optional_sections(self, key: str) -> list[str]:
        """Return the sections above a dotted key that may be null, the outermost first."""
        parts = key.split(".")
        sections = (".".join(parts[:length]) for length in range(1, len(parts)))
        return [name for name in sections if self.is_section(name) and not is_dataclass(self.keys[name].hint)]

    def set_sections_above(self, key: str, typed: DictConfig) -> None:
        """Give null sections above a key their default values, since a key below null cannot be set."""
        for above in self.optional_sections(key):
            if OmegaConf.select(typed, above) is None:
                OmegaConf.update(typed, above, OmegaConf.structured(self.keys[above].section), merge=False)

    def is_mapping(self, key: str) -> bool:
        """Return whether a dotted key holds a dict, which accepts any key."""
        hint = self.keys[key].hint if key in self.keys else None
        return any(get_origin(part) is dict for part in (hint, *get_args(hint)))

    def expects(self, key: str) -> str:
        """Describe the type of a key."""
        if key in self.keys:
            return in_words(self.keys[key].hint)
        parent = self.keys.get(key.rpartition(".")[0])
        hints = [] if parent is None else [parent.hint, *get_args(parent.hint)]
        inner = [get_args(hint)[-1] for hint in hints if get_origin(hint) is dict]
        return in_words(inner[0]) if inner else "a key of the schema"

    def suggest(self, key: str) -> str:
        """Return ` (did you mean ...?)` for an unknown dotted key: a key of its section, or of that name elsewhere."""
        section = ""
        for name in key.split("."):
            known = self.names(section)
            if name not in known:
                elsewhere = [other for other in self.keys if other.rpartition(".")[2] == key.rpartition(".")[2]]
                return did_you_mean(name, known, f"{section}." if section else "", fallback=elsewhere)
            section = f"{section}.{name}" if section else name
            if not self.is_section(section):
                break
        return ""


def did_you_mean(word: str, choices: Collection[str], prefix: str = "", fallback: Collection[str] = ()) -> str:
    """Return ` (did you mean ...?)` with a similar choice or a fallback, else the choices if they are few."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = [prefix + by_lower[match] for match in get_close_matches(word.lower(), list(by_lower), n=1)] or list(
        fallback
    )
    if near:
        return f" (did you mean {' or '.join(near[:3])}?)"
    return f" (choices: {', '.join(choices)})" if 0 < len(choices) <= FEW else ""


def in_words(hint: Any) -> str:
    """Describe a type for a person who writes YAML."""
    if get_origin(hint) in (types.UnionType, Union):
        return " or ".join(in_words(arg) for arg in get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(member.name for member in hint)
    if get_origin(hint) is list:
        return "a list"
    if get_origin(hint) is dict or is_dataclass(hint):
        return "a mapping"
    return WORDS.get(hint, str(hint))


def _walk(section: type, prefix: str) -> Iterator[tuple[str, Key]]:
    hints = get_type_hints(section)
    for item in fields(section):
        key, hint = f"{prefix}{item.name}", hints[item.name]
        known = Key(hint, required=item.default is MISSING)
        yield key, known
        if (inner := known.section) is not None:
            yield from _walk(inner, f"{key}.")


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)
